"""Several writes of one transaction in one statement, where the database can: each message waits for the network."""

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from thetaprime.server.store import tables

_BLOB: Final[dict[str, sa.BindParameter[object]]] = {
    "sha256": sa.bindparam("blob_sha256"),
    "data": sa.bindparam("blob_data"),
}
_INSERT_BLOB: Final[Mapping[str, sa.Insert]] = {
    "sqlite": sqlite.insert(tables.blobs).values(_BLOB).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(tables.blobs).values(_BLOB).on_conflict_do_nothing(),
}


def insert_blob(dialect: str) -> sa.Insert:
    """Returns the statement that inserts a blob unless it exists; its values are ``blob_sha256`` and ``blob_data``."""
    return _INSERT_BLOB[dialect]


def insert_row(table: sa.Table) -> sa.Insert:
    """Returns the statement that inserts a row; the values of its columns have the table's name before theirs."""
    return table.insert().values({each.name: sa.bindparam(f"{table.name}_{each.name}") for each in table.columns})


def row_values(table: sa.Table, row: Mapping[str, object]) -> dict[str, object]:
    """Returns the values of `insert_row` for a row; a missing column is NULL."""
    return {f"{table.name}_{each.name}": row.get(each.name) for each in table.columns}


class Writes:
    """Inserts and updates that go together, built once, with or without a blob.

    PostgreSQL runs them as one statement (WITH), in which none sees the effect of another. SQLite runs one after
    another.

    Args:
        writes: each with the names of its values; no two have a name in common.
    """

    def __init__(self, *writes: tuple[sa.Insert | sa.Update, frozenset[str]]) -> None:
        self._each = writes
        statements = [statement for statement, _ in writes]
        self._together = _with(statements)
        self._with_blob = _with([insert_blob("postgresql"), *statements])

    def execute(
        self, connection: sa.Connection, values: Mapping[str, object], blob: Mapping[str, object] | None
    ) -> None:
        """Runs all of them.

        Args:
            connection: a writing transaction.
            values: of all statements.
            blob: values of `insert_blob`; None for no blob.
        """
        if connection.dialect.name == "postgresql":
            connection.execute(self._together if blob is None else self._with_blob, {**values, **(blob or {})})
            return
        if blob is not None:
            connection.execute(insert_blob(connection.dialect.name), blob)
        for statement, names in self._each:
            connection.execute(statement, {name: values[name] for name in names})


def _with(statements: list[sa.Insert | sa.Update]) -> sa.Insert | sa.Update:
    *first, last = statements
    return last.add_cte(*(each.cte(f"write_{index}") for index, each in enumerate(first)))
