"""One video file: exact frames, its frame table, and writing new files."""
