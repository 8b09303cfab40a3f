"""Few-shot policy adaptation as a service.

`serve` runs a server until the process is told to stop; `running_server` runs one on a
thread; `listening` is the server itself, for an event loop.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thetaprime.server.app import running_server, serve
    from thetaprime.server.config import ServerConfig
    from thetaprime.server.config_file import ConfigFileError, as_toml
    from thetaprime.server.errors import StartupError
    from thetaprime.server.runtime.lifecycle import listening

__all__ = [
    "ConfigFileError",
    "ServerConfig",
    "StartupError",
    "as_toml",
    "listening",
    "running_server",
    "serve",
]

_PLACES = {
    "ConfigFileError": "config_file",
    "ServerConfig": "config",
    "StartupError": "errors",
    "as_toml": "config_file",
    "listening": "runtime.lifecycle",
    "running_server": "app",
    "serve": "app",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: settings and errors come without torch, which takes a second and 200 MB."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
