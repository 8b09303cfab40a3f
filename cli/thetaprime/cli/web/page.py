"""Serves the page and its gateway over HTTP on a loopback address."""

import json
from collections.abc import Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Final, NamedTuple

from thetaprime.cli.web.gateway import Gateway, RequestError

_MAX_BODY_BYTES: Final = 4 << 20
_SECURITY_HEADERS: Final = {
    # 'wasm-unsafe-eval' allows compiling WebAssembly. Every resource comes from this server.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Asset(NamedTuple):
    """A file of the page.

    Attributes:
        file: path below ``assets``.
        content_type: HTTP content type.
        compressed: the file is stored, and sent, as gzip.
    """

    file: str
    content_type: str
    compressed: bool = False


_SCRIPTS: Final = ("chart", "main", "noise", "policy", "server", "simulator", "view")
ASSETS: Final[Mapping[str, Asset]] = {
    "/": Asset("index.html", "text/html; charset=utf-8"),
    "/style.css": Asset("style.css", "text/css; charset=utf-8"),
    "/icon.svg": Asset("icon.svg", "image/svg+xml"),
    **{f"/{name}.js": Asset(f"{name}.js", "text/javascript; charset=utf-8") for name in _SCRIPTS},
    "/ort/ort.wasm.bundle.min.mjs": Asset("ort/ort.wasm.bundle.min.mjs", "text/javascript; charset=utf-8"),
    "/ort/ort-wasm-simd-threaded.wasm": Asset("ort/ort-wasm-simd-threaded.wasm.gz", "application/wasm", True),
}
"""Every path that the server answers. The path of a request never reaches the file system."""


@cache
def read_asset(file: str) -> bytes:
    """Returns the bytes of an asset, as stored in the package."""
    return files("thetaprime.cli.web").joinpath("assets", *file.split("/")).read_bytes()


class PageServer(ThreadingHTTPServer):
    """Serves the page on a loopback address.

    Args:
        gateway: answers the page's API requests.
        port: the port; 0 chooses a free port.
    """

    daemon_threads = True

    def __init__(self, gateway: Gateway, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.gateway = gateway
        own_port = self.server_address[1]
        # Guards against DNS rebinding: another site that resolves to this address sends its own name.
        self.hosts = {f"127.0.0.1:{own_port}", f"localhost:{own_port}"}

    @property
    def url(self) -> str:
        """The page's URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without a byte

    def do_GET(self) -> None:
        if not self._is_own_page():
            return
        asset = ASSETS.get(self.path.partition("?")[0])
        if asset is None:
            self._answer_json(404, {"error": f"no such path: {self.path[:80]}"})
            return
        encoding = {"Content-Encoding": "gzip"} if asset.compressed else {}
        self._answer(200, asset.content_type, read_asset(asset.file), {"Cache-Control": "no-cache", **encoding})

    def do_POST(self) -> None:
        if not self._is_own_page():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MAX_BODY_BYTES:
            # The next request would begin with the unread body.
            self.close_connection = True
            self._answer_json(413, {"error": f"Content-Length: {length or 'none'}; expected at most {_MAX_BODY_BYTES}"})
            return
        body = self.rfile.read(int(length))
        if not self.path.startswith("/api/"):
            self._answer_json(404, {"error": f"no such path: {self.path[:80]}"})
            return
        try:
            self._answer_json(200, self.server.gateway.post(self.path.removeprefix("/api/"), body))
        except RequestError as error:
            self._answer_json(error.status, {"error": str(error)})
        except Exception as error:  # a bug: the page shows the error
            self._answer_json(500, {"error": f"the page's server failed: {error!r}"})
            raise

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Logs no request."""

    def _is_own_page(self) -> bool:
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host in self.server.hosts and (origin is None or origin.removeprefix("http://") in self.server.hosts):
            return True
        self.close_connection = True
        self._answer_json(403, {"error": f"Host: {host[:80]}; expected {' or '.join(sorted(self.server.hosts))}"})
        return False

    def _answer_json(self, status: int, fields: Mapping[str, object]) -> None:
        self._answer(status, "application/json", json.dumps(fields).encode(), {"Cache-Control": "no-store"})

    def _answer(self, status: int, content_type: str, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        own = {"Content-Type": content_type, "Content-Length": str(len(body)), **_SECURITY_HEADERS}
        for name, value in {**own, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
