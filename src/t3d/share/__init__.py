"""Sharing of models: model cards, folders and repositories with everything that others need."""
