"""Is a task like those of meta-training? A conformal test on the first episodes of a session.

`batch_features` sums a batch up in about twenty numbers. In each of several groups of them, the distance to the nearest
held-out tasks of meta-training says how unusual the batch is. A tail index brings the groups to one scale: log
distances beyond their 90 % quantile are about exponential (Hill 1975). The largest of a batch's groups is its
nonconformity score. The score's rank among those of the held-out tasks is the p-value (Vovk, Gammerman & Shafer 2005):
a new task of meta-training has a p-value of at most α with probability at most α, for any choice of features.

What holds: held-out tasks were measured with several numbers of trajectories. A batch is compared at the largest of
these numbers that it reaches, with its first trajectories, so the p-value holds for those numbers. The gradient of a
batch between them is less noisy than that of the calibration, which errs to the safe side. Episodes of an adapted
policy are compared with those of θ_1 after the shipped inner step on N trajectories. That holds for the second round of
a session without options, and is an approximation after other steps.
"""

import dataclasses
import math
import weakref
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from thetaprime.models.artifact import REFERENCE_NAME, MetaPolicy
from thetaprime.models.errors import ArtifactError
from thetaprime.models.inner_loop import moving_parameters
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import Policy
from thetaprime.models.trajectories import TrajectoryBatch
from thetaprime.models.verdict.calibration import (
    ADAPTED,
    PREFIX,
    THETA,
    HeldOut,
    Lens,
    StageCalibration,
    load_calibration,
)

_NEIGHBORS: Final = 5
_SKETCH: Final = 16
_TAIL: Final = 0.1
_MOST_STEPS: Final = 2048
_TINY: Final = 1e-300
_FARTHEST: Final = 1e6
_RIDGE: Final = 1e-6


@dataclasses.dataclass(frozen=True)
class Familiarity:
    """How a batch compares with those of held-out meta-training tasks.

    Attributes:
        p_value: of the hypothesis that the task is one of meta-training's, from the first round and this one.
        alone: the same from this batch alone.
        feature: name of the most unusual feature.
        text: the most unusual feature, in words; a clause without a period.
    """

    p_value: float
    alone: float
    feature: str
    text: str


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


class Group(NamedTuple):
    """Features whose distance to those of held-out tasks is measured together.

    Attributes:
        prefixes: of the features' names.
        common: whether the features have one scale, that of the most variable one. Otherwise each has its own.
    """

    prefixes: tuple[str, ...]
    common: bool = False


# The return comes along where a feature varies with it: the pair is narrower than the feature.
GROUPS: Final = (
    Group(("return",)),
    Group(("return", "direction_")),
    Group(("return", "return_spread")),
    Group(("return", "reward_spread")),
    Group(("return", "length", "terminated")),
    Group(("reward_function_",), common=True),
    Group(("reward_function_",)),
    Group(("reward_residual",)),
    Group(("reward_residual", "reward_function_0", "reward_function_1")),
    Group(("gradient_norm",)),
    Group(("gradient_norm", "direction_")),
    Group(("drift", "state_response", "action_response", "motion_noise")),
    Group(("states",)),
)
"""Overlapping groups of features."""


def group_columns(group: Group, features: Sequence[Feature]) -> list[int]:
    """The indices of a group's features: those named by a prefix, which itself is a name or ends in an underscore."""
    return [
        index
        for index, feature in enumerate(features)
        if any(feature.name.startswith(each) if each.endswith("_") else feature.name == each for each in group.prefixes)
    ]


def task_p_value(
    meta_policy: MetaPolicy,
    batch: TrajectoryBatch,
    gradient: Parameters,
    *,
    adapted: bool,
    first: float | None = None,
) -> Familiarity | None:
    """Tests the hypothesis that a task is one of meta-training's.

    Args:
        meta_policy: the meta-policy of the session.
        batch: the trajectories of a round.
        gradient: ∇L(θ_k) of the inner loss on the batch, as in `InnerStep`.
        adapted: whether an adapted policy collected the batch, and not θ.
        first: `Familiarity.p_value` of the first round, for later rounds. The result then combines the two: it is the
            rank of the smaller p-value among those of the held-out tasks in two rounds.

    Returns:
        The p-value and the most unusual feature; None if the artifact holds no calibration.

    Raises:
        ArtifactError: the artifact's calibration is damaged.
    """
    calibration = load_calibration(meta_policy)
    if calibration is None:
        return None
    stage = calibration.adapted if adapted else calibration.theta
    level = max(_level(stage.tasks, len(batch.lengths)), 0)
    used = batch.first(int(stage.tasks.trajectories[level]))
    found = batch_features(meta_policy.policy, stage.lens, used, gradient)
    held_out = _neighbors(stage, gradient)
    score = nonconformity(held_out.distances(found[None])[0], stage.tasks.levels[level])
    scores = stage.tasks.scores[level]
    alone = (1 + int((scores >= float(score.max().float())).sum())) / (len(scores) + 1)
    index, above = held_out.most_unusual(found, int(score.argmax()))
    p_value = alone
    if first is not None:
        pairs = calibration.pairs
        p_value = (1 + int((pairs <= min(first, alone) * (1.0 + 1e-6)).sum())) / (len(pairs) + 1)
    feature = held_out.described[index]
    return Familiarity(p_value, alone, feature.name, feature.high if above else feature.low)


def check_calibration(meta_policy: MetaPolicy) -> None:
    """Checks the calibration in an artifact, so that no session meets a damaged one.

    Raises:
        ArtifactError: a tensor is missing, is not finite, or does not fit the network or the features of a batch.
    """
    calibration = load_calibration(meta_policy)
    if calibration is None:
        return
    parameters = meta_policy.parameters
    moving = moving_parameters(parameters, meta_policy.manifest.adaptation, meta_policy.step_sizes)
    gradient = {name: parameters[name] for name in moving}
    for stage, part in ((THETA, calibration.theta), (ADAPTED, calibration.adapted)):
        expected = {
            "features": (1, len(describe_features(gradient, part.lens))),
            "levels": (1, len(GROUPS)),
        }
        for name, (axis, size) in expected.items():
            shape = list(getattr(part.tasks, name).shape)
            if shape[axis] != size:
                found = f"{PREFIX}{stage}.{name} is {shape}; expected {size} along axis {axis}"
                raise ArtifactError(REFERENCE_NAME, f"{found}; calibrate the artifact again")


def _neighbors(stage: StageCalibration, gradient: Parameters) -> "Neighbors":
    """The held-out tasks of a calibration, prepared once."""
    if stage not in _PREPARED:
        _PREPARED[stage] = Neighbors(stage.tasks.features, describe_features(gradient, stage.lens))
    return _PREPARED[stage]


def _level(tasks: HeldOut, trajectories: int) -> int:
    """Index of the largest calibrated number of trajectories that a batch reaches."""
    return int((tasks.trajectories <= trajectories).sum()) - 1


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
    """At most 2,048 transitions of a batch, evenly spread."""
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
    inputs = moves.inputs.shape[1]
    weights = lens.rewards.numpy()
    # numpy's product of a tall and a narrow matrix takes a fifth of the time of torch's (MKL, AMD EPYC).
    sums = moves.change.numpy() @ weights[inputs:] + moves.inputs.numpy() @ weights[:inputs]
    bank = torch.from_numpy(sums).double()
    unit = float(moves.rewards.abs().max()) or 1.0
    targets = moves.rewards / unit
    gram = (bank.T @ bank).numpy() / len(bank)
    ridge = _RIDGE * np.eye(len(gram)) * gram.diagonal().mean()
    coordinates = torch.from_numpy(np.linalg.solve(gram + ridge, (bank.T @ targets).numpy() / len(bank)))
    rest = float((targets - bank @ coordinates).square().mean())
    return torch.cat([coordinates * unit, torch.tensor([_log(math.sqrt(rest)) + math.log(unit)]).double()])


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


class Neighbors:
    """The held-out tasks in standardized features.

    Args:
        features: [T, F], of the held-out tasks.
        described: the F features.

    Attributes:
        described: the F features.
    """

    def __init__(self, features: torch.Tensor, described: Sequence[Feature]) -> None:
        self.described = tuple(described)
        tasks = features.double()
        self._center = tasks.median(0).values.numpy()
        self._scale = (tasks.std(0) + 1e-3 * torch.from_numpy(self._center).abs() + 1e-6).numpy()
        self._columns = [np.array(group_columns(group, described)) for group in GROUPS]
        self._weights = np.zeros((len(self.described), len(GROUPS)))
        for index, (group, columns) in enumerate(zip(GROUPS, self._columns, strict=True)):
            scale = self._scale[columns]
            self._weights[columns, index] = np.square(scale / scale.max()) if group.common else 1.0
        self._tasks = self._standardized(features)

    def _standardized(self, features: torch.Tensor) -> npt.NDArray[np.float64]:
        z = (features.double().numpy() - self._center) / self._scale
        finite: npt.NDArray[np.float64] = np.nan_to_num(z, nan=_FARTHEST, posinf=_FARTHEST, neginf=-_FARTHEST)
        return finite.clip(-_FARTHEST, _FARTHEST)

    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """[P, F] -> [P, G]: mean distance of each batch to the nearest held-out tasks, by group."""
        return self._distances(features, own=False)

    def held_out_distances(self, features: torch.Tensor) -> torch.Tensor:
        """[T, F] -> [T, G]: the same for each held-out task, without itself; with any number of trajectories."""
        return self._distances(features, own=True)

    def _distances(self, features: torch.Tensor, *, own: bool) -> torch.Tensor:
        count = min(_NEIGHBORS, len(self._tasks) - own)
        rows = []
        for index, point in enumerate(self._standardized(features)):
            squares = np.square(self._tasks - point) @ self._weights
            if own:
                # A task does not count as its own neighbor.
                squares[index] = math.inf
            rows.append(np.sqrt(np.partition(squares, count - 1, axis=0)[:count]).mean(0))
        return torch.from_numpy(np.stack(rows))

    def most_unusual(self, features: torch.Tensor, group: int) -> tuple[int, bool]:
        """The feature of a group that differs most from the nearest tasks', and whether it lies above theirs.

        Args:
            features: [F].
            group: index of the group.
        """
        point, columns = self._standardized(features[None])[0], self._columns[group]
        distances = np.square(self._tasks - point) @ self._weights[:, group]
        nearest = np.argsort(distances, kind="stable")[:_NEIGHBORS]
        weights = np.sqrt(self._weights[columns, group])
        differences = (point[columns] - self._tasks[nearest][:, columns].mean(0)) * weights
        chosen = int(np.abs(differences).argmax())
        return int(columns[chosen]), bool(differences[chosen] > 0)


_PREPARED: "weakref.WeakKeyDictionary[StageCalibration, Neighbors]" = weakref.WeakKeyDictionary()


def nonconformity(distances: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """How far log distances lie in the tails of the held-out tasks'.

    Args:
        distances: [..., G].
        level: [G, 2], from `tails`.

    Returns:
        [..., G]; the largest is the score.
    """
    return (_logs(distances) - level[:, 0].double()) / level[:, 1].double()


def tails(distances: torch.Tensor) -> torch.Tensor:
    """The tails of the held-out tasks' log distances.

    Args:
        distances: [T, G].

    Returns:
        [G, 2] float32: the 90 % quantile, and the mean excess over it (Hill 1975).
    """
    logs = _logs(distances)
    start = logs.quantile(1.0 - _TAIL, dim=0)
    excess = (logs - start).clamp_min(0.0).sum(0) / (logs > start).sum(0).clamp_min(1)
    return torch.stack([start, excess.clamp_min(_RIDGE)], dim=1).float()


def _logs(values: torch.Tensor) -> torch.Tensor:
    return values.double().clamp_min(_TINY).log()
