"""The official lists of UCF101, HMDB51 and Kinetics."""
