"""Few-shot policy adaptation as a service.

`serve` runs a server until SIGTERM or SIGINT; `running_server` runs one on a thread; `listening` runs one on the
current event loop.
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

_MODULES = {
    "ConfigFileError": "config_file",
    "ServerConfig": "config",
    "StartupError": "errors",
    "as_toml": "config_file",
    "listening": "runtime.lifecycle",
    "running_server": "app",
    "serve": "app",
}


def __getattr__(name: str) -> Any:
    """Imports a name on first use: settings and errors need no torch, which takes a second and 200 MB."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
