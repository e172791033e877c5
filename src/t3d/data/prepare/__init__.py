"""What is done to a data set once, before anybody learns from it."""
