"""``thetaprime store``."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._errors import CommandError, message_of
from thetaprime.cli._output import console_for, json_option, print_json

_FOUND, _CANNOT = 1, 2
_PROGRAM: Final = "thetaprime store check"


@click.group()
def command() -> None:
    """Check the store of a server, and mend it."""


@command.command(
    "check",
    cls=Command,
    examples=(
        "thetaprime store check --store ./state",
        "thetaprime store check --store ./state --repair",
        "thetaprime store check --store ./state --json",
    ),
)
@option(
    "--store",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder of the store, as for thetaprime serve.",
)
@option("--repair", "repairs", is_flag=True, help="Mend what can be mended without losing anything acknowledged.")
@json_option
def check(folder: Path, repairs: bool, as_json: bool) -> int:
    """Find what no row names, what is missing or damaged, and what is counted wrong.

    Reads the whole store. A server may run on it meanwhile, also with --repair. Blobs in files count as left behind
    once they are an hour old: a server may be about to name a younger one.

    --repair deletes what no session needs, and counts again. Blobs that are missing or damaged cannot be mended:
    restore them from a backup of the folder.

    The exit status is 0 if nothing is wrong (any more), 1 if something is, and 2 if the store cannot be read.
    """
    import sqlalchemy as sa

    from thetaprime.server.errors import ServiceError, StartupError
    from thetaprime.server.store.check import check as check_store
    from thetaprime.server.store.check import open_store, repair

    try:
        with contextlib.closing(open_store(folder)) as store:
            found = check_store(store)
            mended = []
            if repairs and found:
                repair(store)
                left = check_store(store)
                mended = [each for each in found if each.kind not in {other.kind for other in left}]
                found = left
    except (StartupError, ServiceError, sa.exc.SQLAlchemyError, OSError) as error:
        raise CommandError(f"{_PROGRAM}: {message_of(error)}", "FAILED_PRECONDITION", {}, _CANNOT) from error
    console = console_for(as_json)
    for each in mended:
        console.print(f"mended: {each.count} {each.problem}{_size(each.bytes)}", soft_wrap=True)
    for each in found:
        remedy = "mend with --repair" if each.mendable else "restore from a backup"
        console.print(f"found: {each.count} {each.problem}{_size(each.bytes)}: {remedy}", soft_wrap=True)
    console.print(f"{folder}: {'problems found' if found else 'nothing is wrong'}", soft_wrap=True)
    if as_json:
        facts = {"found": [dataclasses.asdict(each) for each in found]}
        print_json({"store": str(folder), **facts, "mended": [dataclasses.asdict(each) for each in mended]})
    return _FOUND if found else 0


def _size(size: int) -> str:
    return f" ({size:,} bytes)" if size else ""
