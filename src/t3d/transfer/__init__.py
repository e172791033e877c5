"""Supervision transfer: a frozen 2D net teaches a 3D net from unlabeled videos."""
