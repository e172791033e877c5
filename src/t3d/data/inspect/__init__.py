"""Look at a data set: counts, near-duplicates, what lists share, a page to browse."""
