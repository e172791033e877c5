"""Classify live sources: cameras and streams."""
