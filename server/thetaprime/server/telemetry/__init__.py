"""What the server tells its operators: metrics, health, traces."""
