"""One trial without a server: the same episodes, rewards and hand-out, with the step function that the service calls.

It takes a tenth of the time of a session through a server, and gives the same kind of record. Left out are the wire,
the store and the ONNX file, which other tests hold to the step.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from google.protobuf.json_format import MessageToDict
from gymnasium.vector import VectorEnv

from benchmarks.verdicts.environments import make_environment
from benchmarks.verdicts.rewards import judged, transform
from benchmarks.verdicts.trials import COLLECT, FRESH, Trial, changes, mean_and_error, seed_of
from thetaprime import wire
from thetaprime.client._history import RoundResult, choose
from thetaprime.models import MetaPolicy, Parameters, load_meta_policy, resolve_meta_policy
from thetaprime.models.verdict import Caution, RoundMemory, SessionStep, StepOptions, next_step
from thetaprime.server.adaptation.verdicts import verdict_message
from thetaprime.server.sessions.uploads import trajectory_batch
from thetaprime.training.sampling.sampler import collect
from thetaprime.training.tasks import resolve_tasks
from thetaprime.training.tasks.protocol import Task

_FEWEST_VERIFYING: Final = 5
_DIGEST: Final = "0" * 64


class InProcess:
    """Runs trials in this process, on one thread."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def run(self, trial: Trial) -> dict[str, Any]:
        """Runs one session, and returns its record, as `trials.Server.run` does."""
        session = _Session(trial)
        rounds: list[dict[str, Any]] = []
        for k in range(trial.rounds):
            collected = session.collect(k, trial.episodes, COLLECT)
            record = {"return": judged(collected, trial.change, trial.rounds)}
            rounds.append(record | session.take(transform(collected, trial.change, k, changes(trial, k))))
        verified, kept = session.hand_out(rounds)
        last = trial.rounds
        measured = {"each": set(range(last + 1)), "theta": {0, kept, last}}.get(trial.fresh_from, {kept, last})
        return {
            "key": trial.key,
            "trial": dataclasses.asdict(trial),
            "through": "process",
            "rounds": rounds,
            "verified": verified,
            "fresh": {str(k): session.fresh(k) for k in sorted(measured) if trial.fresh},
            "best_round": session.best_round,
            "kept": kept,
            "failure": "",
        }


class _Session:
    """The state of one session: its policies, and what it remembers."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._meta_policy = _meta_policy(trial.meta_policy)
        self._policies: list[Parameters] = [self._meta_policy.parameters]
        self._memories: list[RoundMemory] = []
        self.best_round = 0

    def collect(self, k: int, count: int, stream: int) -> list[wire.Trajectory]:
        """Collects episodes with θ_k, on the goals that the trial names for the round."""
        trial = self._trial
        # Fresh episodes come from the tasks by which the session is judged.
        goals = trial.goals(trial.rounds if stream == FRESH else k, count)
        (batch,) = collect(
            _Goals(trial, goals),
            [{}],
            self._meta_policy.policy,
            [self._policies[k]],
            count,
            rng=np.random.default_rng(seed_of(trial, stream, k)),
        )
        ends = np.cumsum((0, *batch.lengths)).tolist()
        return [
            wire.Trajectory(
                observations=batch.observations[start:end].numpy(),
                actions=batch.actions[start:end].numpy(),
                rewards=batch.rewards[start:end].numpy(),
                terminated=bool(terminated),
                truncated=not terminated,
                final_observation=final.numpy(),
                policy_id="",
            )
            for start, end, terminated, final in zip(
                ends, ends[1:], batch.terminated, batch.final_observations, strict=False
            )
        ]

    def take(self, uploaded: Sequence[wire.Trajectory]) -> dict[str, Any]:
        """Takes the step of a round, and returns its part of the record."""
        started = time.perf_counter()
        step: SessionStep = next_step(
            self._meta_policy,
            self._memories,
            trajectory_batch(uploaded),
            self._policies[-1],
            self._policies.__getitem__,
            StepOptions(caution=Caution[self._trial.caution.upper()], max_kl=self._trial.max_kl),
        )
        self._policies.append(step.parameters)
        self._memories.append(step.memory)
        self.best_round = step.verdict.best_round
        message = verdict_message(step.verdict, [_DIGEST], [len(uploaded)])
        return {
            "kl": step.summary.kl_divergence,
            "seconds": time.perf_counter() - started,
            "verdict": MessageToDict(message, preserving_proto_field_name=True),
            "influences": list(step.verdict.influences),
        }

    def hand_out(self, rounds: Sequence[dict[str, Any]]) -> tuple[list[list[float]], int]:
        """Verifies the last policy as the SDK does, and returns its returns and the number of the policy to keep."""
        trial, last = self._trial, len(rounds)
        if not trial.fresh:
            return [], last
        count = max(_FEWEST_VERIFYING, -(-trial.episodes // 4))
        verified = judged(self.collect(last, count, COLLECT), trial.change, trial.rounds)
        if trial.caution != "hold" or self._memories[-1].next_policy == self.best_round:
            return [verified], last
        history = [_result(k, each["return"]) for k, each in enumerate(rounds)]
        return [verified], choose([*history, _result(last, verified)], self.best_round).round

    def fresh(self, k: int) -> list[float]:
        """Mean, standard error and number of fresh episodes of a policy."""
        returns = judged(self.collect(k, self._trial.fresh, FRESH), self._trial.change, self._trial.rounds)
        return [*mean_and_error(returns), len(returns)]


class _Goals:
    """A distribution of one task: the environments of a trial, one for each goal."""

    def __init__(self, trial: Trial, goals: Sequence[Any]) -> None:
        self._trial, self._goals = trial, goals
        self.environment = resolve_tasks(trial.tasks).environment

    def sample_tasks(self, count: int, rng: np.random.Generator) -> list[Task]:
        """There is nothing to sample."""
        raise NotImplementedError

    def make(self, task: Task) -> Any:
        """There is no single environment."""
        raise NotImplementedError

    def make_vector(self, tasks: Sequence[Task]) -> VectorEnv[Any, Any, Any]:
        """Makes one environment for each goal."""
        return make_environment(self._trial.tasks, self._goals[: len(tasks)], self._trial.body)


@functools.lru_cache(maxsize=8)
def _meta_policy(name: str) -> MetaPolicy:
    return load_meta_policy(resolve_meta_policy(name, None))


def _result(k: int, returns: Sequence[float]) -> RoundResult:
    return RoundResult(k, len(returns), float(np.mean(returns)), float(np.std(returns)))
