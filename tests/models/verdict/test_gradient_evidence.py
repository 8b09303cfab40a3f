"""Leave-one-out gradients, influence, contradiction, noise scale and signal of a round."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from tests.support.models.batches import MakeBatch
from thetaprime.models import AdaptationSpec, Parameters, Policy, TrajectoryBatch, adapt_step
from thetaprime.models.contributions import step_derivatives, trajectory_contributions
from thetaprime.models.spec import CONTEXT, BoxAction, EnvironmentContract, PolicySpec
from thetaprime.models.trajectories import baseline_inputs
from thetaprime.models.verdict.episodes import (
    NoiseScale,
    episodes_needed,
    length_beyond_noise,
    noise_scale,
    signal_p_value,
)
from thetaprime.models.verdict.gradient_evidence import GradientEvidence, measure_gradient
from thetaprime.models.verdict.influence import trajectory_influences, weighty_steps
from thetaprime.models.verdict.leave_one_out import GradientSums, LeaveOneOut, step_scores

_HORIZON = 40


def _context_policy(context: int = 2) -> tuple[Policy, Parameters]:
    environment = EnvironmentContract(
        environment_id="test",
        observation_shape=(3,),
        action=BoxAction(low=(-1.0, -1.0), high=(1.0, 1.0)),
        horizon=_HORIZON,
    )
    policy = Policy(
        environment, PolicySpec(hidden_sizes=(8,), activation="tanh", context_size=context, init_log_std=-1.5)
    )
    return policy, policy.init(3)


def _adaptation(**changes: object) -> AdaptationSpec:
    fields = {"inner_lr": 0.0, "context_lr": 0.5, "discount": 0.3, "normalize_gradient": True, **changes}
    return AdaptationSpec.model_validate(fields)


def _batch(
    policy: Policy, parameters: Parameters, wanted: np.ndarray, seed: int = 0, noise: float = 0.1
) -> TrajectoryBatch:
    """Trajectories whose reward is −|a − wanted_n|², wanted [N, 2], less noise."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    observations = [rng.normal(size=(_HORIZON, 3)).astype(np.float32) for _ in wanted]
    actions = [policy.sample(parameters, torch.from_numpy(each), generator).numpy() for each in observations]
    rewards = [-((a - w) ** 2).sum(1) + noise * rng.normal(size=_HORIZON) for a, w in zip(actions, wanted, strict=True)]
    return TrajectoryBatch.concatenate(
        observations,
        actions,
        [each.astype(np.float32) for each in rewards],
        [False] * len(wanted),
        [rng.normal(size=3).astype(np.float32) for _ in wanted],
    )


def _part(batch: TrajectoryBatch, kept: list[int]) -> TrajectoryBatch:
    ends = np.cumsum((0, *batch.lengths))
    rows = torch.from_numpy(np.concatenate([np.arange(ends[n], ends[n + 1]) for n in kept]))
    return TrajectoryBatch(
        batch.observations[rows],
        batch.actions[rows],
        batch.rewards[rows],
        tuple(batch.lengths[n] for n in kept),
        batch.terminated[kept],
        batch.final_observations[kept],
    )


def _sums(
    policy: Policy, parameters: Parameters, batch: TrajectoryBatch, adaptation: AdaptationSpec
) -> tuple[GradientSums, torch.Tensor]:
    scores = step_scores(policy, parameters, batch, adapt_step(policy, parameters, batch, adaptation, step=0))
    inputs = baseline_inputs(batch, policy.environment.horizon, adaptation.discount)
    return GradientSums.of(policy, batch, adaptation, scores, inputs), scores


def _measure(
    policy: Policy, parameters: Parameters, batch: TrajectoryBatch, adaptation: AdaptationSpec, **more: float
) -> GradientEvidence:
    step = adapt_step(policy, parameters, batch, adaptation, step=0)
    return measure_gradient(policy, parameters, batch, adaptation, step, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0.0, 0.5, 3.0])
def test_noise_adds_nothing_to_the_length_of_a_gradient(length: float) -> None:
    generator, true = torch.Generator().manual_seed(0), torch.tensor([length, 0.0, 0.0, 0.0], dtype=torch.float64)
    samples = true + torch.randn(400, 20, 4, generator=generator, dtype=torch.float64)
    found = torch.tensor([length_beyond_noise(_left_out(each)) for each in samples]).square()
    measured = samples.mean(1).square().sum(1)
    if length == 0.0:
        # A mean of 20 unit normals in four dimensions is not 0; its squared length is 0.2 on average.
        assert float(measured.min()) > 0.0
        assert float(found.median()) == 0.0
    elif length == 0.5:
        # Cut off at 0, it is a little too long where the true gradient is short.
        assert length**2 < float(found.mean()) < float(measured.mean()) - 0.15
    else:
        assert float((measured - found).mean()) == pytest.approx(0.2, abs=0.01)
    assert length_beyond_noise(_left_out(samples[0, :1])) is None


def _one_task(count: int = 20) -> np.ndarray:
    return np.tile([0.8, -0.5], (count, 1))


@pytest.mark.parametrize("decay", [1.0, 0.9])
@pytest.mark.parametrize("even", [True, False])
def test_downdating_equals_fitting_again_without_the_trajectory(decay: float, even: bool) -> None:
    policy, parameters = _context_policy()
    adaptation = _adaptation(gae_lambda=decay)
    batch = _batch(policy, parameters, _one_task(6))
    if not even:
        # Three whole trajectories, and three that ended early.
        rows = torch.arange(len(batch.rewards)).reshape(6, _HORIZON)
        kept = torch.cat([row[: _HORIZON - 7 * (n % 2)] for n, row in enumerate(rows)])
        batch = TrajectoryBatch(
            batch.observations[kept],
            batch.actions[kept],
            batch.rewards[kept],
            tuple(_HORIZON - 7 * (n % 2) for n in range(6)),
            torch.tensor([bool(n % 2) for n in range(6)]),
            batch.final_observations,
        )
    sums, _ = _sums(policy, parameters, batch, adaptation)
    left_out = sums.leave_one_out()
    whole = adapt_step(policy, parameters, batch, adaptation, step=0).gradient[CONTEXT]
    assert torch.allclose(left_out.whole, whole.double(), rtol=1e-4, atol=1e-7)
    for n in range(6):
        rest = _part(batch, [m for m in range(6) if m != n])
        expected = adapt_step(policy, parameters, rest, adaptation, step=0).gradient[CONTEXT].double()
        assert float((left_out.without[n] - expected).norm()) < 1e-4 * float(whole.norm())


def test_a_part_of_a_batch_has_the_gradient_of_its_own_fit() -> None:
    policy, parameters = _context_policy()
    adaptation, batch = _adaptation(), _batch(policy, parameters, _one_task(8))
    sums, _ = _sums(policy, parameters, batch, adaptation)
    kept = [0, 3, 4, 7]
    expected = adapt_step(policy, parameters, _part(batch, kept), adaptation, step=0).gradient[CONTEXT]
    assert torch.allclose(sums.leave_one_out(torch.tensor(kept)).whole, expected.double(), rtol=1e-4, atol=1e-7)


def test_many_trajectories_are_left_out_in_chunks() -> None:
    policy, parameters = _context_policy()
    adaptation, batch = _adaptation(), _batch(policy, parameters, _one_task(70))
    left_out = _sums(policy, parameters, batch, adaptation)[0].leave_one_out()
    rest = _part(batch, list(range(69)))
    expected = adapt_step(policy, parameters, rest, adaptation, step=0).gradient[CONTEXT].double()
    assert left_out.without.shape == (70, 2)
    assert torch.allclose(left_out.without[69], expected, rtol=1e-4, atol=1e-7)


def test_the_scores_of_other_policies_are_those_along_the_step(policy: Policy, make_batch: MakeBatch) -> None:
    parameters = policy.init(0)
    batch = make_batch(policy, parameters, lengths=(12, 12, 12))
    adaptation = AdaptationSpec(inner_lr=0.1)
    step = adapt_step(policy, parameters, batch, adaptation, step=0)
    scores = step_scores(policy, parameters, batch, step)
    assert scores.shape == (36, 1)
    # Along α ∘ g with one α, the gradient's part is its norm.
    norm = torch.stack([value.double().square().sum() for value in step.gradient.values()]).sum().sqrt()
    assert float(-(scores[:, 0] * step.advantage).mean()) == pytest.approx(float(norm), rel=1e-4)
    evidence = measure_gradient(policy, parameters, batch, adaptation, step)
    assert len(evidence.influences) == 3
    assert evidence.weighty_steps


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("target", [None, 50.0])
def test_an_influence_is_the_distance_between_the_ends_of_two_steps(normalize: bool, target: float | None) -> None:
    policy, parameters = _context_policy()
    plain = _adaptation(normalize_gradient=False, target_return=target, return_gap=100.0)
    adaptation = plain.model_copy(update={"normalize_gradient": normalize})
    batch = _batch(policy, parameters, _one_task(5))
    found = _measure(policy, parameters, batch, adaptation, **({} if target is None else {"target": target}))

    def moved(part: TrajectoryBatch) -> torch.Tensor:
        end = adapt_step(policy, parameters, part, plain, step=0).parameters[CONTEXT]
        return end.double() - parameters[CONTEXT].double()

    whole = moved(batch)
    for n in range(5):
        rest = moved(_part(batch, [m for m in range(5) if m != n]))
        assert found.influences[n] == pytest.approx(float((rest - whole).norm() / whole.norm()), rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("kind", ["another task", "sign", "noise"])
def test_a_planted_episode_is_the_most_influential(kind: str) -> None:
    policy, parameters = _context_policy()
    adaptation = _adaptation()
    ranks = []
    for seed in range(10):
        planted = seed % 20
        wanted = _one_task()
        if kind == "another task":
            wanted[planted] = (-1.5, 2.0)
        batch = _batch(policy, parameters, wanted, seed)
        rewards = batch.rewards.clone().reshape(20, _HORIZON)
        if kind == "sign":
            rewards[planted] = -rewards[planted]
        if kind == "noise":
            rewards[planted] += torch.from_numpy(np.random.default_rng(seed).normal(size=_HORIZON) * 20.0)
        influences = _measure(
            policy, parameters, dataclasses.replace(batch, rewards=rewards.flatten()), adaptation
        ).influences
        ranks.append(sum(each > influences[planted] for each in influences))
    assert sorted(ranks)[8] <= 1


def test_a_step_with_a_large_reward_weighs_most_and_shares_add_up() -> None:
    policy, parameters = _context_policy()
    adaptation = _adaptation(discount=0.1)
    batch = _batch(policy, parameters, _one_task(6))
    rewards = batch.rewards.clone()
    rewards[3 * _HORIZON + 17] = 500.0
    batch = dataclasses.replace(batch, rewards=rewards)
    step = adapt_step(policy, parameters, batch, adaptation, step=0)
    derivatives = step_derivatives(policy, parameters, batch, step)
    found = weighty_steps(batch, derivatives)
    assert (found[0].trajectory, found[0].step) == (3, 17)
    assert len(found) == 8
    assert all(abs(a.share) >= abs(b.share) for a, b in itertools.pairwise(found))
    shares = trajectory_contributions(policy, parameters, batch, step)
    by_trajectory = (derivatives / derivatives.sum()).reshape(6, _HORIZON).sum(1)
    assert by_trajectory == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize("rewards", ["zero", "constant"])
def test_nothing_is_said_about_rewards_that_tell_nothing(rewards: str) -> None:
    policy, parameters = _context_policy()
    batch = _batch(policy, parameters, _one_task(7))
    batch = dataclasses.replace(batch, rewards=torch.full_like(batch.rewards, 0.0 if rewards == "zero" else 3.0))
    found = _measure(policy, parameters, batch, _adaptation(), target=10.0)
    assert found == GradientEvidence((0.0,) * 7, (), None, 1.0, None, 0.0)


def test_one_trajectory_has_no_influence_and_no_noise_scale() -> None:
    policy, parameters = _context_policy()
    found = _measure(policy, parameters, _batch(policy, parameters, _one_task(1)), _adaptation())
    assert found.influences == (0.0,)
    assert (found.episodes_needed, found.signal_p_value, found.disagreement) == (None, None, None)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_the_evidence_does_not_depend_on_the_units_of_the_reward(scale: float) -> None:
    policy, parameters = _context_policy()
    batch = _batch(policy, parameters, _one_task(8), noise=2.0)
    scaled = dataclasses.replace(batch, rewards=(batch.rewards.double() * scale).float())
    plain, other = (_measure(policy, parameters, each, _adaptation()) for each in (batch, scaled))
    assert other.influences == pytest.approx(plain.influences, rel=1e-3, abs=1e-6)
    assert (other.episodes_needed, other.signal_p_value) == (plain.episodes_needed, plain.signal_p_value)


def test_episodes_of_two_tasks_contradict_each_other_and_those_of_one_do_not() -> None:
    policy, parameters = _context_policy()
    wanted = _one_task()
    alone = _measure(policy, parameters, _batch(policy, parameters, wanted), _adaptation())
    mixed = wanted.copy()
    mixed[::2] = -2.0 * mixed[::2]
    both = _measure(policy, parameters, _batch(policy, parameters, mixed), _adaptation())
    assert alone.disagreement is None
    assert both.disagreement is not None
    assert both.disagreement < -0.5


def test_two_groups_of_rewards_without_opposite_steps_are_no_contradiction() -> None:
    policy, parameters = _context_policy()
    batch = _batch(policy, parameters, _one_task())
    # Every other episode earns a bonus that no action changes.
    bonus = torch.tensor([5.0, 0.0]).repeat(10).repeat_interleave(_HORIZON)
    found = _measure(policy, parameters, dataclasses.replace(batch, rewards=batch.rewards + bonus), _adaptation())
    assert found.disagreement is None


def _left_out(gradients: torch.Tensor) -> LeaveOneOut:
    """Of a mean of gradients [N, D] that needs no baseline."""
    count = len(gradients)
    return LeaveOneOut(gradients.mean(0), (gradients.sum(0) - gradients) / (count - 1))


def test_the_noise_scale_is_that_of_the_gradients_in_the_middle() -> None:
    rng, true = np.random.default_rng(0), np.array([3.0, 0.0, 0.0])
    spread = np.array([1.5, 2.0, 1.0])
    found = [
        noise_scale(_left_out(torch.from_numpy(true + spread * rng.normal(size=(20, 3)))), torch.ones(3))
        for _ in range(300)
    ]
    along, across = np.median(np.array([each for each in found if each is not None]), axis=0)
    assert along == pytest.approx(1.5**2 / 9, rel=0.1)
    assert across == pytest.approx((2.0**2 + 1.0) / 9, rel=0.1)


def test_the_noise_counts_where_the_step_goes() -> None:
    gradients = torch.from_numpy(np.random.default_rng(1).normal(size=(20, 2)) + np.array([4.0, 0.0]))
    plain, still = (noise_scale(_left_out(gradients), sizes) for sizes in (torch.ones(2), torch.tensor([1.0, 0.0])))
    assert plain is not None and still is not None
    assert still.across < 1e-12 < plain.across


@pytest.mark.parametrize(
    ("noise", "needed"),
    [
        (NoiseScale(0.0, 0.0), 2),
        (NoiseScale(0.0, 1.0), 10),
        (NoiseScale(10.0, 1.0), 28),
        (NoiseScale(1e300, 0.0), 100_000),
        (NoiseScale(math.inf, math.inf), None),
    ],
)
def test_the_number_of_episodes_follows_from_the_noise(noise: NoiseScale, needed: int | None) -> None:
    assert episodes_needed(noise) == needed


def test_the_p_value_is_uniform_without_a_signal_and_small_with_one() -> None:
    rng = np.random.default_rng(0)
    # Noise along one axis is a hundred times that along the other.
    noise = [torch.from_numpy(rng.normal(size=(12, 2)) * [100.0, 1.0]) for _ in range(200)]
    found = [signal_p_value(_left_out(each)) for each in noise]
    assert 0.02 <= np.mean([each is not None and each <= 0.1 for each in found]) <= 0.18
    shifted = [signal_p_value(_left_out(each + torch.tensor([0.0, 2.0]))) for each in noise]
    assert np.mean([each is not None and each <= 0.05 for each in shifted]) > 0.95
    assert signal_p_value(_left_out(noise[0][:5])) is None


def test_influences_of_no_step_are_zero() -> None:
    still = LeaveOneOut(torch.zeros(2, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64))
    assert trajectory_influences(still, torch.ones(2), torch.zeros(4), _adaptation(), 1.0) == (0.0,) * 4
