"""A server of the S3 protocol on a folder, which can be stopped and started."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.server.process import reserve_port
from tests.support.server.supervised import until
from thetaprime.server.errors import UnavailableError
from thetaprime.server.store.bucket import BlobBucket

URL: Final = "s3://bucket/prefix"
RCLONE: Final = Path(sys.executable).with_name("rclone")


class ObjectStore:
    """A server of the S3 protocol, which can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        (folder / "bucket").mkdir(parents=True)
        self.address = f"127.0.0.1:{reserve_port()}"
        self._command = [str(RCLONE), "serve", "s3", "--addr", self.address, "--auth-key", "key,secret", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        until(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool | None:
        try:
            BlobBucket(URL).size("0" * 64)
        except UnavailableError:
            return None
        return True


@contextlib.contextmanager
def object_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """Runs a server, and sets the environment so that `BlobBucket` finds it."""
    store = ObjectStore(folder)
    account = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1"}
    for name, value in {**account, "ENDPOINT_URL": f"http://{store.address}"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    store.start()
    try:
        yield store
    finally:
        store.stop()
