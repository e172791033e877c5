"""Bulk work in many processes: a supervised pool on this machine, or tasks on a Ray cluster."""
