"""Writes docs/speed.md from benchmarks/results.json.

python benchmarks/speed.py            write it
python benchmarks/speed.py --check    check that it is up to date
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

Each row compares ThetaPrime with a reference. Both are timed alternately in one run, so that noise of the machine
affects both alike. The ratio of the medians is the result. "Aim" is its upper limit; a ratio above its aim is bold.
`make bench` measures everything again and writes this page; `make bench BENCH=round` measures one part.

"""
_SECTIONS: Final = {
    "act": (
        "Acting",
        "`AdaptedPolicy.act` with the shipped half-cheetah policy, compared with a bare onnxruntime session on the "
        "same file, with one thread. The last row compares it with a call to an echo server in another process, a "
        "lower bound for a server that acts.",
    ),
    "memory": (
        "Acting with a memory",
        "`AdaptedPolicy.act` and `observe` with a GRU of 128 numbers, compared with a bare onnxruntime session on the "
        "same file whose state is fed back, with one thread.",
    ),
    "policy": ("Loading a policy", "A load checks the digest, creates the session and runs the golden vectors."),
    "collection": (
        "Collecting",
        "`collect` from a vector environment, compared with the same loop on bare onnxruntime.",
    ),
    "import": ("Importing", "`import thetaprime.client`, compared with the import of its dependencies."),
    "export": ("Writing the ONNX file", "Compared with tracing the policy with torch each time."),
    "round": (
        "One round",
        "From `session.upload` to a loaded θ′ that acts: 20 episodes of 200 half-cheetah steps over loopback. The "
        "upload is validated and durable, the step has its report, and θ′ is durable before it is sent. The first "
        "reference is the bare gradient of plain torch on arrays in memory, with one thread and kept memory, as in "
        "the server. The second is a program without a service: that gradient and `torch.onnx.export` in one process. "
        "All parameters of this untrained policy adapt, so that its gain is cross-fitted, which takes most of its "
        "verdict. The step begins before its upload is committed: the commit, the acknowledgement and the call of "
        "`Adapt` run beside it, and appear in no part.",
    ),
    "load": ("Many clients", "The clients run on the same processors, so the server's processor time is compared."),
    "flood": ("During a flood", "Another tenant takes rounds in parallel, more than its queue holds."),
    "idle": ("Idle sessions", ""),
    "start": ("Starting", "With the five shipped meta-policies. Most of the time is `import torch`."),
    "sampler": (
        "Training",
        "Simulation with the policy in the loop: 20 tasks with 20 robots each, and a separate θ′ for each task. The "
        "last row is the share of a meta-training iteration outside of sampling.",
    ),
    "bodies": (
        "Families of bodies",
        "400 half-cheetahs of 20 different bodies, with rewards and observations, compared with bare `mujoco.rollout` "
        "of one body with the same random controls, in processor time.",
    ),
}

_PARTS: Final = {
    "round": "Its parts, one after another by the clock, in another run of it:",
    "load": "Its parts, by the thread of the server that they run on:",
}


def main() -> None:
    """Writes the page, or checks that it is up to date."""
    text = page(json.loads(RESULTS.read_text()))
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text)
        print("wrote docs/speed.md")
    elif not PAGE.exists() or PAGE.read_text() != text:
        raise SystemExit("docs/speed.md is out of date: run python benchmarks/speed.py")
    else:
        print("docs/speed.md is up to date")


def page(rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns the page as Markdown.

    Args:
        rows: the rows of `benchmarks/results.json`, grouped by benchmark.
    """
    text, machines = _HEAD, set()
    for name, group in itertools.groupby(rows, key=lambda row: row["benchmark"]):
        title, introduction = _SECTIONS[name]
        measured = list(group)
        machines |= {row["machine"] for row in measured}
        text += f"## {title}\n\n" + (f"{introduction}\n\n" if introduction else "") + _table(measured)
        for row in measured:
            if row["parts"]:
                text += f"\n{_PARTS[name]}\n\n{_parts(row)}"
        text += "\n"
    return text + f"Measured on: {'; '.join(sorted(machines))}.\n"


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = ["| ThetaPrime / reference | ThetaPrime | reference | ratio | aim |", "|---|---|---|---|---|"]
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
