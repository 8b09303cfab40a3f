"""Telemetry: metrics, health checks and traces."""
