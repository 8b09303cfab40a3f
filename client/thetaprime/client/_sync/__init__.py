"""The client as functions that block: generated from ``_async`` by ``make sync-client``, but for ``runtime``."""
