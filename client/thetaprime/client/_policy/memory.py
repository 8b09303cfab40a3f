"""Runs the graph of a policy with a memory: the state goes in and comes out with each action."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from thetaprime import wire
from thetaprime.client._errors import InvalidInputError
from thetaprime.client._policy.inference import check_dtype, check_finite
from thetaprime.client._policy.memory_contract import (
    PREVIOUS_ACTION,
    PREVIOUS_DONE,
    PREVIOUS_REWARD,
    Arrays,
    MemoryContract,
    StateTensor,
)
from thetaprime.client._policy.policy_state import PolicyState, read_where


class MemoryGraph:
    """A graph with a state: runs it, and makes states for it.

    Args:
        session: the graph's session, with a symbolic batch dimension.
        contract: the environment's contract.
        memory: the description of the memory.
        start: the other inputs of one robot at the start of a lifetime, from `check_start`.
        policy_id: the policy.
        meta_policy: ``name@version``.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        contract: wire.EnvironmentContract,
        memory: MemoryContract,
        start: Arrays,
        policy_id: str,
        meta_policy: str,
    ) -> None:
        self.session, self.contract, self.memory, self.start = session, contract, memory, start
        self.policy_id, self.meta_policy = policy_id, meta_policy
        self.box: Final = contract.action_kind is wire.ActionKind.BOX

    def begin(self, count: int) -> PolicyState:
        """The state of some robots at the start of their lifetimes."""
        action = self.start[PREVIOUS_ACTION]
        return PolicyState(
            tensors={each.input: self.initial(each, count) for each in self.memory.states},
            action=np.broadcast_to(action, (count, *action.shape)).copy(),
            reward=np.zeros(count, np.float32),
            done=np.zeros(count, np.bool_),
            fresh=np.ones(count, np.bool_),
            policy_id=self.policy_id,
            meta_policy=self.meta_policy,
        )

    def initial(self, tensor: StateTensor, count: int) -> npt.NDArray[np.float32]:
        """A tensor of the state of some robots at the start of their lifetimes."""
        shape = tensor.shape(count)
        return np.broadcast_to(np.expand_dims(tensor.initial, tensor.axis), shape).astype(np.float32, order="C")

    def check(self, state: PolicyState, count: int | None = None) -> None:
        """Refuses a state that is not one of this policy, or not of as many robots.

        Raises:
            InvalidInputError: the state has another type, policy, shape or dtype, or a number that is not finite.
        """
        if not isinstance(state, PolicyState):
            raise InvalidInputError.at(
                "state", f"{type(state).__name__}; expected None, or the PolicyState that predict returned"
            )
        if state.policy_id != self.policy_id:
            raise InvalidInputError.at(
                "state",
                f"of policy {state.policy_id[:12]}… of {state.meta_policy}; expected one of {self.policy_id[:12]}… of "
                f"{self.meta_policy}: AdaptedPolicy.carry brings a state to another policy of its meta-policy",
            )
        if count is not None and len(state) != count:
            raise InvalidInputError.at("state", f"of {len(state)} robots; the observations are of {count}")
        self._check_arrays(state)

    def _check_arrays(self, state: PolicyState) -> None:
        count, like = len(state), self.start[PREVIOUS_ACTION]
        float32, flags = np.dtype(np.float32), np.dtype(np.bool_)
        expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            each.input: (each.shape(count), float32) for each in self.memory.states
        }
        if state.tensors.keys() != expected.keys():
            raise InvalidInputError.at("state.tensors", f"{sorted(state.tensors)}; expected {sorted(expected)}")
        for name, found, (shape, dtype) in (
            *((f"tensors[{name!r}]", state.tensors[name], each) for name, each in expected.items()),
            ("action", state.action, ((count, *like.shape), like.dtype)),
            ("reward", state.reward, ((count,), float32)),
            ("done", state.done, ((count,), flags)),
            ("fresh", state.fresh, ((count,), flags)),
        ):
            if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype != dtype:
                what = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
                raise InvalidInputError.at(f"state.{name}", f"{what}; expected {dtype} {list(shape)}")
            if name.startswith("tensors") and not np.isfinite(found).all():
                raise InvalidInputError.at(f"state.{name}", "a number that is not finite; expected finite numbers")

    def carry(self, state: PolicyState) -> PolicyState:
        """Brings a state to this policy.

        Raises:
            InvalidInputError: the state is of another meta-policy, or of another shape.
        """
        if not isinstance(state, PolicyState) or state.meta_policy != self.meta_policy:
            of = state.meta_policy if isinstance(state, PolicyState) else type(state).__name__
            raise InvalidInputError.at("state", f"of {of}; expected a state of {self.meta_policy}, this policy's own")
        self._check_arrays(state)
        return PolicyState(**{**vars(state), "policy_id": self.policy_id})

    def run(
        self, obs: npt.NDArray[np.float32], state: PolicyState, outputs: list[str]
    ) -> tuple[list[npt.NDArray[Any]], dict[str, npt.NDArray[np.float32]]]:
        """Runs the graph once.

        Args:
            obs: [B, O].
            state: of B robots, checked; each reward is known.
            outputs: names of outputs.

        Returns:
            The outputs, and the next state's tensors.
        """
        fresh = state.fresh
        feeds: dict[str, Any] = {
            "obs": obs,
            PREVIOUS_ACTION: _where(fresh, self.start[PREVIOUS_ACTION], state.action),
            PREVIOUS_REWARD: _where(fresh, self.start[PREVIOUS_REWARD], state.reward),
            PREVIOUS_DONE: _where(fresh, self.start[PREVIOUS_DONE], state.done.astype(np.float32)),
        }
        some = bool(fresh.any())
        for each in self.memory.states:
            tensor = state.tensors[each.input]
            if some:
                tensor = tensor.copy()
                each.rows(tensor)[fresh] = each.initial
            feeds[each.input] = tensor
        names = [*outputs, *(each.output for each in self.memory.states)]
        found = self.session.run(names, feeds)
        following = {each.input: tensor for each, tensor in zip(self.memory.states, found[len(outputs) :], strict=True)}
        return found[: len(outputs)], following


def _where(fresh: npt.NDArray[np.bool_], start: npt.NDArray[Any], rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    where = fresh.reshape(-1, *[1] * (rows.ndim - 1))
    return np.where(where, start, rows).astype(start.dtype, copy=False)


class Memory:
    """The memory of B robots that one policy controls: a graph with bound inputs, outputs and state.

    The state alternates between two buffers, without a copy. Not thread-safe.

    Args:
        graph: the graph.
        count: B.

    Attributes:
        count: B.
        actions: actions of the last run in the environment's units: [B, A] float32, or [B] int64 for discrete actions.
        parameters: [B, A] float32: means in the policy's units, or logits, of the last run.
        fresh: [B]: whether a lifetime begins with the next run.
        waiting: whether the last run's rewards are unknown.
    """

    def __init__(self, graph: MemoryGraph, count: int) -> None:
        contract, box = graph.contract, graph.box
        size = contract.action_size
        self._graph = graph
        self.count: Final = count
        self.actions: npt.NDArray[Any] = np.zeros((count, size), np.float32) if box else np.zeros(count, np.int64)
        self.parameters: npt.NDArray[np.float32] = np.zeros((count, size), np.float32)
        self.fresh = np.ones(count, np.bool_)
        self._some_fresh = True
        self.waiting = False
        self._taken: npt.NDArray[Any] = self.actions
        self._obs = np.zeros((count, contract.observation_size), np.float32)
        self._shaped_obs = self._obs.reshape(count, *contract.observation_shape)
        self._finite = np.ones(self._obs.shape, np.bool_)
        self._all_finite = self._finite.tobytes()
        start = graph.start
        self._action = np.broadcast_to(start[PREVIOUS_ACTION], self.actions.shape).copy()
        self._reward, self._done = np.zeros(count, np.float32), np.zeros(count, np.float32)
        states = graph.memory.states
        self._buffers = [[graph.initial(each, count) for each in states] for _ in range(2)]
        self._bindings = [self._bind(now) for now in range(2)]
        self._run = graph.session.run_with_iobinding
        self._now = 0
        self.reset()

    def _bind(self, now: int) -> Any:
        """Binds the buffers of one direction: the state is read from one and written to the other."""
        graph, value = self._graph, onnxruntime.OrtValue.ortvalue_from_numpy
        binding = graph.session.io_binding()
        # On the CPU an OrtValue shares the array's memory. If it did not, the golden sequences would fail.
        for name, array in (
            ("obs", self._obs),
            (PREVIOUS_ACTION, self._action),
            (PREVIOUS_REWARD, self._reward),
            (PREVIOUS_DONE, self._done),
        ):
            binding.bind_ortvalue_input(name, value(array))
        binding.bind_ortvalue_output("actions", value(self.actions))
        binding.bind_ortvalue_output("mean" if graph.box else "logits", value(self.parameters))
        for each, read, written in zip(graph.memory.states, self._buffers[now], self._buffers[1 - now], strict=True):
            binding.bind_ortvalue_input(each.input, value(read))
            binding.bind_ortvalue_output(each.output, value(written))
        return binding

    @property
    def used(self) -> bool:
        """Whether a robot has acted in its lifetime."""
        return not self.fresh.all()

    def run(self, obs: npt.NDArray[Any]) -> None:
        """Computes `actions` and `parameters` for an observation of each robot, and the next state.

        Args:
            obs: [B, *observation_shape], or [*observation_shape] where B is 1.

        Raises:
            InvalidInputError: the dtype is not real, a number is not finite, or the last run's rewards are unknown.
        """
        if self.waiting:
            raise InvalidInputError(
                "the policy remembers, and needs the outcome of its last action: call observe(reward, terminated, "
                "truncated) after each step of the environment, or reset() where a new lifetime begins"
            )
        check_dtype(obs)
        self._shaped_obs[...] = obs
        np.isfinite(self._obs, self._finite)
        if self._finite.tobytes() != self._all_finite:  # three times as fast as all()
            check_finite(obs)
        self._run(self._bindings[self._now])
        self._now = 1 - self._now
        self._taken = self.actions
        if self._some_fresh:
            self.fresh.fill(False)
            self._some_fresh = False
        self.waiting = True

    def take(self, actions: npt.NDArray[Any]) -> None:
        """Says that the robots took other actions than the deterministic ones, [B, A] or [B]."""
        self._taken = actions

    def observe(
        self, reward: npt.NDArray[np.float32], done: npt.NDArray[np.bool_], action: npt.NDArray[Any] | None = None
    ) -> None:
        """Takes the outcome of the last run's actions; nothing for a robot that was reset since.

        Args:
            reward: [B].
            done: [B]: whether the episode ended.
            action: [B, A] or [B]: the actions that the robots took; None for those of `run` or `take`.
        """
        taken = self._taken if action is None else action
        if not self._some_fresh:
            self._action[...] = taken
            self._reward[...] = reward
            self._done[...] = done
        else:
            rows = ~self.fresh
            self._action[rows], self._reward[rows], self._done[rows] = taken[rows], reward[rows], done[rows]
        self.waiting = False

    def observe_one(self, reward: float, *, done: bool) -> None:
        """Takes the outcome of the last run's action, where B is 1; the same as `observe`, in less time."""
        if not self._some_fresh:
            self._action[...] = self._taken
            self._reward[0] = reward
            self._done[0] = done
        self.waiting = False

    def reset(self, where: npt.ArrayLike | None = None) -> None:
        """Begins a lifetime for some robots; None for all.

        Raises:
            InvalidInputError: `where` is no mask of B robots, and no list of their indices.
        """
        rows = read_where(where, self.count)
        start = self._graph.start
        self._action[rows], self._reward[rows] = start[PREVIOUS_ACTION], start[PREVIOUS_REWARD]
        self._done[rows] = start[PREVIOUS_DONE]
        for each, tensor in zip(self._graph.memory.states, self._buffers[self._now], strict=True):
            each.rows(tensor)[rows] = each.initial
        self.fresh |= rows
        self._some_fresh = bool(self.fresh.any())
        if not self.used:
            self.waiting = False

    def export_state(self) -> PolicyState:
        """Returns a copy of the state."""
        states = self._graph.memory.states
        waiting = self.waiting & ~self.fresh
        taken = np.where(waiting.reshape(-1, *[1] * (self._action.ndim - 1)), self._taken, self._action)
        return PolicyState(
            tensors={each.input: tensor.copy() for each, tensor in zip(states, self._buffers[self._now], strict=True)},
            action=taken.astype(self._action.dtype),
            reward=np.where(waiting, np.float32(np.nan), self._reward),
            done=self._done.astype(np.bool_) & ~waiting,
            fresh=self.fresh.copy(),
            policy_id=self._graph.policy_id,
            meta_policy=self._graph.meta_policy,
        )

    def import_state(self, state: PolicyState) -> None:
        """Takes over a state of B robots, which `MemoryGraph.check` accepted."""
        for each, tensor in zip(self._graph.memory.states, self._buffers[self._now], strict=True):
            tensor[...] = state.tensors[each.input]
        unknown = np.isnan(state.reward) & ~state.fresh
        self._action[...], self._done[...] = state.action, state.done
        self._reward[...] = np.where(unknown, np.float32(0.0), state.reward)
        self._taken = self._action.copy()
        self.fresh[...] = False
        self._some_fresh = False
        self.reset(state.fresh)
        self.waiting = bool(unknown.any())
