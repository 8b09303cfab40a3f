"""Sampling of trajectories, many tasks side by side."""
