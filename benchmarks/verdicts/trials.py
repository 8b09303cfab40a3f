"""One trial: a session of the SDK through a server, with a plain environment behind it, and all that it showed."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict

from benchmarks.verdicts.environments import Alteration, Goal, make_environment
from benchmarks.verdicts.rewards import judged, transform
from thetaprime import wire
from thetaprime.client import AdaptedPolicy, Client, ThetaPrimeError, collect
from thetaprime.v1 import adaptation_service_pb2 as pb
from thetaprime.v1.adaptation_service_pb2_grpc import AdaptationServiceStub

EPISODES: Final = 20
_SECONDS: Final = 120.0
_TTL_SECONDS: Final = 600.0
# Streams of random numbers of a trial.
COLLECT, CHANGE, FRESH = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one session does.

    Attributes:
        case: the row of the tables that it belongs to.
        name: what it tries, within the case.
        meta_policy: name of a shipped meta-policy.
        goal: the task's goal.
        seed: of the episodes.
        rounds: number of steps.
        episodes: episodes of each round.
        caution: the session's option.
        body: alterations of the robot, as in `make_environment`.
        change: of the rewards, as in `transform`.
        other_goal: a second task, from whose environment some episodes come.
        others: number of the other task's episodes, the last of each round. The session is judged by its return on
            both tasks.
        other_from: round from which on they do.
        fresh: episodes to measure the last policy with, and the session's best policy.
        fresh_from: which policies are measured so, beside the last and the best: ``theta``, ``each`` or none.
        max_kl: the session's limit on a step, in nats; None for no limit.
    """

    case: str
    name: str
    meta_policy: str
    goal: Goal
    seed: int
    rounds: int
    episodes: int = EPISODES
    caution: str = "hold"
    body: tuple[Alteration, ...] = ()
    change: str = ""
    other_goal: Goal | None = None
    others: int = 0
    other_from: int = 0
    fresh: int = EPISODES
    fresh_from: str = ""
    max_kl: float | None = None

    @property
    def key(self) -> str:
        """Identifies the trial: a digest of its attributes."""
        attributes = dataclasses.asdict(self)
        if self.max_kl is None:
            # Trials were recorded before they could have a limit.
            del attributes["max_kl"]
        return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def tasks(self) -> str:
        """Name of the tasks that the meta-policy was trained on."""
        return self.meta_policy.removesuffix("-maml")

    def goals(self, round_index: int, episodes: int) -> list[Goal]:
        """The goal of each of some episodes of a round."""
        share = self.others / self.episodes if round_index >= self.other_from and self.other_goal is not None else 0.0
        others = round(share * episodes)
        return [self.goal] * (episodes - others) + [self.other_goal or self.goal] * others


class Server:
    """A connection to the server of the trials.

    Args:
        address: ``host:port``.
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 1 << 26)])
        self._stub = AdaptationServiceStub(self._channel)
        self._client = Client(address, channel=self._channel, timeout=_SECONDS)

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()
        self._channel.close()

    def run(self, trial: Trial) -> dict[str, Any]:
        """Runs one session, and returns its record.

        The returns in the record are those of `judged`.
        """
        session = self._client.create_session(
            trial.meta_policy, caution=trial.caution, max_kl=trial.max_kl, ttl=_TTL_SECONDS
        )
        rounds: list[dict[str, Any]] = []

        def collector(policy: AdaptedPolicy, count: int) -> list[wire.Trajectory]:
            k = session.round
            collected = _collect(trial, policy, k, count)
            rounds.append({"return": judged(collected, trial.change, trial.rounds)})
            return transform(collected, trial.change, k, changes(trial, k))

        kept, failure = 0, ""
        try:
            adapted = session.run(
                collector, trial.rounds, trial.episodes, verify=None if trial.fresh else 0, progress=False
            )
            kept = adapted.round
        except ThetaPrimeError as error:
            failure = str(error)
        # The SDK's reports leave out what it does not know yet; the record keeps the whole message.
        state = self._stub.GetSession(pb.GetSessionRequest(session_id=session.id), timeout=_SECONDS)
        for record, report in zip(rounds, state.reports, strict=False):
            record |= _of_report(report)
        last = len(state.reports)
        measured = {"each": set(range(last + 1)), "theta": {0, kept, last}}.get(trial.fresh_from, {kept, last})
        fresh = {str(k): _fresh(trial, session.policy_at(k), k) for k in sorted(measured) if trial.fresh}
        session.close()
        return {
            "key": trial.key,
            "trial": dataclasses.asdict(trial),
            "through": "server",
            "rounds": rounds[:last],
            "verified": [each["return"] for each in rounds[last:]],
            "fresh": fresh,
            "best_round": int(state.session.best_round),
            "kept": kept,
            "failure": failure,
        }


def _collect(trial: Trial, policy: AdaptedPolicy, k: int, count: int) -> list[wire.Trajectory]:
    env = make_environment(trial.tasks, trial.goals(k, count), trial.body)
    return collect(policy, env, count, seed=seed_of(trial, COLLECT, k))


def _fresh(trial: Trial, policy: AdaptedPolicy, k: int) -> list[float]:
    """Mean, standard error and number of fresh episodes on the trial's task, or on its two tasks as they are mixed."""
    env = make_environment(trial.tasks, trial.goals(trial.rounds, trial.fresh), trial.body)
    collected = collect(policy, env, trial.fresh, seed=seed_of(trial, FRESH, k))
    returns = judged(collected, trial.change, trial.rounds)
    return [*mean_and_error(returns), len(returns)]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error; 0 for one value."""
    count = len(values)
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else 0.0


def _of_report(report: pb.AdaptationReport) -> dict[str, Any]:
    return {
        "kl": report.kl_divergence,
        "seconds": report.seconds,
        "verdict": MessageToDict(report.verdict, preserving_proto_field_name=True),
        "influences": [value for upload in report.uploads for value in upload.influences],
    }


def changes(trial: Trial, k: int) -> np.random.Generator:
    """The generator of what a trial adds to the rewards of round k."""
    return np.random.default_rng([trial.seed, CHANGE, k])


def seed_of(trial: Trial, stream: int, k: int) -> int:
    """The seed of a trial's episodes of round k: those that it uploads (`COLLECT`) or measures with (`FRESH`)."""
    return int(np.random.SeedSequence([trial.seed, stream, k]).generate_state(1)[0])


def interleaved(cases: Sequence[Iterator[Trial]]) -> Iterator[Trial]:
    """Takes one trial of each case in turn, so that every case has some when the time is up."""
    waiting = list(cases)
    while waiting:
        for case in list(waiting):
            trial = next(case, None)
            if trial is None:
                waiting.remove(case)
            else:
                yield trial
