"""Few-shot policy adaptation as a service.

`serve` runs a server until the process is told to stop; `running_server` runs one on a
thread; `listening` is the server itself, for an event loop.
"""

from thetaprime.server.app import listening, running_server, serve
from thetaprime.server.config import ServerConfig
from thetaprime.server.config_file import ConfigFileError, as_toml
from thetaprime.server.errors import StartupError

__all__ = [
    "ConfigFileError",
    "ServerConfig",
    "StartupError",
    "as_toml",
    "listening",
    "running_server",
    "serve",
]
