"""A server of several worker processes on one address and one store, with a supervisor that takes no calls."""
