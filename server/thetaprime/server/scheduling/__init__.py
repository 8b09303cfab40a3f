"""Shares threads, memory and adaptation steps between tenants."""
