"""A policy whose network is any module, run from its program."""

import dataclasses
from collections.abc import Callable, Collection

import torch
from torch import nn

from thetaprime.models.head import LOG_STD
from thetaprime.models.module.program import Program, padded_rows
from thetaprime.models.parameters import Parameters
from thetaprime.models.policy import ForwardPass, Policy
from thetaprime.models.spec import CONTEXT, EnvironmentContract, PolicySpec
from thetaprime.models.trajectories import TrajectoryBatch

MakeModule = Callable[[], nn.Module]


class ModulePolicy(Policy):
    """A policy over a Box observation, whose network is a program, with a Gaussian or categorical head.

    The program takes observations in their own shape, after the spec's normalization. It returns the Gaussian's mean in
    policy units, or the categorical's logits.

    Args:
        environment: the contract of the environment.
        spec: names the module; its fields for the built-in network do not count.
        program: the module's forward pass.
        make: makes the module with new parameters; None for a policy that is read from a file.

    Raises:
        ValueError: the program does not fit the environment or the spec.
    """

    def __init__(
        self, environment: EnvironmentContract, spec: PolicySpec, program: Program, make: MakeModule | None = None
    ) -> None:
        super().__init__(environment, spec)
        self.layer_sizes = ()  # of the built-in network alone
        self.program = program
        self._make = make
        for name, found, expected in (
            ("observation_shape", program.observation_shape, environment.observation_shape),
            ("outputs", program.outputs, environment.action.size),
            ("context_size", program.context_size, spec.context_size),
        ):
            if found != expected:
                raise ValueError(f"the program's {name} is {found}; the policy takes {expected}")
        own = {LOG_STD: "policy's noise"} if self.continuous else {}
        own |= {CONTEXT: "context"} if spec.context_size else {}
        for name in own.keys() & program.parameters.keys():
            raise ValueError(
                f"the module has a parameter named {name}, which is the name of the {own[name]}; expected another name"
            )

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter by name: the module's own, then ``log_std`` and ``context``."""
        shapes = dict(self.program.parameters)
        if self.continuous:
            shapes[LOG_STD] = (self.environment.action.size,)
        if self.spec.context_size:
            shapes[CONTEXT] = (self.spec.context_size,)
        return shapes

    def init(self, seed: int) -> Parameters:
        """Draws parameters as the module does, from torch's generator with this seed.

        Returns:
            The module's parameters by their names; for box actions ``log_std`` [A]; with a context ``context`` [C],
            zeros.

        Raises:
            ValueError: the policy was read from a file, which cannot make its module.
        """
        if self._make is None:
            raise ValueError(
                "the policy was read from a file; only the module that it was traced from draws parameters"
            )
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            module = self._make()
        parameters = {name: value.detach().clone() for name, value in module.named_parameters()}
        if self.continuous:
            parameters[LOG_STD] = torch.full((self.environment.action.size,), self.spec.init_log_std)
        if self.spec.context_size:
            parameters[CONTEXT] = torch.zeros(self.spec.context_size)
        return parameters

    def layers(self, parameters: Parameters, observations: torch.Tensor) -> list[torch.Tensor]:
        """The network's input, the context at each observation if there is one, and the network's output.

        Args:
            parameters: as from `init`, or each with a leading axis of T tasks.
            observations: [B, O], or [T, B, O] if the parameters have the task axis.

        Returns:
            [B or more, …] each, or [T, B, …]; the rows beyond B are padding.
        """
        inputs = (observations - self._observation_mean) * self._observation_factor
        if inputs.ndim == 3:
            return self._layers_of_tasks(parameters, inputs)
        inputs = padded_rows(inputs)
        contexts = self._contexts(parameters, inputs)
        return [inputs, *contexts, self._run(parameters, inputs, *contexts, kernels=True)]

    def _layers_of_tasks(self, parameters: Parameters, inputs: torch.Tensor) -> list[torch.Tensor]:
        def one(parameters: Parameters, inputs: torch.Tensor) -> torch.Tensor:
            return self._run(parameters, inputs, *self._contexts(parameters, inputs), kernels=False)

        return [inputs, torch.func.vmap(one)(parameters, inputs)]

    def _contexts(self, parameters: Parameters, inputs: torch.Tensor) -> list[torch.Tensor]:
        """The context at each of B observations, [B, C]."""
        if not self.spec.context_size:
            return []
        return [parameters[CONTEXT].expand(len(inputs), self.spec.context_size)]

    def _run(
        self, parameters: Parameters, inputs: torch.Tensor, contexts: torch.Tensor | None = None, *, kernels: bool
    ) -> torch.Tensor:
        shaped = inputs.reshape(len(inputs), *self.environment.observation_shape)
        return self.program.run(parameters, shaped, contexts, kernels=kernels)

    def forward_pass(
        self, parameters: Parameters, batch: TrajectoryBatch, moving: Collection[str]
    ) -> "ModuleForwardPass":
        """θ evaluated at the observations of a batch; arguments as of the function `forward_pass`."""
        constants = {name: value.detach() for name, value in parameters.items()}
        leaves = {name: value.clone().requires_grad_() for name, value in constants.items() if name in moving}
        # Also for a caller that runs without gradients.
        with torch.enable_grad():
            point = {**constants, **leaves}
            layers = self.layers(point, batch.observations)
            head = layers[-1][: len(batch.observations)]
            outputs = (head, self.log_std(point)) if self.continuous else (head,)
        return ModuleForwardPass(self, constants, tuple(leaves), layers, outputs, tuple(leaves.values()))

    def log_prob_derivatives(
        self, parameters: Parameters, direction: Parameters, observations: torch.Tensor, actions: torch.Tensor
    ) -> torch.Tensor:
        """The derivative of each action's log-probability along a direction of the parameters.

        Args:
            parameters: as from `init`.
            direction: of some of the parameters.
            observations: [S, O].
            actions: [S, A], or [S].

        Returns:
            [S].
        """
        with torch.enable_grad():
            moving = {name: parameters[name].detach().requires_grad_() for name in direction}
            log_prob = self.log_prob(self.outputs({**parameters, **moving}, observations), actions)
            # Jᵀu is linear in u, so its derivative in u is J at any u: forward mode by two backward passes.
            cotangent = torch.zeros_like(log_prob, requires_grad=True)
            pulled_back = torch.autograd.grad(
                log_prob, list(moving.values()), cotangent, create_graph=True, materialize_grads=True
            )
            along = torch.stack(
                [(each * direction[name]).sum() for name, each in zip(moving, pulled_back, strict=True)]
            ).sum()
            (derivatives,) = torch.autograd.grad(along, cotangent, materialize_grads=True)
        return derivatives


@dataclasses.dataclass(frozen=True, eq=False)
class ModuleForwardPass(ForwardPass):
    """π_θ of a module at every observation of a batch. Its leaves are the parameters that move."""

    def weighted_gradient(self, by_sums: dict[int, torch.Tensor], rows: torch.Tensor, weights: torch.Tensor) -> None:
        """As of `ForwardPass`: a module's layers are not known."""

    def gradient(self, loss: torch.Tensor) -> tuple[Parameters, dict[int, torch.Tensor]]:
        """The gradient of a scalar that was computed from `outputs`; frees its graph.

        Returns:
            The gradient by each parameter of `moving`; and if the context moves, by the context at each observation,
            under 0.
        """
        contexts = self.layers[1:2] if CONTEXT in self.moving else []
        found = torch.autograd.grad(loss, [*self.leaves, *contexts], materialize_grads=True)
        return dict(zip(self.moving, found, strict=False)), dict(enumerate(found[len(self.moving) :]))
