"""Runs the server and the page of the web demo until Ctrl-C or SIGTERM."""

import threading
import webbrowser

from rich.console import Console

from thetaprime.cli._server_process import server_process
from thetaprime.cli.web.gateway import Gateway
from thetaprime.cli.web.page import PageServer
from thetaprime.client import Client


def show_page(meta_policy: str, *, options: tuple[str, ...], port: int, browser: bool, console: Console) -> None:
    """Serves the page until Ctrl-C or SIGTERM, which also stop the server.

    Args:
        meta_policy: the meta-policy that the page adapts.
        options: more options of ``thetaprime serve``.
        port: the page's port on a loopback address; 0 chooses a free port.
        browser: whether to open a browser.
        console: prints the page's URL.

    Raises:
        OSError: the port is taken.
    """
    with (
        server_process(*options) as server,
        Client(server.address()) as client,
        PageServer(Gateway(client, meta_policy), port) as page,
    ):
        try:
            console.print(f"the page is at {page.url} (Ctrl-C ends it)")
            if browser:
                # The call may block until the browser ends.
                threading.Thread(target=webbrowser.open, args=(page.url,), daemon=True).start()
            page.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")
