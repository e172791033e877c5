"""Frozen 2D networks that teach."""
