"""Benchmarks of `t3d bench`: time, memory and work, compared with plain reference networks."""
