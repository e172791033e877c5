"""Bytes: files that appear whole, downloads, archives, shards and their local copies."""
