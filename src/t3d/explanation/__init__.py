"""Explanations of decisions: heat maps, frames that matter, and temporal depths."""
