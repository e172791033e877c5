"""Exported models: files that other programs compute, checked against the network that they are from."""
