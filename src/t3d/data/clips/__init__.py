"""From videos to batches: which frames, which views, in which order."""
