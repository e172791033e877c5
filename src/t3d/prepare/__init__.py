"""Prepare a data set once: download, index, transcode, pack into shards."""
