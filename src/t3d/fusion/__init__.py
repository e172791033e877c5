"""Averages of the class probabilities of several models."""
