"""Builds requests and opens channels: the code that the synchronous and the asynchronous client share."""
