"""The synchronous client, generated from ``_async`` by ``make sync-client``; ``runtime`` is written by hand."""
