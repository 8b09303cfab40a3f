"""The trials of each case: which sessions the tables rest on, in the order in which they run."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from benchmarks.verdicts.environments import ENDLESS, Alteration, Goal, goal_of
from benchmarks.verdicts.trials import Trial
from thetaprime.training.evaluation.curves import TASKS, stream
from thetaprime.training.tasks import resolve_tasks

NAVIGATION, VELOCITY, DIRECTION = "point-navigation", "half-cheetah-velocity", "half-cheetah-direction"
ANT_VELOCITY, ANT_DIRECTION = "ant-velocity", "ant-direction"
META_POLICIES: Final = (NAVIGATION, VELOCITY, DIRECTION, ANT_VELOCITY, ANT_DIRECTION)

# Sessions with an ant take five times as long as those with a half-cheetah: one task in eight is an ant's.
_SHARE: Final = {NAVIGATION: 1, VELOCITY: 1, DIRECTION: 2, ANT_VELOCITY: 8, ANT_DIRECTION: 8}

Bodies = tuple[tuple[str, tuple[Alteration, ...]], ...]
BODIES: Final[Bodies] = (
    ("masses × 0.6", (("mass", 0.6),)),
    ("masses × 1.5", (("mass", 1.5),)),
    ("friction × 0.4", (("friction", 0.4),)),
    ("one joint dead", (("dead", 1),)),
)
SCALES: Final = (0.01, 0.1, 10.0, 100.0)
OFFSETS: Final = (-5.0, -1.0, 1.0, 5.0)
EPISODES_TRIED: Final = (2, 5, 10, 20, 40)
TEST_SEEDS: Final = (11, 12, 13)
TEST_TASKS: Final = 40
MANY: Final = 200
"""Fresh episodes where a gain is measured."""

_FIRST_SEED: Final = 7001


def drawn(meta_policy: str, seed: int, count: int = 1) -> list[Goal]:
    """Goals of tasks from the distribution of meta-training."""
    return [goal_of(task) for task in resolve_tasks(meta_policy).sample_tasks(count, np.random.default_rng(seed))]


def _seeds() -> Iterator[int]:
    return itertools.count(_FIRST_SEED)


def _every(meta_policies: tuple[str, ...]) -> Iterator[tuple[str, int, Goal]]:
    """Tasks of several meta-policies in turn, fewer of the slow ones, without end."""
    for seed in _seeds():
        for meta_policy in meta_policies:
            if seed % _SHARE[meta_policy] == 0:
                yield meta_policy, seed, drawn(meta_policy, seed)[0]


def _turn(meta_policy: str, seed: int) -> int:
    """How many tasks of a meta-policy `_every` gave before the one of this seed."""
    return (seed - _FIRST_SEED) // _SHARE[meta_policy]


def top() -> Iterator[Trial]:
    """Tasks one step outside of what the meta-policies were trained for, three rounds."""
    rows: list[dict[str, Any]] = [
        {"name": "half-cheetah-velocity, 1.7 m/s", "meta_policy": VELOCITY, "goal": 1.7},
        {"name": "1.2 m/s, reward × 10", "meta_policy": VELOCITY, "goal": 1.2, "change": "scale 10"},
        {"name": "1.2 m/s, reward × 0.1", "meta_policy": VELOCITY, "goal": 1.2, "change": "scale 0.1"},
        {
            "name": "point-navigation, reward × 10",
            "meta_policy": NAVIGATION,
            "goal": (0.3, -0.25),
            "change": "scale 10",
        },
        {"name": "point-navigation, reward + 1", "meta_policy": NAVIGATION, "goal": (0.3, -0.25), "change": "offset 1"},
        {"name": "2.5 m/s", "meta_policy": VELOCITY, "goal": 2.5},
        {"name": "3.0 m/s", "meta_policy": VELOCITY, "goal": 3.0},
        {"name": "−1.0 m/s", "meta_policy": VELOCITY, "goal": -1.0},
        {"name": "1.2 m/s, masses × 1.5", "meta_policy": VELOCITY, "goal": 1.2, "body": (("mass", 1.5),)},
        {"name": "forward, masses × 1.5", "meta_policy": DIRECTION, "goal": 1.0, "body": (("mass", 1.5),)},
        {"name": "forward, paid at the end", "meta_policy": DIRECTION, "goal": 1.0, "change": "late"},
    ]
    for seed in _seeds():
        for row in rows:
            yield Trial(case="top", seed=seed, rounds=3, **row)


def scale() -> Iterator[Trial]:
    """One step with scaled rewards; the same episodes as the unscaled run."""
    for meta_policy, seed, goal in _every(META_POLICIES):
        for a in (1.0, *SCALES):
            change = "" if a == 1.0 else f"scale {a:g}"
            yield Trial("scale", f"{a:g}", meta_policy, goal, seed, 1, change=change)


def offset() -> Iterator[Trial]:
    """Four steps with a constant added to the reward of each step, where episodes have one length."""
    for meta_policy, seed, goal in _every((NAVIGATION, VELOCITY, DIRECTION)):
        for b in (0.0, *OFFSETS):
            change, body = f"offset {b:g}" if b else "", ENDLESS if meta_policy == NAVIGATION else ()
            yield Trial("offset", f"{b:g}", meta_policy, goal, seed, 4, change=change, body=body)


def beyond() -> Iterator[Trial]:
    """Twenty rounds on tasks and bodies outside of meta-training."""
    rows: list[tuple[str, str, Goal, tuple[Alteration, ...]]] = [
        ("2.5 m/s", VELOCITY, 2.5, ()),
        ("3.0 m/s", VELOCITY, 3.0, ()),
        ("3.5 m/s", VELOCITY, 3.5, ()),
        ("goal (−0.9, 0.9)", NAVIGATION, (-0.9, 0.9), ()),
        ("goal (0.9, 0.9)", NAVIGATION, (0.9, 0.9), ()),
        ("goal (0.9, −0.9)", NAVIGATION, (0.9, -0.9), ()),
        ("goal (−0.9, −0.9)", NAVIGATION, (-0.9, -0.9), ()),
        *((f"1.2 m/s, {name}", VELOCITY, 1.2, body) for name, body in BODIES),
        *((f"forward, {name}", DIRECTION, 1.0, body) for name, body in BODIES),
    ]
    slow: list[tuple[str, str, Goal, tuple[Alteration, ...]]] = [
        ("3.75 m/s", ANT_VELOCITY, 3.75, ()),
        ("4.5 m/s", ANT_VELOCITY, 4.5, ()),
        ("5.25 m/s", ANT_VELOCITY, 5.25, ()),
    ]
    for seed in _seeds():
        for name, meta_policy, goal, body in rows if seed % 5 else [*rows, *slow]:
            # The unguarded rounds tell what there is to find.
            for caution in ("hold", "off"):
                yield Trial("beyond", name, meta_policy, goal, seed, 20, caution=caution, body=body)


def harm() -> Iterator[Trial]:
    """Sessions in which unguarded steps do harm."""
    for index, (meta_policy, seed, goal) in enumerate(_every(META_POLICIES)):
        other = drawn(meta_policy, seed + 500_000)[0]
        if meta_policy in (DIRECTION, ANT_DIRECTION):
            other = -float(goal)  # type: ignore[arg-type]  # a direction
        unit = 0.3 if meta_policy == NAVIGATION else 1.0
        rows: list[dict[str, Any]] = [
            {"name": "noise", "change": f"noise {unit * (0.1, 0.5, 2.0)[index % 3]:g}"},
            {"name": "constant", "change": f"constant {(0, 1, -3)[index % 3]}"},
            {"name": "flipped in the middle", "change": "flip 2"},
            {"name": "paid at the end", "change": "late"},
            {"name": "one episode a round", "episodes": 1},
            {"name": "two tasks mixed", "other_goal": other, "others": 10},
        ]
        if meta_policy != NAVIGATION:
            body = BODIES[index % len(BODIES)][1]
            rows.append({"name": "unfamiliar body", "body": body})
        # One kind of harm for each task, so that many tasks are tried.
        row = rows[_turn(meta_policy, seed) % len(rows)]
        yield Trial(
            "harm", meta_policy=meta_policy, goal=goal, seed=seed, rounds=5, fresh=40, fresh_from="theta", **row
        )


def familiar() -> Iterator[Trial]:
    """Tasks of meta-training, and others."""
    for index, (meta_policy, seed, goal) in enumerate(_every(META_POLICIES)):
        unit = 0.3 if meta_policy == NAVIGATION else 1.0
        common: dict[str, Any] = {"case": "familiar", "meta_policy": meta_policy, "seed": seed, "fresh": 0}
        yield Trial(name="in range", goal=goal, rounds=2, **common)
        rows: list[dict[str, Any]] = [
            {"name": "reward scale", "change": f"scale {(0.1, 10)[index % 2]}"},
            {"name": "sign", "change": "sign"},
            {"name": "noise", "change": f"noise {unit:g}"},
            {"name": "delay", "change": f"delay {(3, 10)[index % 2]}"},
        ]
        if (far := _far(meta_policy, seed)) is not None:
            rows.append({"name": "other goal", "goal": far})
        if meta_policy != NAVIGATION:
            body = BODIES[index % len(BODIES)][1]
            rows.append({"name": "other body", "body": body, "rounds": 2})
        for row in rows:
            yield Trial(**{"goal": goal, "rounds": 1, **common, **row})


def _far(meta_policy: str, seed: int) -> Goal | None:
    """A goal outside of the range; None for directions, of which there are only two."""
    rng = np.random.default_rng([seed, 1])
    if meta_policy == NAVIGATION:
        angle = rng.uniform(0, 2 * np.pi)
        return float(1.1 * np.cos(angle)), float(1.1 * np.sin(angle))
    top = {VELOCITY: 2.0, ANT_VELOCITY: 3.0}.get(meta_policy)
    if top is None:
        return None
    return float(top * rng.uniform(1.25, 1.75)) if seed % 3 else float(-top * rng.uniform(0.25, 0.75))


def gain() -> Iterator[Trial]:
    """Two rounds whose policies are all measured with many fresh episodes."""
    for index, (meta_policy, seed, goal) in enumerate(_every(META_POLICIES)):
        rows: list[dict[str, Any]] = [{"name": "in range"}, {"name": "in range"}]
        if (far := _far(meta_policy, seed)) is not None:
            rows.append({"name": "other goal", "goal": far})
        if meta_policy != NAVIGATION:
            body = BODIES[index % len(BODIES)][1]
            rows.append({"name": "other body", "body": body})
        rows.append({"name": "noise", "change": f"noise {0.3 if meta_policy == NAVIGATION else 1.0:g}"})
        row = {"goal": goal, **rows[_turn(meta_policy, seed) % len(rows)]}
        yield Trial("gain", meta_policy=meta_policy, seed=seed, rounds=2, fresh=MANY, fresh_from="each", **row)


def short() -> Iterator[Trial]:
    """One step within a limit, of meta-policies whose context adapts and of those that adapt every parameter."""
    meta_policies = (NAVIGATION, VELOCITY, f"{NAVIGATION}-maml", f"{VELOCITY}-maml", f"{DIRECTION}-maml")
    for seed in _seeds():
        for meta_policy in meta_policies:
            if not meta_policy.startswith(NAVIGATION) and seed % 3:
                continue
            goal = drawn(meta_policy.removesuffix("-maml"), seed)[0]
            limit = (0.01, 0.02, 0.05)[seed // 3 % 3]
            row: dict[str, Any] = {"meta_policy": meta_policy, "goal": goal, "max_kl": limit}
            yield Trial("short", f"in range, {limit:g} nats", seed=seed, rounds=1, fresh=MANY, fresh_from="each", **row)


def needed() -> Iterator[Trial]:
    """One step on few and on many episodes."""
    for meta_policy, seed, goal in _every(META_POLICIES):
        for count in EPISODES_TRIED:
            for repeat in range(2):
                other = seed + 100_000 * repeat
                yield Trial("needed", str(count), meta_policy, goal, other, 1, episodes=count, caution="off")


def _distant(meta_policy: str, goal: Goal, seed: int) -> Goal:
    """Another goal of meta-training, at least a quarter of the range away: closer ones are nearly the same task."""
    if isinstance(goal, float) and meta_policy in (DIRECTION, ANT_DIRECTION):
        return -goal
    apart = {NAVIGATION: 0.25, VELOCITY: 0.5, ANT_VELOCITY: 0.75}[meta_policy]
    others = drawn(meta_policy, seed + 500_000, 100)
    return next(each for each in others if np.max(np.abs(np.subtract(each, goal))) >= apart)


def planted() -> Iterator[Trial]:
    """One step with one bad episode, the last or the fifth."""
    for meta_policy, seed, goal in _every(META_POLICIES):
        common: dict[str, Any] = {"case": "planted", "meta_policy": meta_policy, "goal": goal, "seed": seed}
        yield Trial(name="opposite reward", rounds=1, fresh=0, change="spoil 4", **common)
        other = _distant(meta_policy, goal, seed)
        yield Trial(name="another task", rounds=1, fresh=0, other_goal=other, others=1, **common)


def test() -> Iterator[Trial]:
    """Three steps on the test tasks of docs/results.md, with and without caution."""
    order = [(task, seed) for task in range(TEST_TASKS) for seed in TEST_SEEDS]
    goals = {
        (meta_policy, seed): [
            goal_of(each) for each in resolve_tasks(meta_policy).sample_tasks(TEST_TASKS, stream(seed, TASKS))
        ]
        for meta_policy in META_POLICIES
        for seed in TEST_SEEDS
    }
    for task, seed in order:
        for meta_policy in META_POLICIES:
            if task % _SHARE[meta_policy]:
                continue
            for caution in ("hold", "off"):
                goal = goals[meta_policy, seed][task]
                yield Trial("test", str(seed), meta_policy, goal, 1000 * seed + task, 3, caution=caution)


CASES: Final[dict[str, Callable[[], Iterator[Trial]]]] = {
    "top": top,
    "scale": scale,
    "offset": offset,
    "beyond": beyond,
    "harm": harm,
    "familiar": familiar,
    "gain": gain,
    "short": short,
    "needed": needed,
    "planted": planted,
    "test": test,
}
