"""Serves the demo's page and its gateway over HTTP, to this machine alone."""

import json
from collections.abc import Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Final, NamedTuple

from thetaprime.cli.web.gateway import Gateway, RequestError

_MOST_BYTES: Final = 4 << 20
_SECURITY: Final = {
    # WebAssembly has to be compiled; nothing else comes from anywhere but here.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Asset(NamedTuple):
    """A file of the page: where it lies beside this one, what it is, and whether it lies there compressed."""

    file: str
    kind: str
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
"""Everything that can be asked for, by its path: no path of a request ever reaches the file system."""


@cache
def read(file: str) -> bytes:
    """The bytes of an asset, as they lie in the package."""
    return files("thetaprime.cli.web").joinpath("assets", *file.split("/")).read_bytes()


class PageServer(ThreadingHTTPServer):
    """The page on a loopback address.

    Args:
        gateway: answers what the page asks for.
        port: 0 for a free one.
    """

    daemon_threads = True

    def __init__(self, gateway: Gateway, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.gateway = gateway
        own = self.server_address[1]
        # A page of somebody else's, whose name was made to point here, names itself.
        self.hosts = {f"127.0.0.1:{own}", f"localhost:{own}"}

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    # Seconds without a byte until a connection is given up.
    timeout = 60

    def do_GET(self) -> None:
        if not self._is_ours():
            return
        asset = ASSETS.get(self.path.partition("?")[0])
        if asset is None:
            self._answer_json(404, {"error": f"nothing to be had by {self.path[:80]}"})
            return
        encoding = {"Content-Encoding": "gzip"} if asset.compressed else {}
        self._answer(200, asset.kind, read(asset.file), {"Cache-Control": "no-cache", **encoding})

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            # What was not read would be taken for the next request.
            self.close_connection = True
            self._answer_json(413, {"error": f"Content-Length: {length or 'none'}; expected at most {_MOST_BYTES}"})
            return
        body = self.rfile.read(int(length))
        if not self.path.startswith("/api/"):
            self._answer_json(404, {"error": f"nothing to be had by {self.path[:80]}"})
            return
        try:
            self._answer_json(200, self.server.gateway.post(self.path.removeprefix("/api/"), body))
        except RequestError as error:
            self._answer_json(error.status, {"error": str(error)})
        except Exception as error:  # a bug of ours: the page is to say so, where a browser would only see silence
            self._answer_json(500, {"error": f"this page's server failed: {error!r}"})
            raise

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """A page's requests are nobody's news."""

    def _is_ours(self) -> bool:
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host in self.server.hosts and (origin is None or origin.removeprefix("http://") in self.server.hosts):
            return True
        self.close_connection = True
        self._answer_json(403, {"error": f"Host: {host[:80]}; expected {' or '.join(sorted(self.server.hosts))}"})
        return False

    def _answer_json(self, status: int, fields: Mapping[str, object]) -> None:
        self._answer(status, "application/json", json.dumps(fields).encode(), {"Cache-Control": "no-store"})

    def _answer(self, status: int, kind: str, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **_SECURITY, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
