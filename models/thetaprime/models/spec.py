"""Specifications of a policy, its environment and its adaptation: frozen data."""

import fnmatch
import math
from typing import Annotated, Final, Literal, Self

import pydantic


class Spec(pydantic.BaseModel):
    """Base of every specification: frozen, without unknown fields."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="strings", use_attribute_docstrings=True
    )


_MOST: Final = 2**31 - 1
_Length = Annotated[int, pydantic.Field(ge=1, le=_MOST)]
_Count = Annotated[int, pydantic.Field(ge=0, le=_MOST)]

CONTEXT: Final = "context"
"""Name of the parameter that holds the context."""


class BoxAction(Spec):
    """A continuous action of A dimensions."""

    kind: Literal["box"] = "box"
    low: tuple[float, ...] = pydantic.Field(min_length=1)
    """[A] lower bounds in the environment's units; -inf for no bound."""
    high: tuple[float, ...] = pydantic.Field(min_length=1)
    """[A] upper bounds in the environment's units; inf for no bound."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if len(self.low) != len(self.high):
            raise ValueError(f"action.low has {len(self.low)} dimensions, action.high {len(self.high)}")
        for dimension, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not low < high:
                raise ValueError(f"action.low[{dimension}] = {low} is not below action.high[{dimension}] = {high}")
        return self

    @property
    def size(self) -> int:
        """A, the number of dimensions."""
        return len(self.low)


class DiscreteAction(Spec):
    """One of A actions."""

    kind: Literal["discrete"] = "discrete"
    count: int = pydantic.Field(ge=2, le=_MOST)
    """A, the number of actions."""
    start: int = pydantic.Field(default=0, ge=-_MOST, le=_MOST)
    """The environment's number of the first action."""

    @property
    def size(self) -> int:
        """A, the number of actions."""
        return self.count


Action = Annotated[BoxAction | DiscreteAction, pydantic.Field(discriminator="kind")]


class RewardDeviation(Spec):
    """A deviation of one step's reward over meta-training tasks, from `reward_deviation` or `reward_signal`."""

    median: pydantic.PositiveFloat
    """Median over tasks. A few tasks may deviate less, such as a goal velocity among the velocities of θ."""
    low: pydantic.PositiveFloat
    """Lowest deviation of a task."""
    high: pydantic.PositiveFloat
    """Highest deviation of a task."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.median <= self.high:
            raise ValueError(f"deviation: low {self.low}, median {self.median}, high {self.high}; expected this order")
        return self


Range = tuple[float, float]


class RewardContract(Spec):
    """The reward that a meta-policy was trained with. Ranges and deviations are in that reward's units."""

    formula: str
    """The reward of one step, in words."""
    step_range: Range | None = None
    """Lowest and highest reward of one step under θ, over meta-training tasks; None if not measured."""
    return_range: Range | None = None
    """Lowest and highest mean return of θ on a meta-training task; None if not measured."""
    deviation: tuple[RewardDeviation, ...] = ()
    """Deviation of one step's reward under θ, and under the policy after each inner step; later steps repeat the last
    one. It tells the scale of the rewards of a session. Empty if not measured."""
    signal: tuple[RewardDeviation, ...] = ()
    """The part of the deviations that moves explain, for the same policies. It tells a large scale from noise. Empty if
    not measured, or if moves explain nothing."""
    tasks: pydantic.NonNegativeInt = 0
    """Number of meta-training tasks that were measured."""
    seed: int = 0
    """Seed of the measurement."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, bounds in (("step_range", self.step_range), ("return_range", self.return_range)):
            if bounds is not None and not bounds[0] <= bounds[1]:
                raise ValueError(f"reward.{name}: {bounds}; expected the lowest number first")
        return self


class EnvironmentContract(Spec):
    """The observations that an environment sends, the actions that it takes and the reward that it gives."""

    environment_id: str
    """Gymnasium id of the environment, or any name if it is not registered."""
    observation_shape: tuple[_Length, ...] = pydantic.Field(min_length=1, max_length=32)
    """Shape of one observation; the policy sees it flattened."""
    action: Action
    """The action space."""
    horizon: _Length
    """H: longest episode, in steps. The return counts these steps."""
    control_timestep: float = pydantic.Field(default=0.0, ge=0.0)
    """Seconds between two actions; 0 if the environment has no clock."""
    reward: RewardContract | None = None
    """The reward in meta-training; None if it was not recorded."""

    @property
    def observation_size(self) -> int:
        """O, the length of one flattened observation."""
        return math.prod(self.observation_shape)


class MemorySpec(Spec):
    """The memory of a recurrent policy (RL², Duan et al. 2016): what it has seen of its task, as H numbers.

    At each step it reads the normalized observation, the previous action in policy units (one-hot if discrete), the
    previous reward, and whether the step begins another episode. Its state is kept over the episodes of one task, a
    *lifetime*, and returns to a learned initial state between tasks.
    """

    cell: Literal["gru", "lstm"] = "gru"
    """The recurrent cell (Cho et al. 2014; Hochreiter & Schmidhuber 1997), with the equations of torch.nn."""
    size: _Length = 128
    """H: the numbers that the memory holds."""
    encoder_sizes: tuple[_Length, ...] = pydantic.Field(default=(), max_length=64)
    """Units of the layers between the memory's input and its cell; empty for none."""
    reward_scale: pydantic.PositiveFloat | None = None
    """Factor on the previous reward. None counts as 1; training measures it, and an artifact holds the number."""


class PolicySpec(Spec):
    """The network of a policy: from the observation to an action distribution. An MLP, or any module.

    Box actions are drawn from a diagonal Gaussian. Its log standard deviation is a parameter that does not depend on
    the observation (Duan et al. 2016). Log-probabilities are those of the *unscaled* action: on the way into the
    environment, along a dimension with finite bounds, the policy's [-1, 1] is mapped onto [low, high] and clipped.
    Along other dimensions the action passes unchanged. Discrete actions are drawn from a categorical distribution.
    """

    module: str = pydantic.Field(default="", max_length=256)
    """Your own network in place of the MLP: ``package.module:Class`` of a `torch.nn.Module`. It is made as
    ``Class(observation_shape, outputs)``, with a context as ``Class(observation_shape, outputs, context_size)``. Called
    with observations [B, *observation_shape] (and contexts [B, C]), it returns [B, outputs]: means, or logits. An
    artifact records the name and never imports it."""
    hidden_sizes: tuple[_Length, ...] = pydantic.Field(default=(100, 100), max_length=64)
    """Units of each hidden layer of the MLP (Finn et al. 2017: two of 100)."""
    activation: Literal["relu", "tanh"] = "relu"
    """Nonlinearity between layers of the MLP."""
    observation_mean: tuple[float, ...] = ()
    """[O] subtracted from the flattened observation, inside the policy; empty for zeros."""
    observation_std: tuple[pydantic.PositiveFloat, ...] = ()
    """[O] divisor of the centered observation; empty for ones."""
    context_size: _Count = 0
    """C: length of the context, a parameter that is appended to every observation (Finn et al. 2017b, "bias
    transformation"; Zintgraf et al. 2019, CAVIA). Adaptation can encode the task there. A module of yours receives it
    as its second argument, and uses it where it likes."""
    memory: MemorySpec | None = None
    """A memory beside the observation: the MLP's input is the normalized observation and the memory's output. None for
    a policy that acts on the observation alone."""
    init_output_scale: float = pydantic.Field(default=1.0, gt=0.0)
    """Factor on the initial weights of the MLP's output layer; with a small factor, means or logits start near 0."""
    init_log_std: float = 0.0
    """Box actions: initial log standard deviation, in the policy's units."""
    min_log_std: float = -13.8
    """Box actions: floor of the log standard deviation (rllab: std >= 1e-6)."""


Curvature = Literal["log_prob", "ratio", "dice"]


class AdaptationSpec(Spec):
    """The inner loop: REINFORCE with a linear feature baseline (Finn et al. 2017, Algorithm 3)."""

    inner_lr: float = pydantic.Field(default=0.1, ge=0.0)
    """α: step size of the policy-gradient update, for every parameter without a learned step size. With 0, only the
    context
    adapts."""
    context_lr: pydantic.PositiveFloat = 0.1
    """α of the context, if the policy has one."""
    adapted_parameters: tuple[str, ...] = pydantic.Field(default=(), max_length=64)
    """Names of the parameters that adapt, beside the context, with * for any characters: ``("head.*", "log_std")``.
    Empty for all."""
    inner_lr_schedule: tuple[pydantic.PositiveFloat, ...] = pydantic.Field(default=(1.0,), min_length=1)
    """Factor on the step sizes at each inner step; later steps repeat the last factor."""
    target_return: float | None = None
    """R*: approximately the best undiscounted return of any task. If specified, step sizes are also multiplied by
    (R* − R_k) / return_gap, where R_k is the batch's mean return: steps are long far from the goal and short near it
    (after Polyak 1969). Normalized advantages do not show that distance. R_k is in the units of meta-training: see
    `thetaprime.models.reward_units`."""
    return_gap: float = pydantic.Field(default=1.0, gt=0.0)
    """The gap R* − R_k at which that factor is 1."""
    normalize_gradient: bool = False
    """Divide the gradient by its norm over all adapted parameters (Shor 1962). Step sizes, schedule and gap then set
    the
    length of a step, and the gradient's noise affects only its direction."""
    max_kl: pydantic.PositiveFloat | None = None
    """A trust region: the longest step of a session, as the mean KL divergence of θ_{k+1} from θ_k at the batch's
    observations, in nats. Within it, a session goes on round after round, also where one round's gain is less than its
    noise (as TRPO does, Schulman et al. 2015). None for the long steps that meta-training learned."""
    adapted_std_factor: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """Box actions: factor on the standard deviation at the first inner step. θ must explore to find the task; after
    that
    most of its noise only costs return. Later steps learn from the remaining noise."""
    inner_steps: _Count = 1
    """Inner steps in meta-training. 0 means no adaptation: the outer loop alone."""
    trajectories_per_round: _Length = 20
    """N: trajectories of each inner step in meta-training."""
    discount: float = pydantic.Field(default=0.99, gt=0.0, le=1.0)
    """γ of the inner loop's advantages."""
    late_discounts: tuple[Annotated[float, pydantic.Field(gt=0.0, le=1.0)], ...] = pydantic.Field(
        default=(), max_length=8
    )
    """Other discounts, for tasks whose rewards come late: the first episodes of a task choose one of them where the
    gradient with γ shows no signal. See `thetaprime.models.verdict.horizon`. Empty for γ alone."""
    gae_lambda: float = pydantic.Field(default=1.0, ge=0.0, le=1.0)
    """λ of generalized advantage estimation (Schulman et al. 2016); 1 is REINFORCE's return minus baseline."""
    baseline_ridge: float = pydantic.Field(default=1e-5, gt=0.0)
    """Ridge regularization of the linear feature baseline."""
    first_order: bool = False
    """Treat the inner gradient as a constant when differentiating through the adaptation (FOMAML)."""

    curvature: Curvature = "log_prob"
    """Second derivative of the inner loss, in meta-training: the paper's (log_prob), ProMP's LVC (ratio) or DiCE."""
    dice_decay: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """With dice: the weight of an earlier action decays by this factor at each step between; 1 is unbiased."""

    def step_size(self, name: str) -> float:
        """α of a parameter without a learned step size; 0 for one that does not adapt."""
        if name == CONTEXT:
            return self.context_lr
        return self.inner_lr if self.adapts(name) else 0.0

    def adapts(self, name: str) -> bool:
        """Whether `adapted_parameters` name a parameter."""
        patterns = self.adapted_parameters
        return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
