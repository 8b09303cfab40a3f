"""Limits the connections of clients, and closes connections.

gRPC's core limits the connections of a process, the time of a handshake and the time without a call. It neither limits
the connections of one address, nor closes a connection on request, nor refuses an address. On Linux, this module does:
it finds the sockets among the process's open files, and shuts them down. gRPC then reads the end of the stream, and
frees the connection.
"""

import collections
import contextlib
import dataclasses
import errno
import ipaddress
import os
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from thetaprime.server.address import is_unix_socket, normalize_host, parse_peer
from thetaprime.server.auth import audit
from thetaprime.server.logging import LineLimit
from thetaprime.server.rpc.blocked_addresses import BlockedAddresses
from thetaprime.server.rpc.traffic import Traffic
from thetaprime.server.telemetry.metrics import Metrics

TOO_MANY: Final = "TOO_MANY_CONNECTIONS"
"""Reason of connections above the limit of one address."""
UNREAD_REPLY: Final = "REPLY_UNREAD"
"""Reason of connections that did not read a reply in time."""
REFUSED_CALLS: Final = "TOO_MANY_REFUSED_CALLS"
"""Reason of connections with too many calls that were refused or canceled."""
USELESS_BYTES: Final = "TOO_MANY_USELESS_BYTES"
"""Reason of connections that sent too many bytes that belong to no call."""
BLOCKED: Final = "ADDRESS_BLOCKED"
"""Reason of new connections from an address that is blocked, where the kernel does not refuse them."""

_FILES: Final = Path("/proc/self/fd")
_SCAN_SECONDS: Final = 0.05
# While connections come that are of no use, the scans follow each other faster, so that they see more of them.
_FAST_SCAN_SECONDS: Final = 0.005
# The scans take at most this share of a processor.
_SCAN_SHARE: Final = 0.1
# Connections whose bytes are measured in one scan.
_MEASURED: Final = 25
# After such a connection, for so long.
_FAST_SECONDS: Final = 1.0
# Useless connections of one address in one second before it is blocked. Those above the limit are seen, each of them;
# of connections that leave without a call, about one in ten.
_USELESS: Final = 200
_UNSEEN: Final = 10
# Notes of calls that no scan has read.
_NOTES: Final = 100_000
# struct tcp_info of <linux/tcp.h>: tcpi_bytes_received.
_BYTES_RECEIVED: Final = slice(128, 136)
# <linux/tcp.h>: a listening socket keeps the first packet of each connection, which then names the peer of a connection
# that was reset. Python has no names for these.
_TCP_SAVE_SYN: Final = 27
_TCP_SAVED_SYN: Final = 28
_SYN_BYTES: Final = 128
# With this SO_LINGER, closing a socket resets its connection: the kernel keeps no bytes for a peer that reads nothing.
_RESET: Final = struct.pack("ii", 1, 0)

_Peer = tuple[str, int]

_log = structlog.get_logger()


@dataclasses.dataclass
class _Connection:
    """An open connection.

    Attributes:
        inode: of its socket. Descriptors are reused, inodes are not for a long time.
        peer: address and port of the client.
        owner: the address, or the network of IPv6, that its limit counts.
        traffic: what it has sent.
        closing: whether it was shut down, and gRPC has not closed it yet.
    """

    inode: int
    peer: _Peer
    owner: str
    traffic: Traffic
    closing: bool = False


class Connections:
    """The connections of clients to this process.

    Without /proc, as on macOS, nothing is counted or closed. Connections to a Unix socket have no address: they have no
    limit of this kind, and cannot be closed.

    Args:
        limit: maximum of one IPv4 address, or of one IPv6 network of 64 bits. The newest above it are closed.
        metrics: count open connections, closed ones by reason, and blocked addresses.
        block_seconds: for which an address is blocked; 0 blocks none.
        clock: monotonic seconds.
    """

    def __init__(
        self, limit: int, metrics: Metrics, block_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._metrics = metrics
        self._blocked = BlockedAddresses(block_seconds)
        self._now = clock
        for reason in (TOO_MANY, UNREAD_REPLY, REFUSED_CALLS, USELESS_BYTES, BLOCKED):
            metrics.record_closed_connections(reason, 0)
        self._port = 0
        # The scan on its thread, and `close` on others.
        self._lock = threading.Lock()
        self._audit_limit = LineLimit()
        # Inode and connection by descriptor; None for a socket that is no client's connection.
        self._sockets: dict[int, tuple[int, _Connection | None]] = {}
        # Open connections by owner.
        self._counts: collections.Counter[str] = collections.Counter()
        # Inode of each listening socket, by descriptor.
        self._listening: dict[int, int] = {}
        # What calls account for, for the next scan: peer, bytes, and the change of the bytes that are awaited.
        self._notes: collections.deque[tuple[str, int, int]] = collections.deque(maxlen=_NOTES)
        # Those of connections that the last scan did not know, and whether they are from the scan before.
        self._early_notes: list[tuple[tuple[str, int, int], bool]] = []
        # Connections that have ended since the last count.
        self._gone: list[_Connection] = []
        self._found_useless = False
        # Descriptors of connections whose bytes are measured next.
        self._unmeasured: list[int] = []
        # Useless connections of this second, by owner.
        self._second = 0
        self._useless: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def watch(self, address: str) -> Iterator[None]:
        """Counts and limits the connections for the duration of the context, on a thread.

        Args:
            address: ``host:port`` that the server listens on.
        """
        if is_unix_socket(address) or not _FILES.is_dir():
            yield
            return
        self._port = int(address.rpartition(":")[2])
        stop_event = threading.Event()

        def scan() -> None:
            wait, fast_until = _SCAN_SECONDS, 0.0
            while not stop_event.wait(wait):
                started = time.thread_time()
                try:
                    if self.limit():
                        fast_until = time.monotonic() + _FAST_SECONDS
                    least = (time.thread_time() - started) / _SCAN_SHARE
                    wait = max(least, _FAST_SCAN_SECONDS if time.monotonic() < fast_until else _SCAN_SECONDS)
                except OSError as error:
                    # No descriptor is free for the list of descriptors.
                    if self._audit_limit.admits("scan"):
                        _log.warning("connections not counted", problem=str(error))
                    wait = 1.0

        thread = threading.Thread(target=scan, name="connections", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop_event.set()
            thread.join()

    def close(self, peer: str, reason: str) -> bool:
        """Closes a connection at once: its calls end, and what was not sent is dropped. Thread-safe.

        Args:
            peer: of the connection, as `grpc.aio.ServicerContext.peer` returns it.
            reason: for the metric and the audit log; a constant.

        Returns:
            Whether there was such a connection.
        """
        found = parse_peer(peer)
        if found is None or not self._port:
            return False
        with self._lock:
            # Of a new connection, the thread may know nothing yet.
            if self._close_known(found, reason):
                return True
            self._scan()
            return self._close_known(found, reason)

    def block(self, network: str) -> None:
        """Refuses new connections of an address for a time. Thread-safe.

        Args:
            network: the IPv4 address or IPv6 network, as `thetaprime.server.address.client_network` returns it.
        """
        with self._lock:
            if self._port and not self._listening:
                self._scan()
            if self._port:
                self._block(network)

    def note(self, peer: str, size: int, awaited: int = 0) -> None:
        """Accounts for bytes that a connection sends. Thread-safe.

        Args:
            peer: of the connection, as `grpc.aio.ServicerContext.peer` returns it.
            size: bytes of a call that was begun, or of a message that was read.
            awaited: change of the number of bytes that were requested and have not come.
        """
        if self._port:
            self._notes.append((peer, size, awaited))

    def limit(self) -> bool:
        """Counts the connections, and closes those that exceed a limit.

        New ones are closed above the limit of their address, others where they send bytes that belong to no call.
        An address with too many of either, or with too many connections that leave without a call, is blocked.

        Returns:
            Whether a connection was of no use.
        """
        with self._lock:
            if self._blocked.expire():
                self._apply_blocks()
            self._found_useless = False
            self._scan()
            received = self._measure_bytes()
            # Later than the bytes that they account for.
            self._read_notes()
            self._count_useless()
            self._limit_bytes(received)
            self._metrics.connections.set(sum(self._counts.values()))
            return self._found_useless

    def report_omitted_lines(self) -> None:
        """Logs the number of closed connections that had no line since the last call, by reason."""
        with self._lock:
            omitted = self._audit_limit.take_omitted()
        for reason, count in omitted.items():
            audit.record_disconnections(reason, count)

    def _block(self, network: str) -> None:
        if self._blocked.add(network):
            self._apply_blocks()
            audit.record_block(network)

    def _apply_blocks(self) -> None:
        self._metrics.blocked_addresses.set(len(self._blocked))
        for descriptor, inode in self._listening.items():
            # Without it, the scan closes the connections of blocked addresses.
            with contextlib.suppress(OSError), _borrow(descriptor, inode) as listening:
                self._blocked.apply(listening)

    def _close_known(self, peer: _Peer, reason: str) -> bool:
        for descriptor, (_, connection) in self._sockets.items():
            if connection is not None and connection.peer == peer and not connection.closing:
                self._counts[connection.owner] -= 1
                self._shut(descriptor, connection, reason)
                return True
        return False

    def _shut(self, descriptor: int, connection: _Connection, reason: str) -> None:
        connection.closing = True
        _shut_down(descriptor, connection.inode)
        self._metrics.record_closed_connections(reason, 1)
        if self._audit_limit.admits(reason):
            audit.record_disconnection(_format_peer(connection.peer), reason)

    def _scan(self) -> None:
        """Finds the connections, and closes new ones above the limit."""
        sockets, new = self._list_sockets()
        self._gone += [
            connection
            for descriptor, (inode, connection) in self._sockets.items()
            if connection is not None and not connection.closing and sockets.get(descriptor, (None,))[0] != inode
        ]
        self._sockets = sockets
        self._listening = {key: inode for key, inode in self._listening.items() if sockets.get(key) == (inode, None)}
        self._counts = collections.Counter(
            connection.owner for _, connection in sockets.values() if connection is not None and not connection.closing
        )
        # The kernel numbers inodes upward, roughly: the newest come last.
        for inode, descriptor in sorted(new):
            connection = self._read_connection(descriptor, inode)
            sockets[descriptor] = inode, connection
            if connection is not None:
                if connection.owner in self._blocked:
                    self._shut(descriptor, connection, BLOCKED)
                elif self._counts[connection.owner] < self._limit:
                    self._counts[connection.owner] += 1
                else:
                    self._shut(descriptor, connection, TOO_MANY)
                    self._add_useless(connection.owner, 1)

    def _read_notes(self) -> None:
        """Tells the connections what their calls account for."""
        notes, self._early_notes = self._early_notes, []
        with contextlib.suppress(IndexError):
            while True:
                notes.append((self._notes.popleft(), False))
        if not notes:
            return
        known = {each.peer: each for _, each in self._sockets.values() if each is not None}
        known |= {each.peer: each for each in self._gone}
        for (peer, size, awaited), is_late in notes:
            found = parse_peer(peer)
            connection = known.get(found) if found is not None else None
            if connection is not None:
                connection.traffic.note(size, awaited)
            elif not is_late:
                # The next scan finds the connection, unless it has ended.
                self._early_notes.append(((peer, size, awaited), True))

    def _count_useless(self) -> None:
        """Counts the connections that have left soon and without a call."""
        gone, self._gone, now = self._gone, [], self._now()
        for connection in gone:
            if connection.traffic.was_useless(now):
                self._add_useless(connection.owner, _UNSEEN)

    def _add_useless(self, owner: str, count: int) -> None:
        if (second := int(self._now())) != self._second:
            self._second = second
            self._useless.clear()
        self._found_useless = True
        self._useless[owner] += count
        if self._useless[owner] >= _USELESS:
            self._block(owner)

    def _measure_bytes(self) -> list[tuple[int, _Connection, int]]:
        """Returns descriptor and received bytes of some connections: in turn, of all."""
        if not self._unmeasured:
            self._unmeasured = [key for key, (_, each) in self._sockets.items() if each is not None]
        measured = []
        for descriptor in self._unmeasured[-_MEASURED:]:
            _, connection = self._sockets.get(descriptor, (0, None))
            if connection is not None and not connection.closing:
                with contextlib.suppress(OSError), _borrow(descriptor, connection.inode) as borrowed:
                    info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.stop)
                    measured.append((descriptor, connection, int.from_bytes(info[_BYTES_RECEIVED], sys.byteorder)))
        del self._unmeasured[-_MEASURED:]
        return measured

    def _limit_bytes(self, measured: list[tuple[int, _Connection, int]]) -> None:
        """Closes the connections that have sent too many useless bytes, and blocks their addresses."""
        now = self._now()
        for descriptor, connection, received in measured:
            if connection.traffic.exceeds(received, now):
                self._counts[connection.owner] -= 1
                self._shut(descriptor, connection, USELESS_BYTES)
                self._block(connection.owner)

    def _list_sockets(self) -> tuple[dict[int, tuple[int, _Connection | None]], list[tuple[int, int]]]:
        """Returns the known sockets that are still open, and inode and descriptor of each new one."""
        known: dict[int, tuple[int, _Connection | None]] = {}
        new: list[tuple[int, int]] = []
        for name in os.listdir(_FILES):  # noqa: PTH208 - ten times as fast as pathlib, twenty times a second
            descriptor = int(name)
            try:
                status = os.fstat(descriptor)
            except OSError:  # closed by now
                continue
            if stat.S_ISSOCK(status.st_mode):
                earlier = self._sockets.get(descriptor)
                if earlier is not None and earlier[0] == status.st_ino:
                    known[descriptor] = earlier
                else:
                    new.append((status.st_ino, descriptor))
        return known, new

    def _read_connection(self, descriptor: int, inode: int) -> _Connection | None:
        """Returns the connection of a client that a descriptor belongs to; None if it is none. Notes listening ones."""
        try:
            # A duplicate would delay gRPC's own close: this object borrows the descriptor.
            borrowed = socket.socket(fileno=descriptor)
        except OSError:
            return None
        try:
            if borrowed.family not in {socket.AF_INET, socket.AF_INET6} or borrowed.type != socket.SOCK_STREAM:
                return None
            if borrowed.getsockname()[1] != self._port:
                return None
            if borrowed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                self._listening[descriptor] = inode
                borrowed.setsockopt(socket.IPPROTO_TCP, _TCP_SAVE_SYN, 1)
                return None
            try:
                host, port = borrowed.getpeername()[:2]
            except OSError:  # the client has left
                self._gone += self._read_reset_connection(borrowed, inode)
                return None
        except OSError:
            return None
        finally:
            borrowed.detach()
        return self._connection(inode, host, port)

    def _read_reset_connection(self, reset: socket.socket, inode: int) -> list[_Connection]:
        """Returns the connection of a socket that was reset; none where the kernel did not keep its first packet."""
        syn = reset.getsockopt(socket.IPPROTO_TCP, _TCP_SAVED_SYN, _SYN_BYTES)
        is_ipv4 = syn[:1] and syn[0] >> 4 == 4
        address, header = (syn[12:16], 4 * (syn[0] & 15)) if is_ipv4 else (syn[8:24], 40)
        if len(syn) < header + 2:
            return []
        host = str(ipaddress.ip_address(address))
        return [self._connection(inode, host, int.from_bytes(syn[header : header + 2], "big"))]

    def _connection(self, inode: int, host: str, port: int) -> _Connection:
        host, owner = normalize_host(host)
        return _Connection(inode, (host, port), owner, Traffic(self._now()))


def _shut_down(descriptor: int, inode: int) -> None:
    """Shuts down a socket, unless its descriptor was reused."""
    with contextlib.suppress(OSError), _borrow(descriptor, inode) as shut:
        shut.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        shut.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _borrow(descriptor: int, inode: int) -> Iterator[socket.socket]:
    """Yields a duplicate of a socket.

    Raises:
        OSError: the descriptor was closed or reused.
    """
    duplicate = os.dup(descriptor)
    try:
        if os.fstat(duplicate).st_ino != inode:
            raise OSError(errno.EBADF, "the descriptor was reused")
        borrowed = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise
    with borrowed:
        yield borrowed


def _format_peer(peer: _Peer) -> str:
    host, port = peer
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
