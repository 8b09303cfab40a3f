"""Shows the demo's page until somebody ends it."""

import threading
import webbrowser

from rich.console import Console

from thetaprime.cli._server_process import server_process
from thetaprime.cli.web.gateway import Gateway
from thetaprime.cli.web.page import PageServer
from thetaprime.client import Client


def show_page(meta_policy: str, *, options: tuple[str, ...], port: int, browser: bool, console: Console) -> None:
    """Starts a server and the page before it; both end with Ctrl-C.

    Args:
        meta_policy: what the page adapts.
        options: more options of ``thetaprime serve``.
        port: of the page, on a loopback address; 0 for a free one.
        browser: whether to open it.
        console: told where the page is.

    Raises:
        OSError: the port is taken.
    """
    with (
        server_process(*options) as server,
        Client(server.address()) as client,
        PageServer(Gateway(client, meta_policy), port) as page,
    ):
        console.print(f"the page is at {page.url} (Ctrl-C ends it)")
        if browser:
            # A browser that is started from here may keep the call until it ends.
            threading.Thread(target=webbrowser.open, args=(page.url,), daemon=True).start()
        try:
            page.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")
