"""DiCE and E-MAML against exact expectations, on problems small enough to enumerate every outcome.

Both are estimators: what counts is that their gradient, averaged over all that may be sampled, is the derivative of an
expected return after adapting, which is computed here from the problem itself.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.support.training.tiny import meta_objective, tiny_config
from thetaprime.models import DiscreteAction, EnvironmentContract, Parameters, Policy, PolicySpec, TrajectoryBatch
from thetaprime.training.algorithms import e_maml
from thetaprime.training.algorithms.objective import flatten, unflatten
from thetaprime.training.sampling.sampler import Collected, TaskData

pytestmark = pytest.mark.usefixtures("one_thread")

ALPHA = 0.7
Trajectory = tuple[int, ...]


def _policy(states: int, horizon: int) -> Policy:
    """A softmax over two actions with a logit for every state, so that exact proportions can be set."""
    environment = EnvironmentContract(
        environment_id="Tiny", observation_shape=(states,), action=DiscreteAction(count=2), horizon=horizon
    )
    return Policy(environment, PolicySpec(hidden_sizes=()))


def _parameters(probabilities: Sequence[float]) -> Parameters:
    """The θ with the given probability of action 1 in each state."""
    chosen = torch.tensor(probabilities, dtype=torch.float64)
    weight = torch.stack([torch.zeros_like(chosen), (chosen / (1 - chosen)).log()])
    return {"layers.0.weight": weight, "layers.0.bias": torch.zeros(2, dtype=torch.float64)}


def _collected(
    policy: Policy,
    parameters: Parameters,
    steps: int,
    trajectories: Sequence[tuple[Sequence[int], Trajectory, Sequence[float]]],
) -> Collected:
    """Trajectories of (states, actions, rewards), with the returns to go as advantages."""
    states = policy.environment.observation_size
    eye = np.eye(states, dtype=np.float32)
    batch = TrajectoryBatch.concatenate(
        [eye[list(visited)] for visited, _, _ in trajectories],
        [np.array(actions) for _, actions, _ in trajectories],
        [np.array(rewards, np.float32) for _, _, rewards in trajectories],
        [False] * len(trajectories),
        [eye[0]] * len(trajectories),
    )
    with torch.no_grad():
        behavior = policy.distribution(parameters, batch.observations.double())
    remaining = torch.tensor(
        [sum(rewards[t:]) for _, _, rewards in trajectories for t in range(len(rewards))], dtype=torch.float64
    )
    batch = TrajectoryBatch(
        batch.observations.double(),
        batch.actions,
        batch.rewards,
        batch.lengths,
        batch.terminated,
        batch.final_observations,
    )
    return Collected(steps, batch, remaining, behavior)


# Two steps: the first action decides in which of two states the second is chosen.
FIRST_REWARD = (0.3, -0.2)
SECOND_REWARD = ((0.0, 2.0), (1.5, -1.0))


def _walk(actions: Trajectory) -> tuple[Sequence[int], Trajectory, Sequence[float]]:
    first, second = actions
    return (0, 1 + first), actions, (FIRST_REWARD[first], SECOND_REWARD[first][second])


def _walk_probability(policy: Policy, parameters: Parameters, actions: Trajectory) -> torch.Tensor:
    states, taken, _ = _walk(actions)
    observations = torch.eye(3, dtype=torch.float64)[list(states)]
    log_probs: torch.Tensor = policy.distribution(parameters, observations).log_prob(torch.tensor(taken))
    return log_probs.sum().exp()


def _expected_walk(policy: Policy, parameters: Parameters) -> torch.Tensor:
    walks = list(itertools.product((0, 1), repeat=2))
    return torch.stack([_walk_probability(policy, parameters, walk) * sum(_walk(walk)[2]) for walk in walks]).sum()


@pytest.mark.parametrize(("outer_loop", "curvature"), [("dice", "dice"), ("maml_trpo", "log_prob")])
def test_dice_estimates_the_derivative_of_the_return_after_an_exact_gradient_step(
    outer_loop: str, curvature: str
) -> None:
    """d/dθ J(θ + α ∇J(θ)), with J computed exactly. MAML's usual inner loss misses a part of it, so the test can fail.

    The support holds every walk as often as its probability says, so that its mean is the expectation: eighths.
    """
    policy, parameters = _policy(3, 2), _parameters([1 / 2, 1 / 4, 3 / 4])
    theta = flatten(parameters)
    config = tiny_config(
        {
            "outer_loop": outer_loop,
            "adaptation.curvature": curvature,
            "adaptation.inner_lr": ALPHA,
            "policy.hidden_sizes": [],
        }
    )
    walks = list(itertools.product((0, 1), repeat=2))
    counts = [round(8 * float(_walk_probability(policy, parameters, walk))) for walk in walks]
    assert counts == [3, 1, 1, 3]
    proportions = [_walk(walk) for walk, count in zip(walks, counts, strict=True) for _ in range(count)]
    support = _collected(policy, parameters, 0, proportions)

    point = theta.clone().requires_grad_()
    # The losses are means over steps, and a walk has two steps.
    (slope,) = torch.autograd.grad(_expected_walk(policy, unflatten(point, parameters)), point, create_graph=True)
    adapted = unflatten(point + ALPHA * slope / 2, parameters)
    (exact,) = torch.autograd.grad(-_expected_walk(policy, adapted) / 2, point)

    after = {name: value.detach() for name, value in adapted.items()}
    found = torch.zeros_like(theta)
    for walk in walks:
        query = _collected(policy, after, 1, [_walk(walk)])
        objective = meta_objective(config, policy, parameters, [TaskData([support], [query])])
        found += float(_walk_probability(policy, after, walk)) * objective.gradient(theta).theta
    assert exact.norm() > 0.05
    if curvature == "dice":
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-7)
    else:
        assert (found - exact).norm() > 0.1 * exact.norm()


# Two bandits with two arms. Both arms of the second pay less: the credit must not depend on this difference.
ARMS = ((1.0, -0.5), (-3.0, -2.0))


def _pulls(arms: Sequence[float], actions: Trajectory) -> list[tuple[Sequence[int], Trajectory, Sequence[float]]]:
    return [((0,), (action,), (arms[action],)) for action in actions]


@pytest.mark.parametrize(("credit", "exact_there"), [(1.0, True), (0.0, False)])
def test_e_maml_estimates_the_derivative_of_the_expected_return_after_adapting(
    monkeypatch: pytest.MonkeyPatch, credit: float, exact_there: bool
) -> None:
    """d/dθ E_D∼π_θ E_D′∼π_θ′ [R], over every support of two pulls and every query of one. MAML's derivative differs."""
    monkeypatch.setattr(e_maml, "credit_unit", lambda data, discount: 1.0)  # rewards are not normalized here
    policy, parameters = _policy(1, 1), _parameters([0.3])
    theta = flatten(parameters)
    config = tiny_config(
        {
            "outer_loop": "e_maml",
            "exploration_credit": credit,
            "adaptation.inner_lr": ALPHA,
            "policy.hidden_sizes": [],
        }
    )
    one = torch.ones(1, 1, dtype=torch.float64)

    def probabilities(at: Parameters) -> torch.Tensor:
        return torch.softmax(policy.head(at, one)[0], 0)

    def adapted(point: torch.Tensor, arms: Sequence[float], pulls: Trajectory) -> Parameters:
        """θ′ written out: a step along the mean over pulls of r · ∇log π, differentiable in θ."""
        log_probs = probabilities(unflatten(point, parameters)).log()
        loss = -torch.stack([log_probs[pull] * arms[pull] for pull in pulls]).mean()
        (slope,) = torch.autograd.grad(loss, point, create_graph=True)
        return unflatten(point - ALPHA * slope, parameters)

    supports = list(itertools.product((0, 1), repeat=2))
    point = theta.clone().requires_grad_()
    sampling = probabilities(unflatten(point, parameters))
    expected = torch.stack(
        [
            sampling[pulls[0]]
            * sampling[pulls[1]]
            * (probabilities(adapted(point, arms, pulls)) * torch.tensor(arms)).sum()
            for arms in ARMS
            for pulls in supports
        ]
    ).sum() / len(ARMS)
    (exact,) = torch.autograd.grad(-expected, point)

    outcomes: list[list[tuple[float, TaskData]]] = []
    for arms in ARMS:
        outcomes.append([])
        for pulls in supports:
            after = {name: value.detach() for name, value in adapted(point, arms, pulls).items()}
            support = _collected(policy, parameters, 0, _pulls(arms, pulls))
            for pull in (0, 1):
                probability = (sampling[pulls[0]] * sampling[pulls[1]] * probabilities(after)[pull]).detach()
                query = _collected(policy, after, 1, _pulls(arms, (pull,)))
                outcomes[-1].append((float(probability), TaskData([support], [query])))
    found = torch.zeros_like(theta)
    for (chance, task), (other_chance, other) in itertools.product(*outcomes):  # independent, as tasks are
        objective = meta_objective(config, policy, parameters, e_maml.credited([task, other], config))
        found += chance * other_chance * objective.gradient(theta).theta
    assert sum(chance for chance, _ in outcomes[0]) == pytest.approx(1.0)
    if exact_there:
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-7)
    else:
        assert (found - exact).norm() > 0.05 * exact.norm()
