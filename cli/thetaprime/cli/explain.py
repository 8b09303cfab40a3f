"""``thetaprime explain``."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from thetaprime.cli._command import Command, option
from thetaprime.cli._connection import connect, connection_options
from thetaprime.cli._files import FIGURE_FORMATS, NewFile, force_option
from thetaprime.cli._output import console_for, json_option, print_json

if TYPE_CHECKING:
    from thetaprime.client import (
        AdaptationReport,
        ExplainedTrajectory,
        RoundExplanation,
        Session,
        Verdict,
        WeightyStep,
    )

_MOST_TRAJECTORIES: Final = 64
_SHOWN: Final = 5
_MARKED: Final = 8
_PLANE: Final = 2
"""Numbers of an observation that is a position in the plane."""
_DIGITS: Final = 6


@click.command(
    cls=Command,
    examples=(
        "thetaprime explain 0d1f6c0e4a5b4f0f8f3f5a1f3f0a2c11",
        "thetaprime explain 0d1f6c0e4a5b4f0f8f3f5a1f3f0a2c11 --round 0 --plot step.png",
    ),
)
@click.argument("session_id", metavar="SESSION")
@option(
    "--round",
    "round_index",
    type=click.IntRange(0),
    metavar="K",
    help="Explain the step from θ_K; 0 is the step from θ.  [default: the last step]",
)
@option(
    "--plot",
    type=NewFile(FIGURE_FORMATS),
    section="Output",
    help="Draw how much each piece of each episode pushed the step: along paths in the plane where an observation is a "
    "position, and otherwise over time, with the rewards. PNG, PDF or SVG.",
)
@force_option
@connection_options
@json_option
def command(
    session_id: str, round_index: int | None, plot: Path | None, force: bool, as_json: bool, **connection: Any
) -> None:
    """Explain one step of SESSION: the verdict with its numbers, and the episodes and time steps that pushed it.

    A session's id is what `thetaprime adapt` prints first. The server keeps the episodes until the session expires;
    after that, the verdict alone is left.

    A share is an episode's part of the step: all shares add up to 1, and an episode with a share below 0 pushed against
    the step. An influence is the part of the step that goes away without the episode.
    """
    console = console_for(as_json)
    with connect(**connection) as client:
        session = client.resume(session_id)
        if round_index is None and session.round == 0:
            raise click.UsageError(f"session {session_id} has taken no step yet")
        found = _explanation(session, round_index, required=plot is not None)
        index = session.round - 1 if round_index is None else round_index
        report = found.report if found is not None and found.report is not None else _report(session, index)
        console.print(f"session {session.id} of {session.meta_policy.label}", soft_wrap=True)
        marks: Sequence[WeightyStep] = () if found is None else weighty_steps(report, found)
        for line in _lines(session, index, report, found, marks):
            console.print(line, soft_wrap=True)
        if plot is not None and found is not None:
            is_plane = session.meta_policy.environment.observation_shape == (_PLANE,)
            decision = "" if report is None or report.verdict is None else f": {report.verdict.decision}"
            title = f"{session.meta_policy.label}, step from θ{_subscript(index)}{decision}"
            _draw(plot, title, found, marks, is_plane=is_plane)
            console.print(f"wrote {plot}", soft_wrap=True)
    if as_json:
        print_json(
            {
                "session": session.id,
                "meta_policy": session.meta_policy.label,
                "round": index,
                "report": None if report is None else dataclasses.asdict(report),
                "trajectories": [_facts(each, report) for each in ([] if found is None else found.trajectories)],
                "weighty_steps": [dataclasses.asdict(each) for each in marks],
                **({} if plot is None else {"plot": str(plot)}),
            }
        )


def _explanation(session: "Session", round_index: int | None, *, required: bool) -> "RoundExplanation | None":
    """Returns the explanation of a round; None where the server has deleted the episodes, or is too old."""
    from thetaprime.client import PreconditionError, ServerError

    try:
        return session.explain(round_index, trajectories=_MOST_TRAJECTORIES, dimensions=_PLANE)
    except PreconditionError:
        if required:
            raise
    except ServerError as error:
        if required or error.code != "UNIMPLEMENTED":
            raise
    return None


def _report(session: "Session", index: int) -> "AdaptationReport | None":
    return session.reports[index] if index < len(session.reports) else None


def weighty_steps(report: "AdaptationReport | None", found: "RoundExplanation") -> "Sequence[WeightyStep]":
    """Returns the weightiest time steps: those of the verdict, or else those of the explanation."""
    from thetaprime.client import WeightyStep

    if report is not None and report.verdict is not None and report.verdict.weighty_steps:
        return report.verdict.weighty_steps
    every = [
        WeightyStep(each.sha256, each.trajectory, step, float(push))
        for each in found.trajectories
        for step, push in enumerate(each.pushes)
        if push
    ]
    return sorted(every, key=lambda each: -abs(each.share))[:_MARKED]


def _lines(
    session: "Session",
    index: int,
    report: "AdaptationReport | None",
    found: "RoundExplanation | None",
    marks: "Sequence[WeightyStep]",
) -> Iterator[str]:
    """Yields the explanation in words."""
    if report is None:
        yield f"round {index}: no step was taken from these episodes"
    else:
        verdict = report.verdict
        decision = "taken (this server gives no verdicts)" if verdict is None else str(verdict.decision)
        yield f"step from θ{_subscript(index)} to θ{_subscript(index + 1)} (round {index}): {decision}"
        rows = list(_numbers(report, session.meta_policy.discount))
        if verdict is not None:
            rows += _verdict_rows(verdict, report)
        width = max(len(name) for name, _ in rows)
        yield from (f"  {name:<{width}}  {text}" for name, text in rows)
        if verdict is not None:
            yield from (f"  {reason} ({reason.value:.4g}, limit {reason.limit:.4g})" for reason in verdict.reasons)
    if found is None:
        yield "the server does not have the episodes of this round: they are deleted when the session expires"
        return
    yield from _episodes(report, found)
    if marks:
        yield "weightiest time steps (part of that step; below 0: against it):"
        yield from _steps(found, marks)


def _numbers(report: "AdaptationReport", usual_discount: float) -> Iterator[tuple[str, str]]:
    count = f"{report.trajectories} episode{'s'[: report.trajectories != 1]}"
    yield "return before", f"{report.mean_return:.4g} ± {report.std_return:.4g} over {count}"
    yield "length", f"mean KL divergence {report.kl_divergence:.4g} nats"
    if report.discount is not None:
        why = ""
        if report.discount != usual_discount:
            why = f" in place of {usual_discount:.4g}: the first episodes' rewards come late"
        yield "discount", f"{report.discount:.4g}{why}"


def _verdict_rows(verdict: "Verdict", report: "AdaptationReport") -> Iterator[tuple[str, str]]:
    if verdict.task_p_value is not None:
        yield (
            "familiar task",
            f"p-value {verdict.task_p_value:.2g} (conformal test against held-out training tasks; small is unfamiliar)",
        )
    if verdict.realized_gain is not None:
        yield "realized gain", f"{verdict.realized_gain} (of the step before, measured by this round's episodes)"
    if verdict.predicted_gain is not None:
        size = verdict.effective_sample_size
        source = "calibrated on held-out training tasks"
        if size > 0:
            source = f"importance weights, worth {size:.3g} of {report.trajectories} episodes"
        yield "predicted gain", f"{verdict.predicted_gain} ({source})"
    if verdict.episodes_needed is not None:
        yield (
            "episodes needed",
            f"{verdict.episodes_needed}, by the noise of the gradient; the round had {report.trajectories}",
        )
    yield "best so far", f"θ{_subscript(verdict.best_round)}"


def _episodes(report: "AdaptationReport | None", found: "RoundExplanation") -> Iterator[str]:
    """Yields a table of the episodes that the step rests on."""
    facts = [_facts(each, report) for each in found.trajectories]
    facts.sort(key=lambda each: -abs(each["share"] if each["influence"] is None else each["influence"]))
    by = "influential" if facts and facts[0]["influence"] is not None else "weighty"
    yield f"most {by} episodes, by the step that the inner loop asks for, {min(_SHOWN, len(facts))} of {found.total}:"
    yield f"  {'episode':<10}  {'return':>10}  {'share':>8}  {'influence':>9}"
    for each in facts[:_SHOWN]:
        influence = "" if each["influence"] is None else f"{each['influence']:.3f}"
        yield f"  {each['label']:<10}  {each['return']:>10.4g}  {each['share']:>+8.3f}  {influence:>9}".rstrip()


def _steps(found: "RoundExplanation", marks: "Sequence[WeightyStep]") -> Iterator[str]:
    rewards = {(each.sha256, each.trajectory): each.rewards for each in found.trajectories}
    for number, mark in enumerate(marks, 1):
        known = rewards.get((mark.sha256, mark.trajectory))
        reward = "" if known is None else f", reward {known[mark.step]:.4g}"
        yield f"  {number}  {_label(mark.sha256, mark.trajectory)} step {mark.step}: {mark.share:+.4f}{reward}"


def _facts(trajectory: "ExplainedTrajectory", report: "AdaptationReport | None") -> dict[str, Any]:
    """Returns what is known of one episode."""
    influence = None
    for upload in () if report is None else report.uploads:
        if upload.sha256 == trajectory.sha256 and upload.influences:
            influence = upload.influences[trajectory.trajectory]
    return {
        "label": _label(trajectory.sha256, trajectory.trajectory),
        "sha256": trajectory.sha256,
        "trajectory": trajectory.trajectory,
        "return": trajectory.undiscounted_return,
        "share": trajectory.share,
        "influence": influence,
    }


def _draw(path: Path, title: str, found: "RoundExplanation", marks: "Sequence[WeightyStep]", *, is_plane: bool) -> None:
    from thetaprime.training.evaluation.figures.pushes import Mark, PushedTrajectory, pushes_figure
    from thetaprime.training.evaluation.figures.style import save

    rows = {(each.sha256, each.trajectory): row for row, each in enumerate(found.trajectories)}
    trajectories = [
        PushedTrajectory(
            _label(each.sha256, each.trajectory), each.rewards, each.pushes, each.observations if is_plane else None
        )
        for each in found.trajectories
    ]
    marked = [
        Mark(rows[each.sha256, each.trajectory], each.step) for each in marks if (each.sha256, each.trajectory) in rows
    ]
    save(pushes_figure(title, trajectories, marked), path)


def _label(sha256: str, trajectory: int) -> str:
    return f"{sha256[:_DIGITS]}·{trajectory}"


def _subscript(index: int) -> str:
    return "" if index == 0 else "′" + str(index).translate(_SUBSCRIPTS)


_SUBSCRIPTS: Final = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
