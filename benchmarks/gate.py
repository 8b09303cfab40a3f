"""Measures how often the on-policy test refuses rounds that another policy collected, and honest ones.

python benchmarks/gate.py                   every case; writes the table of docs/trust.md
python benchmarks/gate.py --rounds 200      fewer rounds of each case
python benchmarks/gate.py --optimum         the table of the best possible test alone
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.progress import track  # noqa: E402

from benchmarks.gate_optimum import best_power  # noqa: E402
from thetaprime.models import (  # noqa: E402
    BehaviorMeasurement,
    BoxAction,
    DiscreteAction,
    EnvironmentContract,
    Parameters,
    Policy,
    PolicySpec,
    TrajectoryBatch,
    measure_behavior,
)
from thetaprime.models.behavior import ROUND_BOUND, round_evidence, single_bound  # noqa: E402

PAGE: Final = HERE.parent / "docs" / "trust.md"
EPISODES, STEPS = 20, 100
SPLITS: Final = ("one upload", "one episode an upload", "one step an upload")
_KL: Final = 0.3
_LEVEL: Final = 1e-7
# Of a test of one temperature that looks once, when the round is complete, beside the test that looks at any time.
_ONE_LOOK: Final = 3e-8
_BEGIN, _END = "<!-- measured by make gate-power -->", "<!-- until here -->"
_BEST_BEGIN, _BEST_END = "<!-- computed by make gate-power -->", "<!-- up to here -->"


@dataclasses.dataclass(frozen=True)
class Round:
    """The policies of one round.

    Attributes:
        policy: the network.
        named: θ_k, which the trajectories name.
        previous: θ_{k−1}.
        observations: [S, O].
        generator: draws the actions.
    """

    policy: Policy
    named: Parameters
    previous: Parameters
    observations: torch.Tensor
    generator: torch.Generator

    def sample(self) -> torch.Tensor:
        """Actions of θ_k."""
        return self.policy.sample(self.named, self.observations, self.generator)

    def likeliest(self) -> torch.Tensor:
        """The deterministic actions of θ_k."""
        head = self.policy.head(self.named, self.observations)
        return head if self.policy.continuous else head.argmax(-1)

    def some(self, share: float, *, episodes: bool = False) -> torch.Tensor:
        """[S] bool: some of the steps, or some of the episodes."""
        drawn = torch.rand(EPISODES if episodes else EPISODES * STEPS, generator=self.generator) < share
        if episodes:
            # Exactly the share: with fewer episodes the case would be another one.
            drawn = torch.randperm(EPISODES, generator=self.generator) < round(share * EPISODES)
        return drawn.repeat_interleave(STEPS) if episodes else drawn

    def mixed(self, some: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Actions of θ_k, except at some steps."""
        sampled = self.sample()
        return torch.where(some if sampled.ndim == 1 else some[:, None], actions, sampled)

    def noisier(self, factor: float) -> torch.Tensor:
        """Actions with a multiple of the noise; of a temperature, where they are discrete."""
        head = self.policy.head(self.named, self.observations)
        if self.policy.continuous:
            return head + factor * (self.sample() - head)
        return _draw(head / factor, self.generator)

    def shifted(self, shift: float, *, everywhere: bool = False) -> torch.Tensor:
        """Actions shifted by a part of σ, in the first dimension or in all; of a shifted logit, where discrete."""
        if not self.policy.continuous:
            head = self.policy.head(self.named, self.observations).clone()
            head[:, 0] += 2.5 * shift
            return _draw(head, self.generator)
        mask = torch.ones(self.policy.environment.action.size)
        mask[1:] = float(everywhere)
        return self.sample() + shift * mask * self.policy.log_std(self.named).exp()

    def held(self, repeats: int) -> torch.Tensor:
        """Each action of θ_k, held for some steps."""
        held = self.sample().reshape(EPISODES, STEPS, -1)[:, ::repeats].repeat_interleave(repeats, dim=1)
        return held[:, :STEPS].reshape(self.sample().shape)

    def stale(self) -> torch.Tensor:
        """Actions of θ_{k−1}."""
        return self.policy.sample(self.previous, self.observations, self.generator)


def _greedy(head: torch.Tensor) -> torch.Tensor:
    """Logits of a policy of which 30 % of the steps are deterministic."""
    best = torch.nn.functional.one_hot(head.argmax(-1), head.shape[-1])
    return (0.7 * head.softmax(-1) + 0.3 * best).log()


def _shifted_logit(head: torch.Tensor) -> torch.Tensor:
    return head + 0.5 * torch.nn.functional.one_hot(torch.tensor(0), head.shape[-1])


# The logits that choose the actions of a case, from those of θ_k.
ALTERNATIVES: Final[Mapping[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "30 % deterministic steps": _greedy,
    "noise × 0.8": lambda head: head / 0.8,
    "noise × 1.25": lambda head: head / 1.25,
    "shift of 0.2 σ in one dimension": _shifted_logit,
}


Case = tuple[str, Callable[[Round], torch.Tensor], str]
CASES: Final[tuple[Case, ...]] = (
    ("30 % deterministic steps", lambda r: r.mixed(r.some(0.3), r.likeliest()), ""),
    ("30 % deterministic episodes", lambda r: r.mixed(r.some(0.3, episodes=True), r.likeliest()), ""),
    ("noise × 0.8", lambda r: r.noisier(0.8), ""),
    ("noise × 1.25", lambda r: r.noisier(1.25), ""),
    ("shift of 0.2 σ in one dimension", lambda r: r.shifted(0.2), ""),
    ("shift of 0.2 σ in all dimensions", lambda r: r.shifted(0.2, everywhere=True), "continuous"),
    ("θ_{k−1} at KL 0.3, in the mean", lambda r: r.stale(), "mean"),
    ("θ_{k−1} at KL 0.3, in σ", lambda r: r.stale(), "std"),
    ("actions held for two steps", lambda r: r.held(2), ""),
    ("honest", lambda r: r.sample(), ""),
)


def policies() -> Iterator[tuple[str, Policy]]:
    """The networks of the table."""
    for size in (1, 2, 6, 8):
        action = BoxAction(low=(-1.0,) * size, high=(1.0,) * size)
        yield f"{size} dimension{'s' * (size > 1)}", _network(action)
    for count in (2, 6):
        yield f"{count} discrete actions", _network(DiscreteAction(count=count))


def refusals(policy: Policy, case: Case, rounds: int) -> dict[str, int]:
    """How many of some rounds were refused, by split."""
    _, act, _ = case
    refused = dict.fromkeys(SPLITS, 0)
    for seed in range(rounds):
        one = _round(policy, seed, case)
        actions = act(one)
        for split in refusing_splits(one, actions):
            refused[split] += 1
    return refused


def refusing_splits(one: Round, actions: torch.Tensor) -> Iterator[str]:
    """Yields the splits of a round of which the test refuses an upload, or the round."""
    whole = _measured(one, actions, (STEPS,) * EPISODES)
    refused = bool((whole.evidence[:-1] >= single_bound(np.arange(EPISODES))).any())
    if refused or whole.evidence[-1] >= ROUND_BOUND:
        yield "one upload"
    if refused or _exceeds(one, whole.trajectories):
        yield "one episode an upload"
    steps = _measured(one, actions, (1,) * (EPISODES * STEPS))
    if (steps.evidence[:-1] >= single_bound(np.arange(EPISODES * STEPS))).any() or _exceeds(one, steps.trajectories):
        yield "one step an upload"


def _measured(one: Round, actions: torch.Tensor, lengths: tuple[int, ...]) -> BehaviorMeasurement:
    batch = TrajectoryBatch(
        observations=one.observations,
        actions=actions,
        rewards=torch.zeros(len(actions)),
        lengths=lengths,
        terminated=torch.zeros(len(lengths), dtype=torch.bool),
        final_observations=torch.zeros(len(lengths), one.observations.shape[1]),
    )
    return measure_behavior(one.policy, one.named, batch, earlier=(one.previous,))


def _exceeds(one: Round, uploads: np.ndarray[Any, Any]) -> bool:
    """Whether the round exceeds its bound after an upload; of very many uploads, after some of them."""
    after = np.cumsum(uploads, axis=0)[:: -max(len(uploads) // 100, 1)]
    return bool((round_evidence(one.policy, after) >= ROUND_BOUND).any())


def _draw(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def _network(action: BoxAction | DiscreteAction) -> Policy:
    environment = EnvironmentContract(environment_id="gate", observation_shape=(8,), action=action, horizon=STEPS)
    return Policy(environment, PolicySpec(hidden_sizes=(32,), init_log_std=-0.7, init_output_scale=3.0))


def _round(policy: Policy, seed: int, case: Case) -> Round:
    generator = torch.Generator().manual_seed(seed)
    observations = torch.randn(EPISODES * STEPS, 8, generator=generator)
    named = policy.init(seed)
    other = policy.init(seed + 10_000)
    if case[2] not in ("mean", "std"):
        return Round(policy, named, other, observations, generator)
    moved = [name for name in named if (name == "log_std") == (case[2] == "std")]
    if case[2] == "std":
        other = {**named, "log_std": named["log_std"] + torch.randn(len(named["log_std"]), generator=generator)}
    low, high = 0.0, 16.0
    for _ in range(24):
        middle = (low + high) / 2
        previous = {n: v + middle * (other[n] - v) if n in moved else v for n, v in named.items()}
        divergence = torch.distributions.kl_divergence(
            policy.distribution(previous, observations), policy.distribution(named, observations)
        ).mean()
        low, high = (low, middle) if divergence > _KL else (middle, high)
    return Round(policy, named, previous, observations, generator)


def table(rounds: int) -> str:
    """The table of the page: how many rounds of each case were refused, by split."""
    networks = dict(policies())
    measured = {
        (name, case[0]): refusals(policy, case, rounds)
        for name, policy in track(list(networks.items()), "measuring")
        for case in CASES
        if policy.continuous or case[2] not in ("continuous", "std")
    }
    lines = [
        f"| {rounds:,} rounds of {EPISODES} × {STEPS} steps | {' | '.join(networks)} |",
        f"|---|{'---|' * len(networks)}",
    ]
    for case, *_ in CASES:
        cells = [_cell(measured.get((name, case), {})) for name in networks]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def honest_chances(thousands: int) -> str:
    """A table: how often the evidence against honest episodes, and against growing honest rounds, reaches a bound.

    Args:
        thousands: number of episodes of each network, in thousands.
    """
    levels = (0.1, 0.01, 0.001, 1e-4, 1e-5)
    episodes, rounds = np.zeros(len(levels)), np.zeros(len(levels))
    count = 0
    for _, policy in policies():
        for seed in range(thousands):
            generator = torch.Generator().manual_seed(seed)
            observations = torch.randn(1000 * STEPS, 8, generator=generator)
            named, previous = policy.init(seed), policy.init(seed + 10_000)
            one = Round(policy, named, previous, observations, generator)
            measured = _measured(one, one.sample(), (STEPS,) * 1000)
            after = np.cumsum(measured.trajectories.reshape(1000 // EPISODES, EPISODES, -1), axis=1)
            evidence = round_evidence(policy, after.reshape(1000, -1)).reshape(-1, EPISODES)
            for index, level in enumerate(levels):
                episodes[index] += (measured.evidence[:-1] >= -np.log(level)).sum()
                rounds[index] += (evidence.max(axis=1) >= -np.log(level)).sum()
            count += 1000
    lines = [
        f"| evidence of ln 1/α | {count:,} honest episodes | {count // EPISODES:,} honest rounds, after any episode |",
        "|---|---|---|",
    ]
    for level, episode, growing in zip(levels, episodes, rounds, strict=True):
        lines.append(f"| α = {level:g} | {episode / count:.2g} | {growing / (count / EPISODES):.2g} |")
    return "\n".join(lines)


def optimum(rounds: int) -> str:
    """A table: how many rounds of each case the best possible test would refuse, in per cent."""
    networks = {name: policy for name, policy in policies() if not policy.continuous}
    lines = [
        f"| the best possible test, {rounds:,} rounds | {' | '.join(networks)} |",
        f"|---|{'---|' * len(networks)}",
    ]
    levels = [(case, case, _LEVEL) for case in ALTERNATIVES]
    levels += [(f"{case}, at 3·10⁻⁸", case, _ONE_LOOK) for case in ALTERNATIVES if case.startswith("noise")]
    for label, case, level in levels:
        cells = []
        for policy in networks.values():
            powers = []
            for seed in range(rounds):
                one = _round(policy, seed, (case, Round.sample, ""))
                head = policy.head(one.named, one.observations).double()
                named, other = (logits.log_softmax(-1).numpy() for logits in (head, ALTERNATIVES[case](head)))
                powers.append(best_power(named, other, level))
            cells.append(f"{100 * np.mean(powers):.1f} %")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(refused: Mapping[str, int]) -> str:
    """One number, or one for each split where they differ."""
    counts = [f"{count:,}" for count in refused.values()]
    return counts[0] if len(set(counts)) == 1 else " / ".join(counts)


def main() -> None:
    """Measures, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="rounds of each case; default: %(default)s")
    parser.add_argument("--optimum", action="store_true", help="compute the table of the best possible test alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    best = optimum(arguments.rounds)
    _write(_BEST_BEGIN, _BEST_END, best)
    print(best)
    if not arguments.optimum:
        found = f"{table(arguments.rounds)}\n\n{honest_chances(max(arguments.rounds // 4, 1))}"
        _write(_BEGIN, _END, found)
        print(found)


def _write(begin: str, end: str, text: str) -> None:
    marked = re.compile(rf"(?<={re.escape(begin)}\n).*(?={re.escape(end)})", re.DOTALL)
    PAGE.write_text(marked.sub(lambda _: f"{text}\n", PAGE.read_text()))


if __name__ == "__main__":
    main()
