"""``thetaprime sessions``."""

import dataclasses
import datetime
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._connection import connect, connection_options
from thetaprime.cli._output import console_for, json_option, print_json

if TYPE_CHECKING:
    from thetaprime.client import AdaptationReport, SessionInfo

_STATES: Final = ("open", "closed", "expired")
_DEFAULT_LIMIT: Final = 100


@click.group()
def command() -> None:
    """List, show and close the sessions of a server: those of your token's tenant."""


@command.command(
    "list",
    cls=Command,
    examples=(
        "thetaprime sessions list",
        "thetaprime sessions list --state open --meta-policy half-cheetah-velocity --limit 1000 --json",
        "thetaprime sessions list --after 0d1f6c0e4a5b4f0f8f3f5a1f3f0a2c11",
    ),
)
@option("--state", type=click.Choice(_STATES), section="Filters", help="Only sessions in this state.")
@option("--meta-policy", metavar="NAME[@VERSION]", section="Filters", help="Only sessions that adapt this meta-policy.")
@option(
    "--older-than",
    type=click.FloatRange(0),
    metavar="HOURS",
    section="Filters",
    help="Only sessions that were created at least so many hours ago.",
)
@option(
    "--limit",
    type=click.IntRange(1),
    default=_DEFAULT_LIMIT,
    show_default=True,
    section="Pages",
    help="Sessions to list.",
)
@option(
    "--after", metavar="SESSION", section="Pages", help="Begin after this session: the last one of the page before."
)
@connection_options
@json_option
def list_command(
    state: str | None,
    meta_policy: str | None,
    older_than: float | None,
    limit: int,
    after: str | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """List sessions, newest first: id, state, rounds taken, meta-policy, age and time to expiry."""
    console, now = console_for(as_json), datetime.datetime.now(datetime.UTC)
    with connect(**connection) as client:
        found = _after(client.sessions(), after)
        matching = (each for each in found if _matches(each, state, meta_policy, older_than, now))
        page = list(itertools.islice(matching, limit + 1))
    shown, more = page[:limit], len(page) > limit
    for each in shown:
        # The id comes first and is never folded: it is copied.
        facts = (
            f"{each.state:8}{each.round:>4} rounds  {each.meta_policy.label:32}{_age(now - each.create_time):>6} old"
        )
        left = each.expire_time - now
        ends = f", expires in {_age(left)}" if left.total_seconds() > 0 else ""
        console.print(f"{each.session_id}  {facts}{ends}", soft_wrap=True)
    if not shown:
        console.print("no sessions", soft_wrap=True)
    if more:
        console.print(f"more: --after {shown[-1].session_id}", soft_wrap=True)
    if as_json:
        print_json({
            "sessions": [_facts(each) for each in shown],
            "next": shown[-1].session_id if more else None,
        })  # fmt: skip


@command.command(
    "show",
    cls=Command,
    examples=("thetaprime sessions show 0d1f6c0e4a5b4f0f8f3f5a1f3f0a2c11",),
)
@click.argument("session_id", metavar="SESSION")
@connection_options
@json_option
def show(session_id: str, as_json: bool, **connection: Any) -> None:
    """Show SESSION: its state, the uploads of its round, and each of its steps with its verdict.

    `thetaprime explain` says more about one step.
    """
    console = console_for(as_json)
    with connect(**connection) as client:
        info, reports = client.describe_session(session_id)
    for line in _lines(info, reports):
        console.print(line, soft_wrap=True)
    if as_json:
        print_json({**_facts(info), "steps": [_step(each) for each in reports]})


@command.command(
    "close",
    cls=Command,
    examples=(
        "thetaprime sessions close 0d1f6c0e4a5b4f0f8f3f5a1f3f0a2c11",
        "thetaprime sessions close 0d1f6c0e4a5b4f0f8f3f5a1f3f0a2c11 7b0a4c5f2f0e4f4b9d1f0c3a5e6d7f80 --json",
    ),
)
@click.argument("session_ids", metavar="SESSION...", nargs=-1, required=True)
@connection_options
@json_option
def close(session_ids: tuple[str, ...], as_json: bool, **connection: Any) -> None:
    """Close one or more sessions: they take no more uploads and steps. Their policies stay readable.

    A closed session stays closed. The first session that cannot be closed ends the command.
    """
    console, closed = console_for(as_json), []
    with connect(**connection) as client:
        for session_id in session_ids:
            info = client.close_session(session_id)
            closed.append(info)
            until = f"policies readable until {_time(info.delete_time)}" if info.round else "it has no policies"
            console.print(f"{info.session_id}: {info.state}; {until}", soft_wrap=True)
    if as_json:
        print_json({"sessions": [_facts(each) for each in closed]})


def _after(found: "Iterator[SessionInfo]", session_id: str | None) -> "Iterator[SessionInfo]":
    """Skips the sessions up to and including one.

    Raises:
        click.BadParameter: it is not among them.
    """
    if session_id is None:
        return found
    for each in found:
        if each.session_id == session_id:
            return found
    raise click.BadParameter(f"{session_id!r}; expected a session that is listed", param_hint="--after")


def _matches(
    info: "SessionInfo",
    state: str | None,
    meta_policy: str | None,
    older_than: float | None,
    now: datetime.datetime,
) -> bool:
    names = (info.meta_policy.name, info.meta_policy.label)
    hours = (now - info.create_time).total_seconds() / 3600
    return (
        (state is None or info.state == state)
        and (meta_policy is None or meta_policy in names)
        and (older_than is None or hours >= older_than)
    )


def _lines(info: "SessionInfo", reports: "Sequence[AdaptationReport]") -> Iterator[str]:
    batch = info.batch
    yield f"session {info.session_id} of {info.meta_policy.label}: {info.state}, {info.round} rounds taken"
    yield f"created {_time(info.create_time)}, expires {_time(info.expire_time)}"
    if info.round:
        yield f"policies readable until {_time(info.delete_time)}"
    yield f"round {info.round}: {batch.uploads} uploads, {batch.trajectories} episodes, {batch.steps} steps"
    if info.doubt:
        yield f"doubted: {info.doubt}"
    for each in reports:
        decision = "" if each.verdict is None else f"{each.verdict.decision}, "
        yield (
            f"step {each.round + 1}: {decision}return {each.mean_return:.4g} ± {each.std_return:.3g} before it, "
            f"{each.trajectories} episodes, KL {each.kl_divergence:.3g}"
        )


def _facts(info: "SessionInfo") -> dict[str, Any]:
    times = {name: getattr(info, name).isoformat() for name in ("create_time", "expire_time", "delete_time")}
    return {
        "session": info.session_id,
        "meta_policy": info.meta_policy.label,
        "state": info.state,
        "round": info.round,
        "policy_id": info.policy_id,
        "batch": dataclasses.asdict(info.batch),
        **times,
        "doubt": info.doubt,
        "best": None if info.best is None else info.best._asdict(),
    }


def _step(report: "AdaptationReport") -> dict[str, Any]:
    names = ("round", "trajectories", "steps", "mean_return", "std_return", "kl_divergence", "entropy", "seconds")
    decision = None if report.verdict is None else str(report.verdict.decision)
    return {**{name: getattr(report, name) for name in (*names, "discount")}, "decision": decision}


def _time(time: datetime.datetime) -> str:
    return time.isoformat(sep=" ", timespec="seconds")


def _age(duration: datetime.timedelta) -> str:
    """Returns a duration in its largest unit."""
    seconds = duration.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
