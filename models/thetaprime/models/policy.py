"""The network of a policy, as functions of its parameters.

A `Policy` holds no parameters. θ, every θ′ and every candidate of a line search are dictionaries, passed as arguments.
So one policy serves all tasks at once, and no task's adaptation affects another's.
"""

import dataclasses
import itertools
import math
from collections.abc import Collection, Sequence
from typing import Final

import torch
from torch.distributions import Distribution

from thetaprime.models.head import LOG_STD, ActionHead
from thetaprime.models.kernels import Activation, activation_backward, layer, product, rows_of_kernels, sum_of_products
from thetaprime.models.parameters import Parameters
from thetaprime.models.spec import CONTEXT, BoxAction, EnvironmentContract, PolicySpec
from thetaprime.models.trajectories import TrajectoryBatch

CONTEXT_WEIGHT: Final = "context.weight"


def parameter_shapes(environment: EnvironmentContract, spec: PolicySpec) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by name, in the order of `Policy.init`, without memory for any of them."""
    sizes = (environment.observation_size, *spec.hidden_sizes, environment.action.size)
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        shapes[f"layers.{index}.weight"] = (fan_out, fan_in)
        shapes[f"layers.{index}.bias"] = (fan_out,)
    if isinstance(environment.action, BoxAction):
        shapes[LOG_STD] = (environment.action.size,)
    if spec.context_size:
        shapes[CONTEXT] = (spec.context_size,)
        shapes[CONTEXT_WEIGHT] = (sizes[1], spec.context_size)
    return shapes


class Policy(ActionHead):
    """An MLP policy over a Box observation, with a Gaussian or categorical head.

    Attributes:
        environment: the contract of the environment.
        spec: the network.
        layer_sizes: units of every layer, from O to A.
    """

    def __init__(self, environment: EnvironmentContract, spec: PolicySpec) -> None:
        if spec.memory is not None:
            raise ValueError(f"policy.memory is {spec.memory.cell!r}; expected no memory, or a RecurrentPolicy")
        super().__init__(environment, spec)
        self.layer_sizes = (environment.observation_size, *spec.hidden_sizes, environment.action.size)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter by name, in the order of `init`."""
        return parameter_shapes(self.environment, self.spec)

    def init(self, seed: int) -> Parameters:
        """Draws parameters: Glorot-uniform weights, zero biases (as in Finn et al. 2017).

        Returns:
            ``layers.<i>.weight`` [out, in] and ``layers.<i>.bias`` [out] for each layer; for box actions
            ``log_std`` [A]; with a context ``context`` [C], zeros, and ``context.weight`` [units of layer 0, C].
        """
        generator = torch.Generator().manual_seed(seed)
        parameters: Parameters = {}
        for index, (fan_in, fan_out) in enumerate(zip(self.layer_sizes, self.layer_sizes[1:], strict=False)):
            bound = math.sqrt(6.0 / (fan_in + fan_out))
            if index == len(self.layer_sizes) - 2:
                bound *= self.spec.init_output_scale
            weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator)
            parameters[f"layers.{index}.weight"] = weight
            parameters[f"layers.{index}.bias"] = torch.zeros(fan_out)
        if self.continuous:
            parameters[LOG_STD] = torch.full((self.environment.action.size,), self.spec.init_log_std)
        if self.spec.context_size:
            fan_out = self.layer_sizes[1]
            bound = math.sqrt(6.0 / (self.layer_sizes[0] + self.spec.context_size + fan_out))
            weight = torch.empty(fan_out, self.spec.context_size).uniform_(-bound, bound, generator=generator)
            parameters[CONTEXT] = torch.zeros(self.spec.context_size)
            parameters[CONTEXT_WEIGHT] = weight
        return parameters

    def layers(self, parameters: Parameters, observations: torch.Tensor) -> list[torch.Tensor]:
        """The input of the first layer, then the output of every layer.

        Args:
            parameters: as from `init`, or each with a leading axis of T tasks.
            observations: [B, O], or [T, B, O] if the parameters have the task axis.

        Returns:
            [B or more, units] each, or [T, B, units]; the rows beyond B are padding (see `rows_of_kernels`).
        """
        hidden = (observations - self._observation_mean) * self._observation_factor
        rows = hidden.shape[-2]
        if hidden.ndim == 2 and (more := rows_of_kernels(rows) - rows):
            hidden = torch.nn.functional.pad(hidden, (0, 0, 0, more))
        values = [hidden]
        for index in range(len(self.layer_sizes) - 1):
            weight, bias = parameters[f"layers.{index}.weight"], parameters[f"layers.{index}.bias"]
            if index == 0 and self.spec.context_size:
                # Equal to appending the context to each observation, and cheaper.
                bias = bias + (parameters[CONTEXT_WEIGHT] @ parameters[CONTEXT].unsqueeze(-1)).squeeze(-1)
            values.append(layer(values[-1], weight, bias, self.activation(index)))
        return values

    def activation(self, index: int) -> Activation:
        """The activation after a layer, counted from 0."""
        return self.spec.activation if index < len(self.layer_sizes) - 2 else "none"

    def head(self, parameters: Parameters, observations: torch.Tensor) -> torch.Tensor:
        """The network's output: the Gaussian's mean (policy units) or the categorical's logits.

        Args:
            parameters: as from `init`, or each with a leading axis of T tasks.
            observations: [B, O], or [T, B, O] if the parameters have the task axis.

        Returns:
            [B, A] or [T, B, A].
        """
        return self.layers(parameters, observations)[-1][..., : observations.shape[-2], :]

    def outputs(self, parameters: Parameters, observations: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The arguments of the action distribution: the head, and for box actions the log standard deviation."""
        head = self.head(parameters, observations)
        return (head, self.log_std(parameters)) if self.continuous else (head,)

    def forward_pass(self, parameters: Parameters, batch: TrajectoryBatch, moving: Collection[str]) -> "ForwardPass":
        """θ evaluated at the observations of a batch; arguments as of the function `forward_pass`."""
        constants = {name: value.detach() for name, value in parameters.items()}
        with torch.no_grad():
            layers = self.layers(constants, batch.observations)
        head = layers[-1][: len(batch.observations)].requires_grad_()
        leaves, outputs = [head], [head]
        if self.continuous:
            log_std = constants[LOG_STD]
            if LOG_STD in moving:
                log_std = log_std.clone().requires_grad_()
                leaves.append(log_std)
            # Also for a caller that runs without gradients.
            with torch.enable_grad():
                outputs.append(self.log_std({LOG_STD: log_std}))
        ordered = tuple(name for name in parameters if name in moving)
        return ForwardPass(self, constants, ordered, layers, tuple(outputs), tuple(leaves))

    def distribution(self, parameters: Parameters, observations: torch.Tensor) -> Distribution:
        """The action distribution at each observation; shapes as in `head`."""
        return self.distribution_of(self.outputs(parameters, observations))

    @torch.no_grad()
    def sample(self, parameters: Parameters, observations: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draws an action at each observation; shapes as in `head`.

        Returns:
            box: [*, B, A] float in policy units, unclipped. discrete: [*, B] int64, counted from 0.
        """
        return self.sample_of(self.outputs(parameters, observations), generator)

    def act(self, parameters: Parameters, observations: torch.Tensor) -> torch.Tensor:
        """The deterministic action at each observation, as the environment takes it.

        Returns:
            box: [B, A] float, scaled and clipped. discrete: [B] int64.
        """
        return self.action_of(self.head(parameters, observations))


@dataclasses.dataclass(frozen=True, eq=False)
class ForwardPass:
    """π_θ at every observation of a batch, for behavior tests, the gradient and the report.

    The gradient by the head is autograd's. Backpropagation through the layers is written out: it needs no graph, and
    keeps the derivatives by W x + b, which the contributions of trajectories are made of.

    Attributes:
        policy: the network.
        parameters: θ.
        moving: names of the parameters that a gradient is wanted for, in the order of θ.
        layers: as from `Policy.layers`.
        outputs: as from `Policy.outputs`, differentiable by the head and, if it moves, by `log_std`.
        leaves: the head, and `log_std` if it moves.
    """

    policy: Policy
    parameters: Parameters
    moving: tuple[str, ...]
    layers: list[torch.Tensor]
    outputs: tuple[torch.Tensor, ...]
    leaves: tuple[torch.Tensor, ...]

    @property
    def values(self) -> tuple[torch.Tensor, ...]:
        """The outputs as constants."""
        return tuple(output.detach() for output in self.outputs)

    def gradient(self, loss: torch.Tensor) -> tuple[Parameters, dict[int, torch.Tensor]]:
        """The gradient of a scalar that was computed from `outputs`; frees its graph.

        Returns:
            The gradient by each parameter of `moving`, and by W x + b of each layer that depends on one, counted
            from 0.
        """
        by_head, *by_log_std = torch.autograd.grad(loss, self.leaves, materialize_grads=True)
        with torch.no_grad():
            by_sums = self._backpropagated(by_head)
            found = self._by_parameters(by_sums, self.layers)
        found |= dict(zip((LOG_STD,), by_log_std, strict=False))
        return {name: found[name] for name in self.moving}, by_sums

    @torch.no_grad()
    def weighted_gradient(
        self, by_sums: dict[int, torch.Tensor], rows: torch.Tensor, weights: torch.Tensor
    ) -> Parameters | None:
        """The gradient that some of the observations had, if each counted by another weight.

        It takes the derivatives of the whole gradient, and no pass through the network.

        Args:
            by_sums: as from `gradient`.
            rows: [R] int64; numbers of the observations.
            weights: [R], by which the observations' part in the loss is multiplied.

        Returns:
            By each parameter of the layers that moves, but not by `log_std`. None for a network whose layers are not
            known.
        """
        # `index_select` takes half as long as an index.
        part = {index: values.index_select(0, rows).mul_(weights[:, None]) for index, values in by_sums.items()}
        found = self._by_parameters(part, [layer.index_select(0, rows) for layer in self.layers[:-1]])
        return {name: found[name] for name in self.moving if name != LOG_STD}

    def _backpropagated(self, by_head: torch.Tensor) -> dict[int, torch.Tensor]:
        """The gradient by W x + b of each layer that depends on a parameter that moves."""
        last, lowest = len(self.layers) - 2, self._lowest_moving()
        gradient = torch.nn.functional.pad(by_head, (0, 0, 0, len(self.layers[-1]) - len(by_head)))
        by_sums: dict[int, torch.Tensor] = {}
        for index in range(last, lowest - 1, -1):
            gradient = activation_backward(gradient, self.layers[index + 1], self.policy.activation(index))
            by_sums[index] = gradient
            if index > lowest:
                gradient = product(gradient, self.parameters[f"layers.{index}.weight"].mT)
        return by_sums

    def _by_parameters(self, by_sums: dict[int, torch.Tensor], layers: Sequence[torch.Tensor]) -> Parameters:
        """The gradients by the parameters of the layers that move, from those by W x + b and the layers' inputs."""
        found: Parameters = {}
        for index, gradient in by_sums.items():
            weight, bias = f"layers.{index}.weight", f"layers.{index}.bias"
            if weight in self.moving:
                found[weight] = sum_of_products(gradient, layers[index])
            if bias in self.moving or index == 0:
                found[bias] = gradient.sum(0)
        if CONTEXT in self.moving or CONTEXT_WEIGHT in self.moving:
            by_bias, context = found["layers.0.bias"].unsqueeze(-1), self.parameters[CONTEXT]
            found[CONTEXT] = (self.parameters[CONTEXT_WEIGHT].mT @ by_bias).squeeze(-1)
            found[CONTEXT_WEIGHT] = by_bias * context
        return found

    def _lowest_moving(self) -> int:
        """The first layer, counted from 0, that depends on a parameter of `moving`; their number if none does."""
        count = len(self.layers) - 1
        if CONTEXT in self.moving or CONTEXT_WEIGHT in self.moving:
            return 0
        names = ((index, f"layers.{index}.{part}") for index in range(count) for part in ("weight", "bias"))
        return next((index for index, name in names if name in self.moving), count)


def forward_pass(
    policy: Policy, parameters: Parameters, batch: TrajectoryBatch, moving: Collection[str]
) -> ForwardPass:
    """Evaluates a policy at the observations of a batch.

    Args:
        policy: the network.
        parameters: θ.
        batch: the trajectories.
        moving: names of the parameters that a gradient is wanted for.
    """
    return policy.forward_pass(parameters, batch, moving)
