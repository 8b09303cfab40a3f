"""``thetaprime store``."""

import contextlib
import dataclasses
from typing import Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._errors import CommandError, message_of
from thetaprime.cli._output import console_for, json_option, print_json

_FOUND, _CANNOT = 1, 2
_PROGRAM: Final = "thetaprime store check"


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
    """Check the store of a server, mend it, and bring its tables to this release."""


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
        raise CommandError(f"thetaprime store upgrade: {error}", "FAILED_PRECONDITION", {}, _CANNOT) from error
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
    import sqlalchemy as sa

    from thetaprime.server.errors import ServiceError, StartupError
    from thetaprime.server.places import without_password
    from thetaprime.server.store.check import check as check_store
    from thetaprime.server.store.check import open_store, repair

    try:
        with contextlib.closing(open_store(place, blobs)) as store:
            found = check_store(store)
            mended = []
            if repairs and found:
                repair(store)
                left = check_store(store)
                mended = [each for each in found if each.kind not in {other.kind for other in left}]
                found = left
    except (StartupError, ServiceError, sa.exc.SQLAlchemyError, OSError) as error:
        raise CommandError(f"{_PROGRAM}: {message_of(error)}", "FAILED_PRECONDITION", {}, _CANNOT) from error
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


def _size(size: int) -> str:
    return f" ({size:,} bytes)" if size else ""
