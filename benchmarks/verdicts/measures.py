"""Turns the records of sessions into the numbers of the tables. What a record lacks is left out, never assumed."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.verdicts.cases import META_POLICIES, TEST_SEEDS, TEST_TASKS
from benchmarks.verdicts.trials import mean_and_error
from thetaprime.models import load_meta_policy, resolve_meta_policy
from thetaprime.training.evaluation.comparisons import EVALUATION_NAME

Record = dict[str, Any]
Row = dict[str, str | float | int | None]

NOISE_ERRORS: Final = 3.0
"""A return is below another one by more than noise if the difference exceeds this many standard errors."""
FALSE_ALARM: Final = 0.05
ENOUGH: Final = 0.95
_LEAST: Final = 2


def theta(record: Record) -> tuple[float, float]:
    """R_0 and its standard error: of fresh episodes if θ was measured so, otherwise of the first round."""
    return _fresh(record, 0) or mean_and_error(record["rounds"][0]["return"])


def last(record: Record) -> tuple[float, float]:
    """Return of the last policy, and its standard error, over fresh episodes."""
    found = _fresh(record, len(record["rounds"]))
    if found is None:
        # The session stopped before the last step.
        return mean_and_error(record["rounds"][-1]["return"])
    return found


def kept(record: Record) -> tuple[float, float]:
    """Return of the policy that the session handed out at the end, and its standard error."""
    return _fresh(record, record["kept"]) or last(record)


def has_verdicts(record: Record) -> bool:
    """Whether the server decided about the steps."""
    return any(each.get("verdict", {}).get("decision") for each in record["rounds"])


def handed_out(record: Record) -> list[tuple[float, float]]:
    """Return of θ_0, θ_1 and so on, and its standard error: the rounds' own episodes, and fresh ones at the end."""
    found = [mean_and_error(each["return"]) for each in record["rounds"]]
    end = _fresh(record, len(found))
    return found if end is None else [*found, end]


def below(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether a return is below another one by more than noise."""
    return bool(other[0] - one[0] > NOISE_ERRORS * np.hypot(one[1], other[1]))


def _fresh(record: Record, k: int) -> tuple[float, float] | None:
    found = record["fresh"].get(str(k))
    return None if found is None else (found[0], found[1])


def _grouped(records: Iterable[Record], *names: str) -> dict[tuple[Any, ...], list[Record]]:
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        groups[tuple(_hashable(record["trial"][name]) for name in names)].append(record)
    return groups


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _decisions(records: Sequence[Record]) -> str:
    """The decisions of all rounds, and how often each."""
    counts: dict[str, int] = defaultdict(int)
    for record in records:
        for each in record["rounds"]:
            if decision := each.get("verdict", {}).get("decision"):
                counts[decision.removeprefix("DECISION_")] += 1
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda each: -each[1]))


def _reasons(records: Sequence[Record]) -> str:
    counts: dict[str, int] = defaultdict(int)
    for record in records:
        codes = {
            reason.get("code", "").removeprefix("REASON_CODE_")
            for each in record["rounds"]
            for reason in each.get("verdict", {}).get("reasons", ())
        }
        for code in codes:
            counts[code] += 1
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda each: -each[1]))


def top(records: Sequence[Record]) -> list[Row]:
    """Mean return of each round's policy."""
    rows: list[Row] = []
    for (name,), group in _grouped(records, "name").items():
        curves = np.array([[mean for mean, _ in handed_out(each)] for each in group if not each["failure"]])
        row: Row = {"task": name}
        row |= {f"R_{k}": float(value) for k, value in enumerate(curves.mean(axis=0))}
        rows.append({**row, "sessions": len(group), "decisions": _decisions(group), "reasons": _reasons(group)})
    return rows


def scale(records: Sequence[Record]) -> list[Row]:
    """Rise from R_0 to R_1 with scaled rewards, in parts of the unscaled rise."""
    return [
        {"meta-policy": meta_policy, **cells, "tasks": count}
        for meta_policy, cells, count in _rise_ratios(records, lambda record: last(record)[0])
    ]


def offset(records: Sequence[Record]) -> list[Row]:
    """The same to R_4 with a constant added to each step's reward, and how many rounds fell below R_0."""
    rows: list[Row] = []
    for meta_policy, cells, count in _rise_ratios(records, lambda record: kept(record)[0]):
        group = [each for each in records if each["trial"]["meta_policy"] == meta_policy and each["trial"]["change"]]
        lower = [below(each, theta(record)) for record in group for each in handed_out(record)[1:]]
        rows.append({"meta-policy": meta_policy, **cells, "rounds below R_0": _share(lower), "tasks": count})
    return rows


def _rise_ratios(
    records: Sequence[Record], end: Callable[[Record], float]
) -> Iterable[tuple[str, dict[str, float], int]]:
    for (meta_policy,), group in _grouped(records, "meta_policy").items():
        by_task = _grouped(group, "seed", "goal")
        names = list(dict.fromkeys(each["trial"]["name"] for each in group))
        whole = [
            {each["trial"]["name"]: each for each in task}
            for task in by_task.values()
            if len({each["trial"]["name"] for each in task}) == len(names)
        ]
        if not whole:
            continue
        rises = {
            name: sum(end(task[name]) - mean_and_error(task[name]["rounds"][0]["return"])[0] for task in whole)
            for name in names
        }
        yield meta_policy, {name: rises[name] / rises[names[0]] for name in names[1:]}, len(whole)


def beyond(records: Sequence[Record]) -> list[Row]:
    """Returns over twenty rounds, guarded and unguarded, and those of PPO where there are some."""
    rows: list[Row] = []
    others = _grouped([each for each in records if each["trial"]["case"] == "ppo"], "meta_policy", "name")
    records = [each for each in records if each["trial"]["case"] != "ppo"]
    for (meta_policy, name), group in _grouped(records, "meta_policy", "name").items():
        guarded = [each for each in group if each["trial"]["caution"] == "hold" and not each["failure"]]
        free = [each for each in group if each["trial"]["caution"] == "off" and not each["failure"]]
        if not guarded or not free:
            continue
        curves = np.array([[mean for mean, _ in handed_out(each)] for each in guarded])
        plain = np.array([[mean for mean, _ in handed_out(each)] for each in free])
        best = np.array([_best_so_far(each) for each in guarded])
        falls = [_falls_after(each, 10) for each in guarded if has_verdicts(each)]
        rows.append(
            {
                "task": f"{meta_policy}, {name}",
                "R_0": float(curves[:, 0].mean()),
                "off: best mean of 20": float(plain.mean(axis=0).max()),
                "off: R_20": float(plain[:, -1].mean()),
                "best at 5": float(best[:, 5].mean()),
                "best at 10": float(best[:, 10].mean()),
                "best at 20": float(best[:, -1].mean()),
                "kept, fresh episodes": float(np.mean([kept(each)[0] for each in guarded])),
                "worst seed": float(np.min([kept(each)[0] for each in guarded])),
                **_ppo(others.get((meta_policy, name), [])),
                "rounds > 10 below the best": _share([fall for found in falls for fall in found]),
                "seeds": len(guarded),
            }
        )
    return rows


def _ppo(records: Sequence[Record]) -> Row:
    if not records:
        return {}
    curves = np.array([each["returns"] for each in records])
    return {
        "PPO: R_10": float(curves[:, 10].mean()),
        "PPO: R_20": float(curves[:, 20].mean()),
        "PPO: seeds": len(curves),
    }


def _best_so_far(record: Record) -> list[float]:
    """Measured return of the best policy after each round, by the session's word if it has one."""
    curve, found = handed_out(record), []
    for k, each in enumerate(record["rounds"]):
        verdict = each.get("verdict", {})
        best = (
            int(verdict.get("best_round", 0))
            if verdict.get("decision")
            else int(np.argmax([m for m, _ in curve[: k + 1]]))
        )
        found.append(curve[best][0])
    return [*found, found[-1]]


def _falls_after(record: Record, first: int) -> list[bool]:
    """For each later round: whether its policy is below the best one so far by more than noise."""
    curve = handed_out(record)
    best = [max(curve[:k], key=lambda each: each[0]) for k in range(first + 1, len(curve))]
    return [below(curve[k], before) for k, before in zip(range(first + 1, len(curve)), best, strict=True)]


def harm(records: Sequence[Record]) -> list[Row]:
    """Sessions that end below θ."""
    rows: list[Row] = []
    groups = _grouped(records, "name")
    for (name,), group in [*groups.items(), (("all",), list(records))]:
        rows.append(
            {
                "sessions with": name,
                "sessions": len(group),
                "kept policy below θ": _share([below(kept(each), theta(each)) for each in group]),
                "last policy below θ": _share([below(last(each), theta(each)) for each in group]),
                "refused": sum(bool(each["failure"]) for each in group),
                "reasons": _reasons(group) if name != "all" else "",
            }
        )
    return rows


def familiar(records: Sequence[Record]) -> list[Row]:
    """How well `task_p_value` tells tasks of meta-training from others."""
    rows: list[Row] = []
    for (meta_policy,), group in _grouped(records, "meta_policy").items():
        inside = [each for each in group if each["trial"]["name"] == "in range"]
        for (name,), others in _grouped(group, "name").items():
            k = 1 if name == "other body" else 0
            usual, found = _p_values(inside, k), _p_values(others, k)
            if name == "in range" or not len(usual) or not len(found):
                continue
            rows.append(
                {
                    "meta-policy": meta_policy,
                    "other tasks": name,
                    "AUROC": _auroc(usual, found),
                    "found at .05": float((found <= FALSE_ALARM).mean()),
                    "false alarms at .05": float((usual <= FALSE_ALARM).mean()),
                    "tasks": len(found),
                    "tasks in range": len(usual),
                }
            )
    return rows


def _p_values(records: Sequence[Record], k: int) -> Any:
    found = [
        each["rounds"][k]["verdict"]["task_p_value"]
        for each in records
        if len(each["rounds"]) > k and "task_p_value" in each["rounds"][k].get("verdict", {})
    ]
    return np.array(found)


def _auroc(usual: Any, found: Any) -> float:
    """The chance that a p-value of other tasks is below one of tasks in range; ties count one half."""
    difference = usual[:, None] - found[None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def gain(records: Sequence[Record]) -> list[Row]:
    """How well `predicted_gain` and `realized_gain` tell the truth, which many fresh episodes show."""
    rows: list[Row] = []
    for field in ("predicted_gain", "realized_gain"):
        for (meta_policy, name), group in _grouped(records, "meta_policy", "name").items():
            found = [each for record in group for each in _gains(record, field)]
            if not found:
                continue
            clear = [(value > 0) == (truth > 0) for value, _, _, truth, error in found if abs(truth) > 2 * error]
            covered = [low <= truth <= high for _, low, high, truth, _ in found]
            widths = [(high - low) / max(abs(truth), error) for _, low, high, truth, error in found]
            rows.append(
                {
                    "number": field,
                    "meta-policy": meta_policy,
                    "tasks": name,
                    "right sign": _share(clear),
                    "truth inside": _share(covered),
                    "median gain": float(np.median([truth for _, _, _, truth, _ in found])),
                    "median estimate": float(np.median([value for value, *_ in found])),
                    "median width / gain": float(np.median(widths)),
                    "steps": len(found),
                }
            )
    return rows


def _gains(record: Record, field: str) -> Iterable[tuple[float, float, float, float, float]]:
    """Value, low, high, the truth and its standard error."""
    for k, each in enumerate(record["rounds"]):
        estimate = each.get("verdict", {}).get(field)
        start, end = (k, k + 1) if field == "predicted_gain" else (k - 1, k)
        before, after = _fresh(record, start), _fresh(record, end)
        if estimate is None or before is None or after is None:
            continue
        value, low, high = (float(estimate.get(name, 0.0)) for name in ("value", "low", "high"))
        yield value, low, high, after[0] - before[0], float(np.hypot(after[1], before[1]))


def needed(records: Sequence[Record]) -> list[Row]:
    """`episodes_needed`, beside the number of episodes with which one step reaches its full length."""
    rows: list[Row] = []
    for (meta_policy,), group in _grouped(records, "meta_policy").items():
        ratios, truths, said = [], [], []
        for task in _grouped(group, "goal").values():
            rises: dict[int, list[float]] = defaultdict(list)
            words = []
            for each in task:
                # The first round of few episodes is a poor measure of R_0, so returns are compared, not rises.
                rises[each["trial"]["episodes"]].append(last(each)[0])
                if "episodes_needed" in (verdict := each["rounds"][0].get("verdict", {})):
                    words.append(float(verdict["episodes_needed"]))
            starts = [value for each in task for value in each["rounds"][0]["return"]]
            truth = _where_enough({count: float(np.mean(v)) for count, v in rises.items()}, float(np.mean(starts)))
            if truth is None or not words:
                continue
            truths.append(truth)
            said.append(float(np.median(words)))
            ratios.append(said[-1] / truth)
        if ratios:
            rows.append(
                {
                    "meta-policy": meta_policy,
                    "said, median": float(np.median(said)),
                    "true, median": float(np.median(truths)),
                    "median ratio": float(np.median(ratios)),
                    "within a factor of 2": _share([0.5 <= ratio <= 2.0 for ratio in ratios]),
                    "tasks": len(ratios),
                }
            )
    return rows


def _where_enough(returns: Mapping[int, float], start: float) -> float | None:
    """The number of episodes at which the rise reaches 95 % of that of most episodes; None if nothing rises."""
    counts = sorted(returns)
    if len(counts) < _LEAST or returns[counts[-1]] <= start:
        return None
    shares = [(returns[count] - start) / (returns[counts[-1]] - start) for count in counts]
    for index, share in enumerate(shares):
        if share >= ENOUGH:
            if index == 0:
                return float(counts[0])
            before = shares[index - 1]
            part = (ENOUGH - before) / (share - before)
            return float(np.exp(np.log(counts[index - 1]) * (1 - part) + np.log(counts[index]) * part))
    return float(counts[-1])


def planted(records: Sequence[Record]) -> list[Row]:
    """How often a bad episode among twenty has one of the two largest influences."""
    rows: list[Row] = []
    for (meta_policy, name), group in _grouped(records, "meta_policy", "name").items():
        ranks = []
        for each in group:
            influences = np.array(each["rounds"][0].get("influences", []))
            if len(influences):
                bad = 4 if each["trial"]["change"] else len(influences) - 1
                # Of equal influences, as where all are 0, none stands out.
                ranks.append(int((influences >= influences[bad]).sum()))
        if ranks:
            rows.append(
                {
                    "meta-policy": meta_policy,
                    "bad episode": name,
                    "first or second": _share([rank <= _LEAST for rank in ranks]),
                    "first": _share([rank == 1 for rank in ranks]),
                    "sessions": len(ranks),
                }
            )
    return rows


def test(records: Sequence[Record]) -> list[Row]:
    """Scores on the test tasks, with and without caution, by the comparisons of docs/results.md."""
    rows: list[Row] = []
    for meta_policy in META_POLICIES:
        group = [each for each in records if each["trial"]["meta_policy"] == meta_policy]
        pairs = [
            {each["trial"]["caution"]: each for each in pair}
            for pair in _grouped(group, "seed").values()
            if {each["trial"]["caution"] for each in pair} == {"hold", "off"}
        ]
        if not pairs:
            continue
        measured = json.loads(load_meta_policy(resolve_meta_policy(meta_policy, None)).read_extra(EVALUATION_NAME))
        floor, oracle = measured["returns"]["pretrained"][0], measured["returns"]["oracle"]
        curves = {
            caution: np.array([[mean for mean, _ in handed_out(pair[caution])] for pair in pairs])
            for caution in ("hold", "off")
        }
        whole = len(pairs) == len(TEST_SEEDS) * TEST_TASKS
        row: Row = {"meta-policy": meta_policy}
        for k in (1, 2, 3):
            for caution in ("off", "hold"):
                score = (curves[caution][:, k].mean() - floor) / (oracle - floor)
                row[f"S_{k}, {caution}"] = float(score) if whole else None
            row[f"cost of hold in S_{k}"] = float(
                (curves["off"][:, k].mean() - curves["hold"][:, k].mean()) / (oracle - floor)
            )
        row["R_1 < R_0"] = sum(below(handed_out(pair["hold"])[1], theta(pair["hold"])) for pair in pairs)
        rows.append({**row, "tasks": len(pairs)})
    return rows


def _share(values: Sequence[bool]) -> float | None:
    return float(np.mean(values)) if len(values) else None


MEASURES: Final[dict[str, Callable[[Sequence[Record]], list[Row]]]] = {
    "top": top,
    "scale": scale,
    "offset": offset,
    "beyond": beyond,
    "harm": harm,
    "familiar": familiar,
    "gain": gain,
    "short": gain,
    "needed": needed,
    "planted": planted,
    "test": test,
}


def measure(records: Iterable[Record]) -> dict[str, list[Row]]:
    """Returns the rows of each case's table, from the records of all cases; of equal trials, the last one counts."""
    latest = {(record["trial"]["case"], record["key"]): record for record in records}
    by_case = _grouped(latest.values(), "case")
    by_case["beyond",] += by_case.pop(("ppo",), [])
    return {case: measure_case(by_case[case,]) for case, measure_case in MEASURES.items() if by_case.get((case,))}
