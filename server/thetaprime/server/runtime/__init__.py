"""The server process: startup, background tasks, draining, workers."""
