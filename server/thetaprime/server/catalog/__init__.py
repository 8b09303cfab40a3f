"""The meta-policies that the server offers, and the watcher of their folders."""
