"""Acts with a policy that has a memory: in its own memory, or in a state that the caller keeps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from thetaprime.client._errors import InvalidInputError
from thetaprime.client._policy.contract import check_golden, runtime_errors
from thetaprime.client._policy.inference import Exploration
from thetaprime.client._policy.memory import Memory, MemoryGraph
from thetaprime.client._policy.memory_contract import (
    PREVIOUS_ACTION,
    PREVIOUS_DONE,
    PREVIOUS_REWARD,
    Arrays,
    GoldenSequences,
)
from thetaprime.client._policy.policy_state import (
    LARGEST,
    PolicyState,
    read_actions,
    read_flags,
    read_rewards,
    read_where,
)
from thetaprime.client._policy.reset_watch import ResetWatch


class Remembering:
    """The actions of a policy with a memory.

    `act`, `sample`, `observe` and `reset` use the memory of this object, and are not thread-safe. The other methods
    change nothing.

    Args:
        graph: the graph.
        exploration: draws the noise.
        strict: whether a forgotten reset is an error; otherwise a warning, once.

    Attributes:
        graph: the graph.
    """

    def __init__(self, graph: MemoryGraph, exploration: Exploration, *, strict: bool) -> None:
        self.graph, self._exploration, self._strict = graph, exploration, strict
        self._shape = graph.contract.observation_shape
        self._memory: Memory | None = None
        self._watch: ResetWatch | None = None

    def act(self, obs: npt.NDArray[Any]) -> Any:
        """The deterministic action, for one observation or a batch; shapes as of `AdaptedPolicy.act`."""
        memory = self._run(obs)
        if obs.shape == self._shape:
            return memory.actions[0].copy() if self.graph.box else memory.actions[0]
        return memory.actions.copy()

    def sample(self, obs: npt.NDArray[Any], rng: np.random.Generator | None) -> tuple[Any, Any]:
        """An action in the environment's units, and in the policy's units; as `AdaptedPolicy.sample`."""
        memory, exploration = self._run(obs), self._exploration
        noise = exploration.draw(exploration.rng if rng is None else rng, memory.count)
        taken, recorded = exploration.choose(memory.parameters, noise)
        memory.take(taken)
        return (taken[0], recorded[0]) if obs.shape == self._shape else (taken, recorded)

    def _run(self, obs: npt.NDArray[Any]) -> Memory:
        memory = self._memory
        shape = obs.shape
        count = 1 if shape == self._shape else shape[0] if shape and shape[1:] == self._shape else 0
        if memory is None or memory.count != count:
            memory = self._begin(count, obs)
        elif self._watch is not None and self._watch.any_due:
            self._watch.act()
        memory.run(obs)
        return memory

    def _begin(self, count: int, obs: npt.NDArray[Any]) -> Memory:
        """Begins the lifetimes of another number of robots."""
        if not count:
            expected = list(self._shape)
            raise InvalidInputError.at(
                "obs", f"shape {list(obs.shape)}; expected {expected} or {['B', *expected]}".replace("'", "")
            )
        if self._memory is not None and self._memory.used:
            raise InvalidInputError.at(
                "obs",
                f"of {count} robots; the policy remembers {self._memory.count}: call reset() to begin new lifetimes",
            )
        self._set(Memory(self.graph, count))
        assert self._memory is not None  # noqa: S101
        return self._memory

    def _set(self, memory: Memory) -> None:
        self._memory = memory
        self._watch = ResetWatch(
            memory.count,
            self.graph.contract.horizon,
            every_episode=self.graph.memory.reset == "episode",
            strict=self._strict,
        )

    def observe(
        self,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        action: npt.ArrayLike | None,
        info: Mapping[str, Any] | None,
    ) -> None:
        """Takes the outcome of the last action, as `AdaptedPolicy.observe`."""
        memory, watch = self._memory, self._watch
        if memory is None or watch is None:
            raise InvalidInputError("observe: the policy has not acted yet; call it after a step of the environment")
        if not memory.waiting and memory.used:
            raise InvalidInputError("observe: the outcome of the last action is known; call it once for each action")
        count = memory.count
        plain = isinstance(reward, float) and isinstance(terminated, bool) and isinstance(truncated, bool)
        if plain and count == 1 and action is None and info is None and abs(reward) <= LARGEST:  # type: ignore[arg-type]
            ended = bool(terminated or truncated)
            memory.observe_one(reward, done=ended)  # type: ignore[arg-type]
            watch.observe_one(done=ended)
            return
        rewards = read_rewards(reward, count)
        done = read_flags(terminated, count, "terminated") | read_flags(truncated, count, "truncated")
        memory.observe(rewards, done, None if action is None else read_actions(action, memory.actions))
        watch.observe(done, info)

    def reset(self, where: npt.ArrayLike | None) -> None:
        """Begins new lifetimes, as `AdaptedPolicy.reset`."""
        if self._memory is None or self._watch is None:
            return
        rows = read_where(where, self._memory.count)
        self._memory.reset(rows)
        self._watch.reset(rows)

    @property
    def state(self) -> PolicyState | None:
        """A copy of the state; None before the first action."""
        return None if self._memory is None else self._memory.export_state()

    @state.setter
    def state(self, state: PolicyState | None) -> None:
        if state is None:
            self._memory = self._watch = None
            return
        self.graph.check(state)
        memory = Memory(self.graph, len(state))
        memory.import_state(state)
        self._set(memory)

    def predict(
        self,
        batch: npt.NDArray[np.float32],
        state: PolicyState | None,
        episode_start: npt.ArrayLike | None,
        reward: npt.ArrayLike | None,
    ) -> tuple[npt.NDArray[Any], PolicyState]:
        """The deterministic actions, and the next state; arguments as of `AdaptedPolicy.predict`, in a batch [B, O]."""
        before = self._before(len(batch), state, episode_start, reward)
        (actions,), tensors = self.graph.run(batch, before, ["actions"])
        return actions, self._after(tensors, actions, before)

    def sample_step(
        self,
        batch: npt.NDArray[np.float32],
        state: PolicyState | None,
        episode_start: npt.ArrayLike | None,
        reward: npt.ArrayLike | None,
        noise: npt.NDArray[Any],
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], PolicyState]:
        """Actions in the environment's and in the policy's units, and the next state."""
        before = self._before(len(batch), state, episode_start, reward)
        (parameters,), tensors = self.graph.run(batch, before, ["mean" if self.graph.box else "logits"])
        taken, recorded = self._exploration.choose(parameters, noise)
        return taken, recorded, self._after(tensors, taken, before)

    def _before(
        self,
        count: int,
        state: PolicyState | None,
        episode_start: npt.ArrayLike | None,
        reward: npt.ArrayLike | None,
    ) -> PolicyState:
        if state is None:
            return self.graph.begin(count)
        self.graph.check(state, count)
        if reward is not None:
            state = state.observe(reward, state.done)
        if episode_start is not None:
            state = PolicyState(**{**vars(state), "done": read_flags(episode_start, count, "episode_start")})
            if self.graph.memory.reset == "episode":
                state = state.reset(state.done)
        unknown = np.isnan(state.reward) & ~state.fresh
        if unknown.any():
            raise InvalidInputError.at(
                "reward",
                f"missing for robots {np.flatnonzero(unknown)[:8].tolist()}; expected the rewards of their last "
                "actions: the policy remembers them. Give predict(…, reward=…), or use act and observe",
            )
        return state

    def _after(
        self, tensors: Mapping[str, npt.NDArray[np.float32]], taken: npt.NDArray[Any], before: PolicyState
    ) -> PolicyState:
        count = len(before)
        return PolicyState(
            tensors=tensors,
            action=np.asarray(taken, before.action.dtype),
            reward=np.full(count, np.nan, np.float32),
            done=np.zeros(count, np.bool_),
            fresh=np.zeros(count, np.bool_),
            policy_id=before.policy_id,
            meta_policy=before.meta_policy,
        )

    def verify(self, golden: GoldenSequences) -> None:
        """Acts over the golden sequences one by one and as a batch, and compares the outputs.

        Raises:
            PolicyVerificationError: an output differs.
        """
        with runtime_errors("the golden sequences do not fit the graph"):
            batch = self._rehearse(golden, slice(None))
            single = [self._rehearse(golden, slice(k, k + 1)) for k in range(golden.count)]
        for name, expected in golden.outputs.items():
            if name in batch:
                check_golden(f"{name}, as a batch", batch[name], expected)
                check_golden(f"{name}, one by one", np.concatenate([each[name] for each in single]), expected)

    def _rehearse(self, golden: GoldenSequences, which: slice) -> Arrays:
        inputs = {name: rows[which] for name, rows in golden.inputs.items()}
        resets = golden.resets[which]
        memory = Memory(self.graph, len(resets))
        actions, parameters = [], []
        for step in range(golden.steps):
            if step:
                done = inputs[PREVIOUS_DONE][:, step].astype(np.bool_)
                memory.observe(inputs[PREVIOUS_REWARD][:, step], done, inputs[PREVIOUS_ACTION][:, step])
                memory.reset(resets[:, step])
            memory.run(inputs["obs"][:, step].reshape(len(resets), *self._shape))
            actions.append(memory.actions.copy())
            parameters.append(memory.parameters.copy())
        head = "mean" if self.graph.box else "logits"
        return {"actions": np.stack(actions, axis=1), head: np.stack(parameters, axis=1)}
