"""Tables of videos: labels, time spans, sources, and how to split them."""
