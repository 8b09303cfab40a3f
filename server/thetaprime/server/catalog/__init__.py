"""The meta-policies that the server serves."""
