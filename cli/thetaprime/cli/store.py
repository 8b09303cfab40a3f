"""``thetaprime store``."""

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._errors import CommandError, message_of
from thetaprime.cli._files import NewFile, force_option
from thetaprime.cli._output import console_for, json_option, print_json

_FOUND, _CANNOT = 1, 2
_PROGRAM: Final = "thetaprime store"
_OWNER_ONLY: Final = 0o600


_place = option(
    "--store",
    "place",
    required=True,
    metavar="FOLDER|URL",
    help="Folder of the store, or the URL of its PostgreSQL, as for thetaprime serve.",
)
_blobs = option(
    "--blobs",
    default=None,
    metavar="FOLDER|URL",
    help="Place of its large blobs, as for thetaprime serve.",
)


@click.group()
def command() -> None:
    """Check the store of a server, back it up and restore it, and bring its tables to this release."""


@command.command(
    "upgrade",
    cls=Command,
    examples=("thetaprime store upgrade --store postgresql://thetaprime@database/thetaprime",),
)
@_place
@_blobs
def upgrade(place: str, blobs: str | None) -> None:
    """Create the tables of a PostgreSQL, or bring those of an earlier release to this one.

    Stop the servers that use them first. A server only checks the tables when it starts. A folder needs no upgrade: the
    server that opens it brings it to its release.
    """
    from thetaprime.server.errors import StartupError
    from thetaprime.server.places import without_password
    from thetaprime.server.store import Store

    try:
        Store(place, blobs=blobs, upgrades=True).close()
    except StartupError as error:
        raise CommandError(f"{_PROGRAM} upgrade: {error}", "FAILED_PRECONDITION", {}, _CANNOT) from error
    console_for(as_json=False).print(f"{without_password(place)}: ready", soft_wrap=True)


@command.command(
    "check",
    cls=Command,
    examples=(
        "thetaprime store check --store ./state",
        "thetaprime store check --store ./state --repair",
        "thetaprime store check --store ./state --json",
        "thetaprime store check --store postgresql://thetaprime@database/thetaprime --blobs s3://bucket/thetaprime",
    ),
)
@_place
@_blobs
@option("--repair", "repairs", is_flag=True, help="Mend what can be mended without losing anything acknowledged.")
@json_option
def check(place: str, blobs: str | None, repairs: bool, as_json: bool) -> int:
    """Find what no row names, what is missing or damaged, and what is counted wrong.

    Reads the whole store. A server may run on it meanwhile, also with --repair. Blobs in files count as left behind
    once they are an hour old: a server may be about to name a younger one.

    --repair deletes what no session needs, and counts again. Blobs that are missing or damaged cannot be mended:
    restore them from a backup of the folder.

    The exit status is 0 if nothing is wrong (any more), 1 if something is, and 2 if the store cannot be read.
    """
    from thetaprime.server.places import without_password
    from thetaprime.server.store.check import check as check_store
    from thetaprime.server.store.check import open_store, repair

    with _failures("check"), contextlib.closing(open_store(place, blobs)) as store:
        found = check_store(store)
        mended = []
        if repairs and found:
            repair(store)
            left = check_store(store)
            mended = [each for each in found if each.kind not in {other.kind for other in left}]
            found = left
    console, shown = console_for(as_json), without_password(place)
    for each in mended:
        console.print(f"mended: {each.count} {each.problem}{_size(each.bytes)}", soft_wrap=True)
    for each in found:
        remedy = "mend with --repair" if each.mendable else "restore from a backup"
        console.print(f"found: {each.count} {each.problem}{_size(each.bytes)}: {remedy}", soft_wrap=True)
    console.print(f"{shown}: {'problems found' if found else 'nothing is wrong'}", soft_wrap=True)
    if as_json:
        facts = {"found": [dataclasses.asdict(each) for each in found]}
        print_json({"store": shown, **facts, "mended": [dataclasses.asdict(each) for each in mended]})
    return _FOUND if found else 0


@command.command(
    "export",
    cls=Command,
    examples=(
        "thetaprime store export --store ./state --output state.tar",
        "thetaprime store export --store postgresql://thetaprime@database/thetaprime --blobs s3://bucket/thetaprime "
        "--output backup.tar",
    ),
)
@_place
@_blobs
@option("--output", type=NewFile(), required=True, help="File to write. Only its owner may read it.")
@force_option
@json_option
def export(place: str, blobs: str | None, output: Path, force: bool, as_json: bool) -> None:
    """Write a store of any kind to one file: every session, its uploads and its policies.

    The file holds one moment of the store. Servers may run on it meanwhile. It appears under its name once it is
    complete and durable. `thetaprime store import` reads it, into a store of any kind.
    """
    from thetaprime.server.store.backup import export_store
    from thetaprime.server.store.check import open_store

    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex}.part")
    with _failures("export"), contextlib.closing(open_store(place, blobs)) as store:
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY), "wb") as file:
                counts = export_store(store, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)
    _print_counts(f"wrote {output}", "output", str(output), dataclasses.asdict(counts), as_json)


@command.command(
    "import",
    cls=Command,
    examples=(
        "thetaprime store import state.tar --store ./restored",
        "thetaprime store import state.tar --store postgresql://thetaprime@database/thetaprime "
        "--blobs s3://bucket/thetaprime",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_place
@_blobs
@option(
    "--row-bytes",
    type=click.IntRange(0),
    help="As for thetaprime serve: payloads up to this size become rows.  [default: that of serve]",
)
@json_option
def import_command(file: Path, place: str, blobs: str | None, row_bytes: int | None, as_json: bool) -> None:
    """Read FILE, an export, into an empty store of any kind; creates the folder, or the tables of a PostgreSQL.

    All of the file is imported, or nothing. Start the servers of the store afterwards. Their sessions go on where the
    export found them: the next policies are the same to the bit.
    """
    from thetaprime.server.config import ROW_BYTES
    from thetaprime.server.places import without_password
    from thetaprime.server.store import Store
    from thetaprime.server.store.backup import import_store

    limit = ROW_BYTES if row_bytes is None else row_bytes
    with (
        _failures("import"),
        contextlib.closing(Store(place, row_bytes=limit, blobs=blobs, upgrades=True)) as store,
        file.open("rb") as opened,
    ):
        counts = import_store(store, opened)
    shown = without_password(place)
    _print_counts(f"read {file} into {shown}", "store", shown, dataclasses.asdict(counts), as_json)


def _print_counts(done: str, name: str, value: str, counts: dict[str, int], as_json: bool) -> None:
    numbers = "{sessions:,} sessions, {uploads:,} uploads, {policies:,} policies, {bytes:,} bytes in {blobs:,} blobs"
    console_for(as_json).print(f"{done}: {numbers.format(**counts)}", soft_wrap=True)
    if as_json:
        print_json({name: value, **counts})


@contextlib.contextmanager
def _failures(name: str) -> Iterator[None]:
    """Ends a command whose store, or whose file, cannot be used, with the exit status 2.

    Raises:
        CommandError: in place of the error.
    """
    import sqlalchemy as sa

    from thetaprime.server.errors import ServiceError, StartupError
    from thetaprime.server.store.backup import BackupError

    try:
        yield
    except (StartupError, ServiceError, BackupError, sa.exc.SQLAlchemyError, OSError) as error:
        raise CommandError(f"{_PROGRAM} {name}: {message_of(error)}", "FAILED_PRECONDITION", {}, _CANNOT) from error


def _size(size: int) -> str:
    return f" ({size:,} bytes)" if size else ""
