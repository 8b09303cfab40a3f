"""A session's next step: the inner loop's own first step, then rounds that hold, on the shipped navigation policy."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Final

import numpy as np
import pytest
import torch

from thetaprime.models import (
    AdaptationSpec,
    MetaPolicy,
    Parameters,
    TrajectoryBatch,
    adapt_step,
    load_meta_policy,
    parameters_digest,
    zoo_directory,
)
from thetaprime.models.verdict import (
    Caution,
    Decision,
    ReasonCode,
    RoundMemory,
    SessionStep,
    StepOptions,
    next_step,
)
from thetaprime.models.verdict.predicted import FEATURES_NAME, GAINS_NAME
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks.distributions import resolve_tasks

OPTIONS: Final = StepOptions()
Change = Callable[[TrajectoryBatch, int], TrajectoryBatch]
Goal = tuple[float, float]


@pytest.fixture(scope="module")
def navigation() -> MetaPolicy:
    return load_meta_policy(zoo_directory() / "point-navigation" / "1")


@dataclasses.dataclass
class Session:
    """A session without a server: policies, batches and steps by round."""

    meta_policy: MetaPolicy
    options: StepOptions = OPTIONS
    trajectories: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.policies: list[Parameters] = [self.meta_policy.parameters]
        self.steps: list[SessionStep] = []
        self.returns: list[float] = []

    def history(self) -> list[RoundMemory]:
        return [step.memory for step in self.steps]

    def collect(self, goal: Goal) -> TrajectoryBatch:
        distribution = resolve_tasks("point-navigation")
        policy = self.meta_policy.policy
        (batch,) = collect(
            distribution, [{"goal": list(goal)}], policy, self.policies[-1:], self.trajectories, rng=self.rng
        )
        self.returns.append(float(batch.returns.mean()))
        return batch

    def take(self, batch: TrajectoryBatch) -> SessionStep:
        step = next_step(
            self.meta_policy, self.history(), batch, self.policies[-1], self.policies.__getitem__, self.options
        )
        self.steps.append(step)
        self.policies.append(step.parameters)
        assert all(bool(torch.isfinite(value).all()) for value in step.parameters.values())
        return step

    def run(self, goal: Goal, rounds: int, change: Change = lambda batch, index: batch) -> "Session":
        for index in range(rounds):
            self.take(change(self.collect(goal), index))
        return self

    @property
    def decisions(self) -> str:
        return "".join(step.verdict.decision.name[0] for step in self.steps)

    def codes(self, index: int = -1) -> list[ReasonCode]:
        return [reason.code for reason in self.steps[index].verdict.reasons]


def _with_rewards(batch: TrajectoryBatch, rewards: torch.Tensor) -> TrajectoryBatch:
    return dataclasses.replace(batch, rewards=rewards)


def _equal(one: Parameters, other: Parameters) -> bool:
    return parameters_digest(one) == parameters_digest(other)


@pytest.mark.parametrize("caution", list(Caution))
def test_the_first_step_is_the_inner_loops(navigation: MetaPolicy, caution: Caution) -> None:
    session = Session(navigation, StepOptions(caution=caution, step_size_scale=0.8))
    batch = session.collect((0.3, -0.25))
    step = session.take(batch)
    own = adapt_step(
        navigation.policy,
        navigation.parameters,
        batch,
        navigation.manifest.adaptation,
        step=0,
        step_sizes=navigation.step_sizes,
        scale=0.8,
    )
    assert _equal(step.parameters, own.parameters)
    assert (step.verdict.decision, step.verdict.best_round, step.verdict.realized_gain) == (Decision.TAKEN, 0, None)
    assert step.memory.next_policy == 1


def test_the_planned_steps_are_taken_where_every_parameter_adapts() -> None:
    published = load_meta_policy(zoo_directory() / "point-navigation-maml" / "1")
    session = Session(published, seed=2).run((-0.45, 0.2), 1)
    batch, before = session.collect((-0.45, 0.2)), session.policies[-1]
    step = session.take(batch)
    own = adapt_step(
        published.policy,
        before,
        batch,
        published.manifest.adaptation,
        step=1,
        step_sizes=published.step_sizes,
    )
    # The first step made the return a usual one, and the second one still gains.
    assert step.verdict.decision is Decision.TAKEN
    assert _equal(step.parameters, own.parameters)
    session.collect((-0.45, 0.2))
    assert session.returns[2] > session.returns[1] + 3.0


@pytest.mark.parametrize("caution", [Caution.OFF, Caution.WARN])
def test_without_caution_every_step_is_the_inner_loops(navigation: MetaPolicy, caution: Caution) -> None:
    session = Session(navigation, StepOptions(caution=caution))
    for index in range(3):
        batch, before = session.collect((0.9, -0.9)), session.policies[-1]
        step = session.take(batch)
        own = adapt_step(
            navigation.policy,
            before,
            batch,
            navigation.manifest.adaptation,
            step=index,
            step_sizes=navigation.step_sizes,
        )
        assert _equal(step.parameters, own.parameters)


def test_in_range_a_session_holds_after_its_first_step(navigation: MetaPolicy) -> None:
    for seed, goal in enumerate([(0.3, -0.25), (-0.45, 0.1), (0.1, 0.1), (0.4, 0.4)]):
        session = Session(navigation, seed=seed).run(goal, 5)
        assert session.decisions == "THHHH"
        assert all(_equal(each, session.policies[1]) for each in session.policies[1:])
        assert [step.memory.next_policy for step in session.steps] == [1, 1, 1, 1, 1]
        assert session.codes()[0] is ReasonCode.NO_SIGNAL
        assert session.steps[-1].summary.kl_divergence == 0.0


def test_beyond_the_range_rounds_reach_the_goal_and_then_hold(navigation: MetaPolicy) -> None:
    session = Session(navigation, seed=3).run((0.9, -0.9), 14)
    assert session.returns[0] < -100.0
    best = max(session.returns)
    assert best > -7.0
    # A step that hurts is said to, and is taken back.
    for index, step in enumerate(session.steps[1:], start=1):
        realized = step.verdict.realized_gain
        if realized is not None and realized.high < 0.0:
            assert step.verdict.decision is Decision.ROLLED_BACK
            assert ReasonCode.REALIZED_HARM in session.codes(index)
    assert all(value > best - 4.0 for value in session.returns[12:])


def _noise(meta_policy: MetaPolicy, parameters: Parameters, mean_return: float, seed: int) -> TrajectoryBatch:
    """Twenty episodes of a policy whose rewards are noise with a drift of their own in each episode."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    count, horizon, size = 20, meta_policy.policy.environment.horizon, meta_policy.policy.layer_sizes[0]
    drift = rng.permutation(np.linspace(-1.0, 1.0, count)) * 85.0
    observations = [rng.normal(size=(horizon, size)).astype(np.float32) for _ in range(count)]
    actions = [
        meta_policy.policy.sample(parameters, torch.from_numpy(each), generator).numpy() for each in observations
    ]
    rewards = [(mean_return + each) / horizon + 0.2 * rng.normal(size=horizon) for each in drift]
    return TrajectoryBatch.concatenate(
        observations,
        actions,
        [each.astype(np.float32) for each in rewards],
        [False] * count,
        [rng.normal(size=size).astype(np.float32) for _ in range(count)],
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("mean_return", "holds"), [(1006.0, True), (950.0, False)])
def test_no_long_step_follows_a_gradient_that_is_noise(mean_return: float, holds: bool, seed: int) -> None:
    direction = load_meta_policy(zoo_directory() / "half-cheetah-direction" / "1")
    session = Session(direction, seed=seed)
    session.take(_noise(direction, direction.parameters, -90.0, seed))
    step = session.take(_noise(direction, session.policies[-1], mean_return, seed + 100))
    contexts = [each["context"] for each in session.policies]
    first, second = (float((after - before).norm()) for before, after in itertools.pairwise(contexts))
    # 5 % of the policies after adaptation in meta-training return less than 1016, and the best returns 1402.
    assert (step.verdict.decision is Decision.HELD) == holds
    assert second < 0.6 * first


@pytest.mark.parametrize("offset", [-5.0, -0.2, 0.5])
@pytest.mark.parametrize("goal", [(-0.19, -0.37), (0.22, 0.44), (0.1, 0.16)])
def test_with_an_offset_no_policy_is_worse_than_theta_and_the_last_is_at_the_goal(
    navigation: MetaPolicy, goal: Goal, offset: float
) -> None:
    session = Session(navigation, seed=4).run(goal, 4, lambda batch, _: _with_rewards(batch, batch.rewards + offset))
    start = session.returns[0]
    assert min(session.returns[1:]) > start
    if offset < 0.0:
        # With a positive one it pays not to arrive: the episode ends at the goal.
        assert max(session.returns) > max(0.2 * start, -4.5)


def test_a_steep_ascent_is_not_followed_past_a_context_that_rises_back(navigation: MetaPolicy) -> None:
    # The user denies the offset.
    session = Session(navigation, StepOptions(reward_offset=0.0), seed=5).run(
        (0.18, 0.04), 4, lambda batch, _: _with_rewards(batch, batch.rewards - 1.0)
    )
    # The first step passes the goal by far, and the second stops short of it.
    assert session.returns[1] < session.returns[0] < -15.0
    assert -12.0 < session.returns[2] < -4.0
    assert session.returns[3] > -4.0


def test_the_task_is_compared_with_those_of_meta_training_in_the_first_two_rounds(navigation: MetaPolicy) -> None:
    familiar, strange = (Session(navigation, seed=5).run(goal, 3) for goal in ((0.3, -0.25), (0.9, -0.9)))
    for session in (familiar, strange):
        assert [step.memory.familiarity is None for step in session.steps] == [False, False, True]
        values = [step.verdict.task_p_value for step in session.steps]
        assert values[1] == values[2]
    assert all((step.verdict.task_p_value or 0.0) > 0.05 for step in familiar.steps)
    assert all((step.verdict.task_p_value or 1.0) < 0.05 for step in strange.steps)
    assert ReasonCode.UNFAMILIAR_TASK in strange.codes()


@pytest.mark.parametrize(("gain", "decision"), [(-20.0, Decision.HELD), (30.0, Decision.TAKEN)])
def test_a_first_step_that_is_predicted_to_hurt_is_held(
    navigation: MetaPolicy, gain: float, decision: Decision
) -> None:
    # Held-out tasks with the features of a navigation round, on which the step gained as much.
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 3, generator=generator) * torch.tensor([15.0, 0.7, 0.7]) + torch.tensor([-38.0, 0, 0])
    gains = gain + torch.randn(200, generator=generator)
    reference = {**navigation.reference, FEATURES_NAME: features, GAINS_NAME: gains}
    session = Session(dataclasses.replace(navigation, reference=reference)).run((0.3, -0.25), 1)
    verdict = session.steps[0].verdict
    assert verdict.predicted_gain is not None
    assert verdict.predicted_gain.value == pytest.approx(gain, abs=1.0)
    assert verdict.decision is decision
    assert _equal(session.policies[1], navigation.parameters) is (decision is Decision.HELD)
    assert (session.codes()[:1] == [ReasonCode.PREDICTED_HARM]) is (decision is Decision.HELD)


def test_equal_histories_give_equal_steps_also_after_a_way_through_bytes(navigation: MetaPolicy) -> None:
    session = Session(navigation, seed=3).run((0.9, -0.9), 4)
    batch = session.collect((0.9, -0.9))
    again = [RoundMemory.from_bytes(memory.to_bytes()) for memory in session.history()]
    assert again == session.history()
    found = next_step(navigation, again, batch, session.policies[-1], session.policies.__getitem__, OPTIONS)
    step = session.take(batch)
    assert _equal(found.parameters, step.parameters)
    assert (found.verdict, found.memory, found.summary) == (step.verdict, step.memory, step.summary)


def test_a_memory_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2; expected 1"):
        RoundMemory.from_bytes(b'{"version":2}')


def test_a_session_that_began_without_memories_goes_on_without_a_guard(navigation: MetaPolicy) -> None:
    session = Session(navigation).run((0.9, -0.9), 1)
    batch = session.collect((0.9, -0.9))
    step = next_step(navigation, [], batch, session.policies[-1], session.policies.__getitem__, OPTIONS, forgotten=1)
    own = adapt_step(
        navigation.policy,
        session.policies[-1],
        batch,
        navigation.manifest.adaptation,
        step=1,
        step_sizes=navigation.step_sizes,
    )
    assert _equal(step.parameters, own.parameters)


@pytest.mark.parametrize("scale", [0.01, 0.1, 10.0, 100.0])
def test_no_round_depends_on_the_scale_of_the_reward(navigation: MetaPolicy, scale: float) -> None:
    expected = Session(navigation, seed=1).run((0.9, -0.9), 4)
    found = Session(navigation, seed=1).run(
        (0.9, -0.9), 4, lambda batch, index: _with_rewards(batch, batch.rewards * scale)
    )
    assert found.decisions == expected.decisions
    assert np.allclose(found.returns, expected.returns, rtol=0.1, atol=1.0)


def test_known_units_are_taken_out_of_the_rewards(navigation: MetaPolicy) -> None:
    goal = (0.3, -0.25)
    expected = Session(navigation, seed=1).run(goal, 2)
    found = Session(navigation, StepOptions(reward_scale=10.0, reward_offset=-5.0), seed=1).run(
        goal, 2, lambda batch, index: _with_rewards(batch, batch.rewards * 10.0 - 5.0)
    )
    assert found.decisions == expected.decisions
    assert np.allclose(found.policies[1]["context"], expected.policies[1]["context"], atol=1e-3)
    assert found.codes(0) == []
    gains = [session.steps[1].verdict.realized_gain for session in (found, expected)]
    assert gains[0] is not None
    assert gains[1] is not None
    assert gains[0].value == pytest.approx(10.0 * gains[1].value, rel=0.02)


def test_no_step_is_longer_than_its_limit(navigation: MetaPolicy) -> None:
    free = Session(navigation, seed=2).run((0.9, -0.9), 1)
    assert free.steps[0].summary.kl_divergence > 1.0
    session = Session(navigation, StepOptions(max_kl=0.3), seed=2).run((0.9, -0.9), 4)
    for index, step in enumerate(session.steps):
        assert step.summary.kl_divergence <= 0.3 * 1.001
        if step.verdict.decision is Decision.SHORTENED and ReasonCode.KL_LIMIT in session.codes(index):
            assert step.summary.kl_divergence == pytest.approx(0.3, rel=0.01)
    assert session.codes(0)[-1] is ReasonCode.KL_LIMIT
    assert session.steps[0].verdict.decision is Decision.SHORTENED


def test_a_task_that_changes_sends_the_session_back_to_its_start(navigation: MetaPolicy) -> None:
    session = Session(navigation, seed=4).run((0.4, 0.4), 3)
    step = session.take(session.collect((-0.4, -0.4)))
    assert step.verdict.decision is Decision.ROLLED_BACK
    assert session.codes()[0] is ReasonCode.CONTRADICTORY_EPISODES
    assert _equal(session.policies[-1], navigation.parameters)
    session.run((-0.4, -0.4), 3)
    assert session.decisions == "THHRTHH"
    assert session.returns[-1] > -5.0


BROKEN: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "zero": torch.zeros_like,
    "constant": torch.ones_like,
    "huge": lambda rewards: rewards * 1e30,
    "tiny": lambda rewards: rewards * 1e-30,
    "huge constant": lambda rewards: torch.full_like(rewards, -1e30),
    "alternating": lambda rewards: torch.where(torch.arange(len(rewards)) % 2 == 0, 1e30, -1e30),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("caution", [Caution.HOLD, Caution.OFF])
def test_extreme_rewards_end_in_a_decision_with_a_reason(navigation: MetaPolicy, kind: str, caution: Caution) -> None:
    session = Session(navigation, StepOptions(caution=caution))
    session.run((0.3, -0.25), 4, lambda batch, index: _with_rewards(batch, BROKEN[kind](batch.rewards)))
    for index, step in enumerate(session.steps):
        numbers = [reason.value for reason in step.verdict.reasons]
        assert all(map(math.isfinite, numbers))
        assert session.codes(index) or step.verdict.decision is Decision.TAKEN
    if kind in ("zero", "constant", "huge constant"):
        assert session.decisions == "HHHH"
        assert session.codes()[0] is ReasonCode.NO_SIGNAL
        assert all(_equal(each, navigation.parameters) for each in session.policies)


def _first_steps(batch: TrajectoryBatch) -> TrajectoryBatch:
    starts = np.cumsum((0, *batch.lengths[:-1]))
    return dataclasses.replace(
        batch,
        observations=batch.observations[starts],
        actions=batch.actions[starts],
        rewards=batch.rewards[starts],
        lengths=(1,) * len(batch.lengths),
    )


def _identical(batch: TrajectoryBatch) -> TrajectoryBatch:
    one = batch.first(1)
    return dataclasses.replace(
        one,
        observations=one.observations.repeat(4, 1),
        actions=one.actions.repeat(4, 1),
        rewards=one.rewards.repeat(4),
        lengths=one.lengths * 4,
        terminated=one.terminated.repeat(4),
        final_observations=one.final_observations.repeat(4, 1),
    )


@pytest.mark.parametrize(
    "change", [lambda batch: batch.first(1), _first_steps, _identical], ids=["one episode", "one step", "identical"]
)
def test_poor_batches_are_decided_about(
    navigation: MetaPolicy, change: Callable[[TrajectoryBatch], TrajectoryBatch]
) -> None:
    session = Session(navigation).run((0.3, -0.25), 5, lambda batch, index: change(batch))
    assert len(session.steps) == 5


@pytest.mark.parametrize("inner_lr", [0.1, 0.5])
def test_a_policy_that_adapts_all_parameters_is_guarded_too(navigation: MetaPolicy, inner_lr: float) -> None:
    spec = AdaptationSpec(inner_lr=inner_lr, context_lr=inner_lr, discount=0.5)
    manifest = navigation.manifest.model_copy(update={"adaptation": spec})
    meta_policy = dataclasses.replace(navigation, manifest=manifest, step_sizes=None, reference={})
    session = Session(meta_policy).run((0.45, -0.45), 10)
    for index, step in enumerate(session.steps):
        realized = step.verdict.realized_gain
        if realized is not None and realized.high < 0.0:
            assert step.verdict.decision is Decision.ROLLED_BACK
        number = step.memory.next_policy
        if number <= index:
            assert _equal(session.policies[index + 1], session.policies[number])
    assert step.verdict.best_round > 0
    # Unguarded, both end below their first policy.
    assert session.returns[step.verdict.best_round] > session.returns[0] + 10.0
