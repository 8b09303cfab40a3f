"""Few-shot policy adaptation as a service.

`serve` runs a server until the process is told to stop; `running_server` runs one on a
thread; `listening` is the server itself, for an event loop.
"""

from thetaprime.server.app import listening, running_server, serve
from thetaprime.server.config import ServerConfig
from thetaprime.server.errors import StartupError

__all__ = ["ServerConfig", "StartupError", "listening", "running_server", "serve"]
