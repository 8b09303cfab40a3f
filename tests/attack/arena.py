"""A server with an honest client, and one attack after the other."""

import contextlib
import dataclasses
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import numpy as np

import thetaprime.client as tp
from tests.attack.attack import Attack
from tests.attack.attacks import attack
from tests.attack.honest import Honest, Kept, Measured, find_lost
from tests.attack.memory import MemoryWatch, memory_cgroup
from tests.support.artifacts import write_point_artifact
from tests.support.server.certificates import Authority
from tests.support.server.metrics_page import free_address
from tests.support.server.process import ServerProcess
from tests.support.server.tokens import write_tokens

LIMIT_MIB: Final = 1536.0
"""A server that needs more is killed."""

# Attackers are copies of a process that has imported them: each starts at once.
_PROCESSES: Final = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.attack.attacks"])
_WARM_UP_ROUNDS: Final = 5
_HONEST, _HOSTILE = "the-honest-token", "the-hostile-token"
# Tenants without limits show how the server stands the most that they send.
_QUOTAS: Final = """
[tenants.mallory]
max_sessions = 500
max_bytes = 20000000
"""


@dataclasses.dataclass(frozen=True)
class Result:
    """What one attack did.

    Attributes:
        attack: its name.
        mib: growth of the server's resident memory above its idle value, at its peak.
        idle: 95th percentile of an honest round without the attack, in seconds.
        honest: the same under the attack.
        newcomer: the longest first call of a new client under the attack, in seconds.
        survived: whether the process that was attacked still serves.
        problem: what the honest client met; empty for nothing.
    """

    attack: str
    mib: float
    idle: float
    honest: float
    newcomer: float
    survived: bool
    problem: str = ""

    @property
    def ratio(self) -> float:
        """How many times as long an honest round took under the attack."""
        return self.honest / self.idle if self.idle else float("nan")

    def line(self) -> str:
        """Returns one line of a table."""
        fate = "" if self.survived else f"  FELL {self.problem}"
        times = f"{self.idle * 1000:6.0f} ms {self.honest * 1000:7.0f} ms {self.ratio:6.2f}x"
        return f"{self.attack:24} {self.mib:8.1f} MiB {times} {self.newcomer:6.2f} s{fate}"


HEADING: Final = f"{'attack':24} {'memory':>12} {'idle p95':>9} {'under it':>10} {'ratio':>7} {'newcomer':>8}"
"""The heading of the lines."""


class Arena:
    """One server process with an honest client.

    Args:
        folder: for the store, the log, tokens and certificates.
        guarded: whether the server speaks TLS and knows tenants by their tokens.
        options: of ``thetaprime serve``.

    Attributes:
        server: the process.
        kept: everything that the server has acknowledged.
        caged: whether a cgroup bounds its memory.
    """

    def __init__(self, folder: Path, *options: str, guarded: bool = False) -> None:
        self._folder, self.guarded = folder, guarded
        self._metrics = free_address()
        self._authority = ""
        if not (folder / "zoo").exists():
            write_point_artifact(folder / "zoo")
        if guarded:
            authority = Authority(folder, "authority")
            self._authority, files = str(authority.certificate), authority.issue("server")
            tokens = write_tokens(folder / "tokens.toml", {_HONEST: "alice", _HOSTILE: "mallory"}, _QUOTAS)
            options += ("--tls-certificate", str(files.certificate), "--tls-key", str(files.key))
            options += ("--tokens", str(tokens))
        self.server = ServerProcess(folder, folder / "zoo", "--metrics-address", self._metrics, *options)
        self.kept: list[Kept] = []
        self.caged = False

    @contextlib.contextmanager
    def serving(self) -> Iterator["Served"]:
        """Starts the server, and warms it up."""
        self.server.start()
        try:
            with memory_cgroup(self.server.pid, LIMIT_MIB) as self.caged:
                with (
                    MemoryWatch(self.server.pid, LIMIT_MIB) as watch,
                    Honest(self.server.address, _HONEST if self.guarded else "", self._authority) as honest,
                ):
                    for _ in range(_WARM_UP_ROUNDS):
                        honest.take_round()
                    honest.start()
                    yield Served(self, honest, watch)
                self.kept += honest.kept
                # As by kill -9: what was acknowledged must be there afterward.
                self.server.kill()
        finally:
            self.server.__exit__()

    def aim(self) -> dict[str, str]:
        """Returns the fields of an attacker's `Aim`, but for its source and its end."""
        aim = {"address": self.server.address, "metrics": self._metrics, "authority": self._authority}
        return {**aim, "token": _HOSTILE if self.guarded else ""}

    def find_lost(self) -> list[str]:
        """Starts the server again, and asks for everything that it has acknowledged."""
        with self.server, contextlib.ExitStack() as opened:
            address = self.server.start()
            credentials = tp.tls_credentials(Path(self._authority)) if self.guarded else None
            token = _HONEST if self.guarded else None
            client = opened.enter_context(tp.Client(address, credentials=credentials, token=token, timeout=60.0))
            return find_lost(client, self.kept)


class Served:
    """A server that runs, with an honest client that takes rounds.

    Args:
        arena: with the server.
        honest: the client.
        watch: of the server's memory.
    """

    def __init__(self, arena: Arena, honest: Honest, watch: MemoryWatch) -> None:
        self._arena, self._honest, self._watch = arena, honest, watch
        self._baseline = 0.0

    def rest(self, seconds: float) -> float:
        """Lets the client alone for so many seconds; returns the 95th percentile of its rounds, in seconds."""
        self._watch.peak = 0.0
        measured = self._measure(seconds)
        self._baseline = self._baseline or self._watch.peak
        return _p95(measured.rounds)

    def suffer(self, kind: type[Attack], seconds: float, idle: float) -> Result:
        """Runs an attack for so many seconds.

        Args:
            kind: the attack.
            seconds: its time.
            idle: what `rest` measured before.
        """
        pid, already = self._arena.server.pid, len(self._honest.kept)
        self._watch.peak = 0.0
        attacker = _PROCESSES.Process(target=attack, args=(kind.title(), self._arena.aim(), seconds))
        attacker.start()
        measured = self._measure(seconds, attacker)
        peak = self._watch.peak
        survived = self._arena.server.runs() and not self._honest.failures
        return Result(
            attack=kind.title(),
            mib=peak - self._baseline,
            idle=idle,
            honest=_p95(measured.rounds),
            newcomer=max(measured.newcomers, default=float("inf")),
            problem=repr(self._honest.failures[0]) if self._honest.failures else "",
            survived=survived and pid == self._arena.server.pid and len(self._honest.kept) > already,
        )

    def _measure(self, seconds: float, attacker: BaseProcess | None = None) -> Measured:
        """Measures until the time is over and each client has been served once more."""
        measured = self._honest.measured = Measured()
        if attacker is None:
            time.sleep(seconds)
        else:
            attacker.join(seconds + 60)
            assert attacker.exitcode == 0, "the attacker failed"
        end = time.monotonic() + 30
        while not (measured.rounds and measured.newcomers) and time.monotonic() < end and not self._honest.failures:
            time.sleep(0.01)
        return measured


def _p95(seconds: list[float]) -> float:
    return float(np.quantile(seconds, 0.95)) if seconds else float("inf")
