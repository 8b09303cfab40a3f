"""Writes the tables of docs/trust-in-adaptation.md from benchmarks/verdicts/results.json.

python benchmarks/verdicts/page.py              write it
python benchmarks/verdicts/page.py --check      check that it is up to date
python benchmarks/verdicts/page.py --measure    measure the records of run.py first: their cases alone change
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

RESULTS: Final = Path(__file__).with_name("results.json")
PAGE: Final = ROOT / "docs" / "trust-in-adaptation.md"
RECORDS_OF_PPO: Final = ROOT / "build" / "verdicts" / "ppo.jsonl"
_BEGIN, _END = "<!-- measured by make verdicts -->", "<!-- until here -->"

SECTIONS: Final[dict[str, tuple[str, str]]] = {
    "top": (
        "One step outside",
        "The mean return of each policy that a session hands out, with `caution` at its default. R_3 is the return of "
        "20 fresh episodes. An episode of point-navigation ends at the goal: with 1 more a step it pays not to arrive. "
        "Below the range, a lower return has two explanations, a farther goal and a negative offset: the first step is "
        "short enough for both.",
    ),
    "test": (
        "In range: what caution costs",
        "The test tasks of [the results](results.md), three steps, with `caution` `off` and `hold` on the same tasks "
        "and seeds. S_k is the normalized score of that page; it is left out where not all of its tasks were run. The "
        "cost is the difference of the scores. Aim: at most 0.005 in S_1, and R_1 < R_0 on no task.",
    ),
    "scale": (
        "Rewards in other units",
        "Every reward times a, one step. The number is the rise from R_0 to R_1, in the environment's units, as a part "
        "of the unscaled rise. Aim: 0.97 to 1.03.",
    ),
    "offset": (
        "Rewards with an offset",
        "Every step's reward plus b, four rounds. The number is the rise from R_0 to the policy that the session keeps "
        "after its fourth round, as a part of the rise without offset. Navigation goes on at the goal here, so that "
        "episodes have one length. Aim: at least 0.95, and no round below R_0.",
    ),
    "beyond": (
        "Beyond the range",
        "Twenty rounds of 20 episodes. “off” takes every step. “Best at k” is the measured return of the policy that "
        "the session would return to after k rounds. A round is below the best if the difference exceeds three "
        "standard errors. PPO is that of Stable-Baselines3 with its defaults, from the same θ on as many episodes "
        "(`benchmarks/ppo.py`). Aim: at round 10 about the best that 20 unguarded rounds pass through, no fall from "
        "then on, and at every round at least PPO's return.",
    ),
    "harm": (
        "Sessions that invite harm",
        "Five rounds. The policy that a session keeps, and its last one, are compared with θ over 40 fresh episodes "
        "each, in the rewards before noise or delay; after a flip, in the flipped reward; for two tasks, in their "
        "mean. “Below” is by more than three standard errors. Aim: at most 0.01 of the sessions.",
    ),
    "familiar": (
        "`task_p_value`",
        "AUROC is the chance that a task outside has a smaller value than a task in range. Other bodies count after "
        "two rounds. Aim: 0.95, and 0.85 for other bodies; false alarms between 0.02 and 0.08.",
    ),
    "gain": (
        "`predicted_gain` and `realized_gain`",
        "The truth is the difference of two means of 200 fresh episodes. The sign counts where the truth differs from "
        "0 by two standard errors. Aim: 0.95 of the signs, and 0.85 to 0.95 of the truths inside the 90 % interval.",
    ),
    "short": (
        "`predicted_gain` of a short step",
        "One step within the session's `max_kl`, from θ, judged by the round's own 20 episodes. The truth, the signs "
        "and the aims are those of the table above.",
    ),
    "needed": (
        "`episodes_needed`",
        "The true number is that at which the rise of one step reaches 95 % of its value with 40 episodes, from "
        "sessions with 2, 5, 10, 20 and 40 episodes. Aim: a median ratio between 0.5 and 2.",
    ),
    "planted": (
        "A planted bad episode",
        "One of 20 episodes comes from another task, at least a quarter of the range away, or has rewards of the "
        "opposite sign. The number is how often its "
        "influence is one of the two largest. Aim: 0.95.",
    ),
}
_LARGE: Final = 100


def main() -> None:
    """Writes the page, or checks that it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if the page is out of date")
    parser.add_argument(
        "--measure", nargs="*", type=Path, metavar="RECORDS", help="files of records; default: run.py's"
    )
    arguments = parser.parse_args()
    if arguments.measure is not None:
        _measure(arguments.measure)
    written = PAGE.read_text()
    marked = re.compile(rf"(?<={re.escape(_BEGIN)}\n).*(?={re.escape(_END)})", re.DOTALL)
    text = marked.sub(lambda _: measured_part(json.loads(RESULTS.read_text())), written)
    if not arguments.check:
        PAGE.write_text(text)
        print(f"wrote {PAGE.relative_to(ROOT)}")
    elif text != written:
        raise SystemExit(f"{PAGE.relative_to(ROOT)} is out of date: run python benchmarks/verdicts/page.py")
    else:
        print(f"{PAGE.relative_to(ROOT)} is up to date")


def _measure(files: Sequence[Path]) -> None:
    # Imported here: a check needs no simulator.
    from benchmarks.measure import machine
    from benchmarks.verdicts.measures import measure
    from benchmarks.verdicts.run import default_records, read

    found = files or [default_records(), RECORDS_OF_PPO]
    records = [record for file in found for record in read(file)]
    results = json.loads(RESULTS.read_text())
    taken = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "commit": _commit(), "machine": machine()}
    for case, rows in measure(records).items():
        sessions = Counter(
            record.get("through", "server")
            for record in {each["key"]: each for each in records if each["trial"]["case"] == case}.values()
        )
        if sessions:
            results["cases"][case] = {
                **taken,
                "sessions": dict(sessions),
                "rows": merged(rows, results["cases"].get(case, {}), taken["commit"]),
            }
            print(f"{case}: {sum(sessions.values())} sessions")
    RESULTS.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    print(f"wrote {RESULTS.relative_to(ROOT)}")


def merged(rows: Sequence[Mapping[str, Any]], before: Mapping[str, Any], commit: str) -> list[dict[str, Any]]:
    """Returns the rows of a table, with what earlier ones know beside them.

    A row of a long session keeps the returns of PPO, which do not depend on this project's code. Tasks that were not
    measured again keep their rows. Each names its commit.

    Args:
        rows: newly measured.
        before: the table so far, of `results.json`; empty for none.
        commit: of the new rows.
    """
    known = {row["task"]: row for row in before.get("rows", ()) if "R_0" in row and "best at 10" in row}
    if not known:
        return [dict(row) for row in rows]
    found = []
    for row in rows:
        ppo = {name: value for name, value in known.get(row["task"], {}).items() if name.startswith("PPO")}
        found.append({**row, **ppo, **{k: v for k, v in row.items() if k.startswith("PPO")}, "commit": commit})
    new = {row["task"] for row in rows}
    return found + [{"commit": before["commit"], **row} for task, row in known.items() if task not in new]


def _commit() -> str:
    """The last commit that changed the code behind the verdicts."""
    command = ("git", "-C", str(ROOT), "log", "-1", "--format=%h", "--", "models", "server")
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def measured_part(results: Mapping[str, Any]) -> str:
    """Returns the tables of the page as Markdown.

    Args:
        results: the content of `results.json`.
    """
    text = (
        "Each table names its date, its commit and its sessions: those through a server in another process, with plain "
        "environments behind it, and those in the process of the measurement, with the step function that the server "
        "calls. Returns are in the environment's units. A number that is not there was not measured.\n"
    )
    for case, (title, introduction) in SECTIONS.items():
        if found := results["cases"].get(case):
            text += f"\n### {title}\n\n{introduction}\n\n{table(found['rows'])}\n{_origin(found)}\n"
    machines = dict.fromkeys(found["machine"] for found in results["cases"].values())
    return f"{text}\nMeasured on: {'; '.join(machines)}.\n"


def _origin(found: Mapping[str, Any]) -> str:
    """When a table was measured, of which code, and from how many sessions."""
    places = {"server": "through a server", "process": "in process"}
    counts = [
        f"{found['sessions'][how]:,} sessions {words}" for how, words in places.items() if how in found["sessions"]
    ]
    commit = f" at commit {found['commit']}" if found["commit"] else ""
    return f"Measured on {found['date']}{commit}{': ' if counts else ''}{' and '.join(counts)}."


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows as a Markdown table, with a column for each key; without those that are empty in every row."""
    names = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if any(_text(row.get(name)) for row in rows)
    ]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(_text(row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= _LARGE else f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("_", "\\_") if isinstance(value, str) else str(value)


if __name__ == "__main__":
    main()
