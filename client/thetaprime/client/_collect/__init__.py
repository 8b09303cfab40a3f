"""Collects trajectories from environments, and reads and writes datasets of trajectories."""
