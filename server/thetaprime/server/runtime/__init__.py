"""The life of the server process: start, background tasks, drain, workers."""
