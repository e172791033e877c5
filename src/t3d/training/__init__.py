"""What every run shares (config, loop, step, optimizer, checkpoint, log), and the supervised run."""
