"""Inspect a data set: counts, near-duplicates, overlap between lists, a page to browse."""
