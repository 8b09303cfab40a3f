"""Channels, credentials, deadlines and uploads."""
