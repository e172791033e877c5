"""Many processes: a watched pool on this machine, or tasks on a Ray cluster."""
