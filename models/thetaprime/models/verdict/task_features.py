"""What a batch says about its task: about twenty numbers, in the order of `describe_features`.

The level and the spread of the returns, how the reward depends on the motion, what a model of it leaves unexplained,
the direction and the length of the gradient, how the body answers to actions, and which states it is in.
"""

import math
import weakref
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import Policy
from thetaprime.models.trajectories import TrajectoryBatch
from thetaprime.models.verdict.calibration import Lens

_SKETCH: Final = 16
_MOST_STEPS: Final = 2048
_TINY: Final = 1e-300
_FARTHEST: Final = 1e6
_RIDGE: Final = 1e-6
# The features before those of the reward function: two of the returns' level and spread, and three others.
_REWARDS_FROM: Final = 5


class Feature(NamedTuple):
    """One number of `batch_features`.

    Attributes:
        name: of the feature.
        low: the meaning of an unusually low number, in words.
        high: the meaning of an unusually high number.
    """

    name: str
    low: str
    high: str


class Transitions(NamedTuple):
    """The transitions of a batch, standardized by a lens.

    Attributes:
        inputs: [S, K] float32: 1, observation, its square, action, its square; K = 1 + 2 O + 2 A.
        change: [S, O] float32: change of the observation.
        rewards: [S] float64.
    """

    inputs: torch.Tensor
    change: torch.Tensor
    rewards: torch.Tensor


def transitions(policy: Policy, lens: Lens, batch: TrajectoryBatch) -> Transitions:
    """At most 2,048 transitions of a batch, evenly spread. Equal calls share the result."""
    known = _KNOWN.get(batch)
    if known is None or known[0] is not lens:
        known = lens, _transitions(policy, lens, batch)
        _KNOWN[batch] = known
    return known[1]


# The familiarity of a task and the level of its rewards ask for them.
_KNOWN: "weakref.WeakKeyDictionary[TrajectoryBatch, tuple[Lens, Transitions]]" = weakref.WeakKeyDictionary()


def _transitions(policy: Policy, lens: Lens, batch: TrajectoryBatch) -> Transitions:
    count = len(batch.rewards)
    stride = -(-count // _MOST_STEPS)
    before, lengths = batch.observations[::stride], torch.tensor(batch.lengths)
    # An episode's last step is followed by its final observation.
    after = batch.observations[(torch.arange(0, count, stride) + 1).clamp_max(count - 1)]
    ends = lengths.cumsum(0) - 1
    kept = ends % stride == 0
    after[ends[kept] // stride] = batch.final_observations[kept]
    acted = taken_actions(policy, batch.actions[::stride])
    size = before.shape[1]
    inputs = torch.ones(len(before), 1 + 2 * size + 2 * acted.shape[1])
    for values, moments, start in ((before, lens.observation, 1), (acted, lens.action, 1 + 2 * size)):
        width = values.shape[1]
        plain, squares = inputs[:, start : start + width], inputs[:, start + width : start + 2 * width]
        torch.sub(values, moments[0], out=plain)
        plain.div_(moments[1]).clamp_(-10.0, 10.0)
        torch.mul(plain, plain, out=squares)
    change = (after - before).div_(lens.change).clamp_(-_FARTHEST, _FARTHEST)
    return Transitions(inputs, change, batch.rewards[::stride].double())


def taken_actions(policy: Policy, actions: torch.Tensor) -> torch.Tensor:
    """[S, A]: actions as the environment takes them; a discrete action as an indicator."""
    if policy.continuous:
        return policy.to_environment(actions)
    return torch.nn.functional.one_hot(actions, policy.environment.action.size).float()


def batch_features(policy: Policy, lens: Lens, batch: TrajectoryBatch, gradient: Parameters) -> torch.Tensor:
    """The features of a batch, in the order of `describe_features`.

    Args:
        policy: the network.
        lens: what transitions are compared with.
        batch: trajectories of one task.
        gradient: ∇L of the inner loss on the batch.

    Returns:
        [F] float64.
    """
    moves = transitions(policy, lens, batch)
    steps = len(moves.rewards)
    return torch.cat(
        [
            _returns(batch),
            _rewards(lens, moves),
            _gradient(gradient),
            _body(lens, moves),
            _observations(lens, moves, steps),
        ]
    )


def describe_features(gradient: Parameters, lens: Lens) -> tuple[Feature, ...]:
    """Names, groups and meanings of the features.

    Args:
        gradient: any gradient of the meta-policy's inner loss.
        lens: of the calibration.
    """
    sketched = min(_SKETCH, sum(value.numel() for value in gradient.values()))
    other = "the reward depends on the motion otherwise than on any training task"
    step = "the first step goes in another direction than on any training task"
    return (
        Feature("return", _of("return", "lower"), _of("return", "higher")),
        Feature("return_spread", _of("spread of the returns", "smaller"), _of("spread of the returns", "larger")),
        Feature(
            "reward_spread", _of("spread of a step's reward", "smaller"), _of("spread of a step's reward", "larger")
        ),
        Feature(
            "length",
            "the episodes are shorter than on training tasks",
            "the episodes are longer than on training tasks",
        ),
        Feature(
            "terminated",
            "fewer episodes terminate than on training tasks",
            "more episodes terminate than on training tasks",
        ),
        *(Feature(f"reward_function_{each}", other, other) for each in range(lens.rewards.shape[1])),
        Feature(
            "reward_residual",
            "observation, action and motion explain more of the reward than on any training task",
            "observation, action and motion explain less of the reward than on any training task: it is noisy, late or "
            "another function of them",
        ),
        *(Feature(f"direction_{each}", step, step) for each in range(sketched)),
        Feature(
            "gradient_norm",
            "the gradient is smaller than on training tasks",
            "the gradient is larger than on training tasks",
        ),
        Feature("drift", _BODY, "the observations drift otherwise than on training tasks"),
        Feature("state_response", _BODY, "the body moves on from a state otherwise than on training tasks"),
        Feature("action_response", _BODY, "the body answers to actions otherwise than on training tasks"),
        Feature(
            "motion_noise",
            "the motion is more predictable than on training tasks",
            "the motion is less predictable than on training tasks",
        ),
        Feature(
            "states",
            "the observations vary less than between training tasks",
            "the observations have other values than on training tasks",
        ),
    )


_BODY: Final = "the body moves more regularly than on training tasks"


def _of(what: str, how: str) -> str:
    return f"the {what} of the policy is {how} than on training tasks"


def _returns(batch: TrajectoryBatch) -> torch.Tensor:
    returns, rewards = batch.returns.numpy(), batch.rewards.numpy()
    terminated, mean_length = float(batch.terminated.double().mean()), len(rewards) / len(returns)
    spreads = (_log(float(returns.std())), _log(float(rewards.std(dtype=np.float64))))
    return torch.tensor([float(returns.mean()), *spreads, mean_length, terminated], dtype=torch.float64)


def _rewards(lens: Lens, moves: Transitions) -> torch.Tensor:
    """The coordinates of the reward in the bank of training rewards, and the log deviation of what is left."""
    bank = _bank(lens, moves)
    unit = float(moves.rewards.abs().max()) or 1.0
    targets = moves.rewards / unit
    coordinates = _coordinates(bank, targets)
    rest = float((targets - bank @ coordinates).square().mean())
    return torch.cat([coordinates * unit, torch.tensor([_log(math.sqrt(rest)) + math.log(unit)]).double()])


def _bank(lens: Lens, moves: Transitions) -> torch.Tensor:
    """[S, Q]: the values of the bank of training rewards."""
    inputs = moves.inputs.shape[1]
    weights = lens.rewards.numpy()
    # numpy's product of a tall and a narrow matrix takes a fifth of the time of torch's (MKL, AMD EPYC).
    return torch.from_numpy(moves.change.numpy() @ weights[inputs:] + moves.inputs.numpy() @ weights[:inputs]).double()


def _coordinates(bank: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[Q]: the least-squares coordinates of a reward [S] in the bank [S, Q]."""
    gram = (bank.T @ bank).numpy() / len(bank)
    ridge = _RIDGE * np.eye(len(gram)) * gram.diagonal().mean()
    return torch.from_numpy(np.linalg.solve(gram + ridge, (bank.T @ targets).numpy() / len(bank)))


class RewardShape(NamedTuple):
    """How a batch's reward depends on the motion, without its scale and without each of several offsets.

    Attributes:
        coordinates: [K, Q], in the bank of training rewards.
        unexplained: [K], the log deviation of what is left: `reward_residual`.
    """

    coordinates: npt.NDArray[np.float64]
    unexplained: npt.NDArray[np.float64]


def reward_shape(lens: Lens, moves: Transitions, scale: float, offsets: npt.NDArray[np.float64]) -> RewardShape:
    """Measures the reward without a scale and without offsets.

    Args:
        lens: what transitions are compared with.
        moves: the transitions of the batch.
        scale: of the rewards, relative to meta-training.
        offsets: [K], of one step's reward, in the units of meta-training.
    """
    bank = _bank(lens, moves)
    # What is left of the reward and of a constant 1 tells what is left of any sum of them.
    targets = (moves.rewards / scale, torch.ones(len(bank), dtype=torch.float64))
    coordinates = np.stack([_coordinates(bank, each).numpy() for each in targets])
    rest = np.stack([each.numpy() for each in targets]) - coordinates @ bank.numpy().T
    squares = rest @ rest.T / len(bank)
    left = squares[0, 0] - 2.0 * offsets * squares[0, 1] + offsets**2 * squares[1, 1]
    return RewardShape(coordinates[0] - offsets[:, None] * coordinates[1], 0.5 * np.log(np.maximum(left, _TINY)))


def features_with(
    features: torch.Tensor, scale: float, offsets: npt.NDArray[np.float64], shape: RewardShape
) -> npt.NDArray[np.float64]:
    """[K, F]: the features [F] that a batch would have without the scale and each of the offsets of its rewards.

    Args:
        features: of the batch as it is, from `batch_features`.
        scale: as in `reward_shape`.
        offsets: as in `reward_shape`.
        shape: from `reward_shape`.
    """
    found = np.repeat(features.double().numpy()[None], len(offsets), axis=0)
    found[:, 0] = found[:, 0] / scale - offsets * found[:, 3]
    found[:, 1:3] -= math.log(scale)
    end = _REWARDS_FROM + shape.coordinates.shape[1]
    found[:, _REWARDS_FROM:end] = shape.coordinates
    found[:, end] = shape.unexplained
    return found


def _gradient(gradient: Parameters) -> torch.Tensor:
    """The direction of the gradient, sketched if it is long, and its log norm."""
    flat = torch.cat([torch.zeros(0), *(gradient[name].flatten() for name in sorted(gradient))]).double()
    norm = flat.norm()
    direction = flat / norm if float(norm) else flat
    if len(flat) > _SKETCH:
        # Feature hashing (Weinberger et al. 2009) keeps inner products, and needs no stored projection.
        generator = torch.Generator().manual_seed(len(flat))
        signs = torch.randint(2, (len(flat),), generator=generator).double() * 2.0 - 1.0
        buckets = torch.randint(_SKETCH, (len(flat),), generator=generator)
        direction = torch.zeros(_SKETCH, dtype=torch.float64).index_add_(0, buckets, direction * signs)
    return torch.cat([direction, torch.tensor([_log(float(norm))]).double()])


def unexplained(lens: Lens, moves: Transitions) -> torch.Tensor:
    """What the model of the dynamics leaves unexplained.

    Returns:
        [K + 1, O]: the correlation of the residual with each input, times √S, and the residual's mean square.
    """
    residual = torch.addmm(moves.change, moves.inputs, lens.dynamics, alpha=-1.0)
    correlated = moves.inputs.T @ residual / math.sqrt(len(residual))
    return torch.cat([correlated, residual.square().mean(0, keepdim=True)]).double()


def _body(lens: Lens, moves: Transitions) -> torch.Tensor:
    found = unexplained(lens, moves).numpy()
    ratios = np.square(found / lens.dynamics_noise.numpy())
    observed = 1 + 2 * lens.observation.shape[1]
    parts = (ratios[:1], ratios[1:observed], ratios[observed:-1])
    noise = np.log(np.maximum(found[-1] / lens.dynamics_noise[-1].numpy(), _TINY)).mean()
    return torch.tensor([*(_log(float(part.mean())) for part in parts), float(noise)], dtype=torch.float64)


def _observations(lens: Lens, moves: Transitions, steps: int) -> torch.Tensor:
    observed = 2 * lens.observation.shape[1]
    mean = moves.inputs.mean(0)[1 : 1 + observed]
    offset = (mean - lens.inputs_noise[0, :observed]) * math.sqrt(steps) / lens.inputs_noise[1, :observed]
    return torch.tensor([_log(float(offset.double().square().mean()))], dtype=torch.float64)


def _log(value: float) -> float:
    return math.log(max(value, _TINY))
