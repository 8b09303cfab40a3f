"""Writes docs/speed.md from benchmarks/results.json: what everything costs, beside what it is compared with.

python benchmarks/speed.py            write it
python benchmarks/speed.py --check    say whether it is up to date
"""

import itertools
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).with_name("results.json")
PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "speed.md"

_HEAD: Final = """# How fast it is

Two ways of doing one thing, timed in turn in one run, so that a noisy machine is as noisy for both: ThetaPrime's, and
what it is compared with. The ratio of their medians is what counts, and "aim" is what it should be at most; an aim
that was missed is told in bold. `make bench` measures all of it again and writes this page,
`make bench BENCH=round` one part of it.

"""
_SECTIONS: Final = {
    "act": (
        "To act",
        "`AdaptedPolicy.act` with the shipped half-cheetah policy, against a bare onnxruntime session on the same file "
        "and with one thread. Asking a server is an echo in a process of its own: the least that it could cost.",
    ),
    "policy": ("To hold a policy", "A load is the whole of it: digest, session, golden vectors."),
    "collection": ("To collect", "`collect` from a vector environment, against the same loop written on onnxruntime."),
    "import": ("To import", "`import thetaprime.client`, against importing what it depends on."),
    "export": ("To write the ONNX file", "Against tracing the policy with torch each time."),
    "round": (
        "One round",
        "From `session.upload` to a loaded θ′ that acts: 20 episodes of 200 half-cheetah steps over loopback, checked, "
        "on the disk, with its report; θ′ on the disk before it is sent. Against the bare gradient, of plain torch, on "
        "arrays that are there already, on one thread and in memory that is kept, as the server's; and against what "
        "one would write without a service, that gradient and `torch.onnx.export` in one process.",
    ),
    "load": ("Many clients", "Their process takes some of the same processors, so the server's own time is compared."),
    "flood": ("Beside a flood", "Another tenant sends whole rounds, as many at once as its queue takes and more."),
    "idle": ("Sessions that wait", ""),
    "start": ("To start", "With the five shipped meta-policies. Most of it is `import torch`."),
    "sampler": (
        "To train",
        "Simulation with the policy in the loop, 20 tasks of 20 robots, each task with its own θ′; and how much of an "
        "iteration of meta-training is anything else.",
    ),
}


def main() -> None:
    """Writes the page, or checks it."""
    text = page(json.loads(RESULTS.read_text()))
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text)
        print("wrote docs/speed.md")
    elif not PAGE.exists() or PAGE.read_text() != text:
        raise SystemExit("docs/speed.md is out of date: run python benchmarks/speed.py")
    else:
        print("docs/speed.md is up to date")


def page(rows: Iterable[Mapping[str, Any]]) -> str:
    """The page, in Markdown.

    Args:
        rows: those of `benchmarks/results.json`, the rows of one benchmark together.
    """
    text, machines = _HEAD, set()
    for name, group in itertools.groupby(rows, key=lambda row: row["benchmark"]):
        title, said = _SECTIONS[name]
        measured = list(group)
        machines |= {row["machine"] for row in measured}
        text += f"## {title}\n\n" + (f"{said}\n\n" if said else "") + _table(measured)
        for row in measured:
            if row["parts"]:
                text += f"\nWhere it goes, each part measured by itself:\n\n{_parts(row)}"
        text += "\n"
    return text + f"Measured on: {'; '.join(sorted(machines))}.\n"


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = ["| what / compared with | this | that | ratio | aim |", "|---|---|---|---|---|"]
    for row in rows:
        ratio = f"{row['ratio']:.3g}" if row["holds"] else f"**{row['ratio']:.3g}**"
        values = (f"{row[key]:.3g} {row['unit']}" for key in ("ours", "reference"))
        lines.append("| " + " | ".join((row["name"], *values, ratio, f"{row['budget']:.3g}")) + " |")
    return "\n".join(lines) + "\n"


def _parts(row: Mapping[str, Any]) -> str:
    lines = [f"| part | {row['unit']} | share |", "|---|---|---|"]
    lines += [f"| {name} | {value:.2g} | {value / row['ours']:.0%} |" for name, value in row["parts"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
