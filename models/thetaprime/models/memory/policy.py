"""A policy with a memory, as functions of its parameters.

    o   = (observation − mean) / std                                              [O]
    a   = the previous action in policy units, clipped; one-hot if discrete       [A]
    x   = [o, a, previous reward · reward_scale, episode start]                   [O + A + 2]
    h′  = cell(encoder(x), h)                                                     [H]
    out = MLP([o, h′])                                                            [A], the Gaussian's mean or the logits

At the first step of a lifetime h is the initial state, and the previous action, the reward and the flag are zero. At
the first step of each later episode the flag is 1, and action and reward are those of the step before.
"""

import dataclasses
import math
from typing import Final

import torch

from thetaprime.models.head import ActionHead
from thetaprime.models.memory.cells import (
    INITIAL,
    INITIAL_CELL,
    MemoryState,
    cell_shapes,
    cell_step,
    init_cell,
    linear,
    project_inputs,
    tanh,
)
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import CONTEXT_WEIGHT, Policy
from thetaprime.models.spec import CONTEXT, EnvironmentContract, MemorySpec, PolicySpec

_ACTIVATIONS: Final = {"tanh": tanh, "relu": torch.relu}


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryInputs:
    """What a memory reads at each step. The leading axes * are [B] at one step, [K, B] over K steps.

    Attributes:
        observations: [*, O], as the environment gives them, flattened.
        previous_actions: [*, A] float in policy units, clipped; or [*] int64 counted from 0, and −1 for none.
        previous_rewards: [*], as the environment gives them; 0 for none.
        episode_starts: [*] float; 1 at the first step of an episode but the lifetime's first, otherwise 0.
    """

    observations: torch.Tensor
    previous_actions: torch.Tensor
    previous_rewards: torch.Tensor
    episode_starts: torch.Tensor


class RecurrentPolicy(ActionHead):
    """A policy with one layer of memory, a GRU or an LSTM, in front of an MLP with a Gaussian or categorical head.

    Args:
        environment: the contract of the environment.
        spec: the network; its `memory` is set.

    Attributes:
        memory: the specification of the memory.

    Raises:
        ValueError: the specification has no memory, or has a module, which takes no memory.
    """

    def __init__(self, environment: EnvironmentContract, spec: PolicySpec) -> None:
        if spec.memory is None:
            raise ValueError("policy.memory is not set; expected a memory, or a Policy")
        if spec.module:
            raise ValueError(f"policy.module is {spec.module!r}; expected the built-in network for a memory")
        super().__init__(environment, spec)
        self.memory: MemorySpec = spec.memory
        features = environment.model_copy(
            update={"observation_shape": (environment.observation_size + self.memory.size,)}
        )
        # The MLP takes the observation after its normalization.
        bare = spec.model_copy(update={"memory": None, "observation_mean": (), "observation_std": ()})
        self._network = Policy(features, bare)
        inputs = environment.observation_size + environment.action.size + 2
        self._encoder_sizes = (inputs, *self.memory.encoder_sizes)
        self._reward_scale = 1.0 if self.memory.reward_scale is None else self.memory.reward_scale

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter by name, in the order of `init`."""
        shapes = dict(self._network.parameter_shapes)
        for index, (fan_in, fan_out) in enumerate(zip(self._encoder_sizes, self._encoder_sizes[1:], strict=False)):
            shapes[f"memory.encoder.{index}.weight"] = (fan_out, fan_in)
            shapes[f"memory.encoder.{index}.bias"] = (fan_out,)
        return shapes | cell_shapes(self.memory.cell, self._encoder_sizes[-1], self.memory.size)

    def init(self, seed: int) -> Parameters:
        """Draws parameters.

        Returns:
            Those of `Policy.init` for an MLP over [O + H]: the columns of ``layers.0.weight`` are the observation's,
            then the memory's. ``memory.encoder.<i>.weight`` and ``.bias`` as its layers. ``memory.weight_ih`` [G·H, I],
            ``memory.weight_hh`` [G·H, H], ``memory.bias_ih`` and ``memory.bias_hh`` [G·H] as of `torch.nn.GRU` (G = 3)
            and `torch.nn.LSTM` (G = 4). ``memory.initial`` [H], for an LSTM also ``memory.initial_cell``, zeros.
        """
        parameters = self._network.init(seed)
        generator = torch.Generator().manual_seed(seed + 1)
        for index, (fan_in, fan_out) in enumerate(zip(self._encoder_sizes, self._encoder_sizes[1:], strict=False)):
            bound = math.sqrt(6.0 / (fan_in + fan_out))
            weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator)
            parameters[f"memory.encoder.{index}.weight"] = weight
            parameters[f"memory.encoder.{index}.bias"] = torch.zeros(fan_out)
        return parameters | init_cell(self.memory.cell, self._encoder_sizes[-1], self.memory.size, generator)

    def initial_state(self, parameters: Parameters, batch: int) -> MemoryState:
        """The state at the start of a lifetime, [batch, H] each; [T, batch, H] of parameters with the task axis."""
        names = (INITIAL, INITIAL_CELL) if self.memory.cell == "lstm" else (INITIAL,)
        return tuple(parameters[name].unsqueeze(-2).expand(*parameters[name].shape[:-1], batch, -1) for name in names)

    def first_inputs(self, observations: torch.Tensor) -> MemoryInputs:
        """The memory's input at the first step of a lifetime, where nothing came before.

        Args:
            observations: [*, O].
        """
        rows = observations.shape[:-1]
        if self.continuous:
            actions = torch.zeros(*rows, self.environment.action.size)
        else:
            actions = torch.full(rows, -1, dtype=torch.int64)
        return MemoryInputs(observations, actions, torch.zeros(rows), torch.zeros(rows))

    def step(
        self, parameters: Parameters, inputs: MemoryInputs, state: MemoryState
    ) -> tuple[tuple[torch.Tensor, ...], MemoryState]:
        """One step of each of B robots.

        Args:
            parameters: as from `init`, or each with a leading axis of T tasks.
            inputs: of one step, leading axes [B]; or [T, B] if the parameters have the task axis.
            state: [B, H] each; or [T, B, H].

        Returns:
            The arguments of the action distribution, as `Policy.outputs`; and the next state.
        """
        observations, projected = self._read(parameters, inputs)
        state = cell_step(self.memory.cell, parameters, projected, state)
        return self._act(parameters, observations, state[0]), state

    def unroll(
        self, parameters: Parameters, inputs: MemoryInputs, state: MemoryState, starts: torch.Tensor | None = None
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, MemoryState]:
        """K steps of each of B robots; equals K calls of `step`, in less time.

        Args:
            parameters: as from `init`.
            inputs: leading axes [K, B].
            state: [B, H] each, before the first step.
            starts: [K, B] bool; where true, a lifetime begins: the initial state replaces the state before the step.
                None for nowhere.

        Returns:
            The arguments of the action distribution, [K, B, A] (and the log standard deviation [A]); the memory's
            output at each step [K, B, H]; and the state after the last step.
        """
        observations, projected = self._read(parameters, inputs)
        initial = self.initial_state(parameters, projected.shape[1])
        remembered = []
        for index, each in enumerate(projected.unbind(0)):
            if starts is not None:
                begins = starts[index].unsqueeze(-1)
                state = tuple(torch.where(begins, at, now) for at, now in zip(initial, state, strict=True))
            state = cell_step(self.memory.cell, parameters, each, state)
            remembered.append(state[0])
        outputs = torch.stack(remembered)
        return self._act(parameters, observations, outputs), outputs, state

    def _read(self, parameters: Parameters, inputs: MemoryInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalized observations [*, O], and what the cell adds to its gates [*, G·H]."""
        observations = (inputs.observations - self._observation_mean) * self._observation_factor
        actions = inputs.previous_actions
        if not self.continuous:
            names = torch.arange(self.environment.action.size)
            actions = (actions.unsqueeze(-1) == names).to(observations.dtype)
        scalars = torch.stack([inputs.previous_rewards * self._reward_scale, inputs.episode_starts], -1)
        values = torch.cat([observations, actions, scalars], -1)
        for index in range(len(self.memory.encoder_sizes)):
            weight, bias = (parameters[f"memory.encoder.{index}.{part}"] for part in ("weight", "bias"))
            values = _ACTIVATIONS[self.spec.activation](linear(values, weight, bias))
        return observations, project_inputs(parameters, values)

    def _act(
        self, parameters: Parameters, observations: torch.Tensor, remembered: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        values, last = torch.cat([observations, remembered], -1), len(self.spec.hidden_sizes)
        for index in range(last + 1):
            weight, bias = parameters[f"layers.{index}.weight"], parameters[f"layers.{index}.bias"]
            if index == 0 and self.spec.context_size:
                bias = bias + (parameters[CONTEXT_WEIGHT] @ parameters[CONTEXT].unsqueeze(-1)).squeeze(-1)
            values = linear(values, weight, bias)
            if index < last:
                values = _ACTIVATIONS[self.spec.activation](values)
        return (values, self.log_std(parameters)) if self.continuous else (values,)
