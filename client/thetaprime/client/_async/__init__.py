"""The asynchronous client, from which ``make sync-client`` generates ``_sync``.

The generated code lacks ``async`` and ``await``: the synchronous client calls gRPC's blocking stubs without an event
loop or another thread, and both clients have plain code, types and tracebacks. The operations that differ (sleeping,
opening a channel, concurrency) are in the module ``runtime`` of each client, written by hand.
"""
