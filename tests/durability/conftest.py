"""A zoo for servers that are going to die."""

from tests.server.conftest import _write_point_artifact, configure, connect, start, zoo

__all__ = ["_write_point_artifact", "configure", "connect", "start", "zoo"]
