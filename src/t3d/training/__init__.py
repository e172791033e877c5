"""Supervised runs, and what every run shares: config, loop, step, optimizer, checkpoint, log."""
