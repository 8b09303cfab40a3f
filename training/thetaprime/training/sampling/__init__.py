"""Collecting trajectories of many tasks at once."""
