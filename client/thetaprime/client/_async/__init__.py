"""The client, written once, as coroutines.

``_sync`` is generated from these modules by ``make sync-client``: the same code without ``async`` and ``await``. So
neither client pays for the other: the synchronous one calls gRPC's blocking stubs directly, without an event loop or a
thread between them, and both have plain code, plain types and plain tracebacks. What truly differs, how to wait, to
open a channel and to run several things at once, is in the module ``runtime`` of each, and is written by hand.
"""
