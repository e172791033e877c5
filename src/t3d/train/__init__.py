"""Training: configuration, loop, optimiser, checkpoints, logs."""
