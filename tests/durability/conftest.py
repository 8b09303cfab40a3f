"""A zoo, and servers in this process."""

from tests.support.server.fixtures import configure, start, zoo

__all__ = ["configure", "start", "zoo"]
