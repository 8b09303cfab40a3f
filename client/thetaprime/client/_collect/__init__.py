"""Collecting trajectories from environments and datasets."""
