"""Web page and API that classify videos of visitors."""
