"""The database of a store, and the promises that every kind of it keeps."""

import abc
from collections.abc import Collection
from contextlib import AbstractContextManager

import sqlalchemy as sa


class Database(abc.ABC):
    """Tables in which a committed transaction is durable.

    Transactions that write for one tenant run one after another, over all processes that share the database: each sees
    what the one before it committed. Transactions of different tenants may run at once. The rows that tenants share are
    those of `tables.blobs`; `locks.lock_blobs` orders the transactions that name or delete them.
    """

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connections."""

    @abc.abstractmethod
    def check_in_place(self) -> None:
        """Checks, without reading, that the database still is the one that was opened.

        Raises:
            StoreFailedError: it was moved, deleted or replaced. A write would be lost at the next start.
        """

    @abc.abstractmethod
    def check_clock(self) -> None:
        """Checks this machine's clock against the database's.

        Raises:
            StoreFailedError: they differ by more than a minute: sessions would expire at different times.
        """

    @abc.abstractmethod
    def reading(self, *, snapshot: bool = True) -> AbstractContextManager[sa.Connection]:
        """A read-only transaction.

        Args:
            snapshot: whether its statements see one snapshot. A single statement does in any case, and needs no
                BEGIN.

        Raises:
            UnavailableError: the database is away, to be tried again.
            StoreFailedError: the database is broken, or was moved.
        """

    @abc.abstractmethod
    def writing(self, *tenants: str, blobs: Collection[str] = ()) -> AbstractContextManager[sa.Connection]:
        """A writing transaction; durable when it ends without an error.

        Args:
            tenants: whose rows it reads or changes. Without any, it touches no row of a session.
            blobs: digests of the blobs that it will name.

        Raises:
            UnavailableError: others kept the rows locked for 10 seconds, or the database is away.
            StoreFailedError: the disk is full, read-only or broken, or the database was moved; nothing was changed.
        """

    @abc.abstractmethod
    def compact_some(self) -> bool:
        """Returns some free space to the disk; returns whether there was any. Other writers wait for it."""

    @abc.abstractmethod
    def problems(self, connection: sa.Connection) -> list[str]:
        """Returns what the database itself reports as damaged."""

    @abc.abstractmethod
    def size(self) -> int:
        """Returns the bytes that the database takes.

        Raises:
            OSError: its files cannot be measured.
            sqlalchemy.exc.SQLAlchemyError: the database is away.
        """
