"""What a policy is, what its environment sends and takes, and how it adapts: plain, frozen data."""

import math
from typing import Annotated, Final, Literal, Self

import pydantic


class Spec(pydantic.BaseModel):
    """Base of every specification: frozen, closed to unknown fields."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="strings", use_attribute_docstrings=True
    )


CONTEXT: Final = "context"
"""Name of the parameter that holds the context."""


class BoxAction(Spec):
    """A continuous action of A dimensions."""

    kind: Literal["box"] = "box"
    low: tuple[float, ...] = pydantic.Field(min_length=1)
    """[A] lower bounds in the environment's units; -inf where there is none."""
    high: tuple[float, ...] = pydantic.Field(min_length=1)
    """[A] upper bounds in the environment's units; inf where there is none."""

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
    count: int = pydantic.Field(ge=2)
    """A, the number of actions."""
    start: int = 0
    """What the environment calls the first action."""

    @property
    def size(self) -> int:
        """A, the number of actions."""
        return self.count


Action = Annotated[BoxAction | DiscreteAction, pydantic.Field(discriminator="kind")]


class EnvironmentContract(Spec):
    """What the environment sends and takes."""

    environment_id: str
    """Gymnasium id of the environment, or any name where it is not registered."""
    observation_shape: tuple[pydantic.PositiveInt, ...] = pydantic.Field(min_length=1)
    """Shape of one observation; the policy sees it flattened."""
    action: Action
    """The action space."""
    horizon: pydantic.PositiveInt
    """H: longest episode, in steps. The return counts these steps and no more."""
    control_timestep: float = pydantic.Field(default=0.0, ge=0.0)
    """Seconds between two actions; 0 where the environment has no clock."""

    @property
    def observation_size(self) -> int:
        """O, the number of numbers in one observation."""
        return math.prod(self.observation_shape)


class PolicySpec(Spec):
    """The network of a policy: an MLP from the flattened observation to an action distribution.

    Box actions are drawn from a diagonal Gaussian whose log standard deviation is a parameter that does
    not depend on the observation (Duan et al. 2016). It is scored *unscaled*: along a dimension with
    finite bounds the policy's [-1, 1] is mapped onto [low, high] and clipped on the way into the environment,
    along others the action passes as it is. Discrete actions are drawn from a categorical distribution.
    """

    hidden_sizes: tuple[pydantic.PositiveInt, ...] = (100, 100)
    """Units of each hidden layer (Finn et al. 2017: two of 100)."""
    activation: Literal["relu", "tanh"] = "relu"
    """Nonlinearity between layers."""
    observation_mean: tuple[float, ...] = ()
    """[O] subtracted from the flattened observation, inside the policy; empty for nothing."""
    observation_std: tuple[pydantic.PositiveFloat, ...] = ()
    """[O] that the observation is then divided by; empty for ones."""
    context_size: pydantic.NonNegativeInt = 0
    """C: numbers, parameters like any other, that every observation is extended by (Finn et al. 2017b, "bias
    transformation"; Zintgraf et al. 2019, CAVIA): a place for adaptation to say which task it is."""
    init_output_scale: float = pydantic.Field(default=1.0, gt=0.0)
    """Factor on the output layer's initial weights; a small one starts with means or logits near 0."""
    init_log_std: float = 0.0
    """Box actions: initial log standard deviation, in the policy's units."""
    min_log_std: float = -13.8
    """Box actions: floor of the log standard deviation (rllab: std >= 1e-6)."""


Curvature = Literal["log_prob", "ratio", "dice"]


class AdaptationSpec(Spec):
    """The inner loop: REINFORCE with a linear feature baseline (Finn et al. 2017, Algorithm 3)."""

    inner_lr: float = pydantic.Field(default=0.1, ge=0.0)
    """α: step size of the policy-gradient update, for every parameter without one of its own. 0 leaves all but the
    context as it is."""
    context_lr: pydantic.PositiveFloat = 0.1
    """α of the context, where the policy has one."""
    inner_lr_schedule: tuple[pydantic.PositiveFloat, ...] = pydantic.Field(default=(1.0,), min_length=1)
    """Factor on the step sizes at each inner step; the last one holds from there on."""
    target_return: float | None = None
    """R*: about the best undiscounted return that any task allows. Where it is given, step sizes are also multiplied by
    (R* − R_k) / return_gap, R_k being the batch's mean return: long steps far from the goal, short ones near it
    (after Polyak 1969). Advantages are normalized, and would else hide how far there is to go."""
    return_gap: float = pydantic.Field(default=1.0, gt=0.0)
    """The gap R* − R_k at which that factor is 1."""
    normalize_gradient: bool = False
    """Divide the gradient by its norm over all that adapts (Shor 1962): how long a step is, is then for the step sizes,
    the schedule and the gap to say, and the gradient's noise only turns it."""
    adapted_std_factor: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """Box actions: factor on the standard deviation, at the first inner step. θ must explore to learn which task it is;
    from then on most of its noise only costs return. What remains is what later steps learn from."""
    inner_steps: int = pydantic.Field(default=1, ge=0)
    """Inner steps taken in meta-training. 0 is no adaptation: the outer loop alone."""
    trajectories_per_round: pydantic.PositiveInt = 20
    """N: trajectories that each inner step was meta-trained for."""
    discount: float = pydantic.Field(default=0.99, gt=0.0, le=1.0)
    """γ of the inner loop's advantages."""
    gae_lambda: float = pydantic.Field(default=1.0, ge=0.0, le=1.0)
    """λ of generalized advantage estimation (Schulman et al. 2016); 1 is REINFORCE's return minus baseline."""
    baseline_ridge: float = pydantic.Field(default=1e-5, gt=0.0)
    """Ridge regularization of the linear feature baseline."""
    first_order: bool = False
    """Treat the inner gradient as a constant when differentiating through the adaptation (FOMAML)."""

    curvature: Curvature = "log_prob"
    """Second derivative of the inner loss, in meta-training: the paper's (log_prob), ProMP's LVC (ratio) or DiCE."""
    dice_decay: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    """With dice: how much an earlier action counts for each step that lies between; 1 is unbiased."""

    def step_size(self, name: str) -> float:
        """α of a parameter, where none is learned."""
        return self.context_lr if name == CONTEXT else self.inner_lr
