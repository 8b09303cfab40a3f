"""One trial: a session through a server, with a plain environment behind it, and everything that it showed."""

import dataclasses
import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict

from benchmarks.verdicts.environments import Alteration, Goal, make_environment
from benchmarks.verdicts.rewards import judged, transform
from thetaprime import wire
from thetaprime.client import AdaptedPolicy, Client, PreconditionError, collect
from thetaprime.v1 import adaptation_service_pb2 as pb
from thetaprime.v1.adaptation_service_pb2_grpc import AdaptationServiceStub

EPISODES: Final = 20
_SECONDS: Final = 120.0
_CAUTION: Final = {
    "off": pb.CAUTION_OFF,
    "warn": pb.CAUTION_WARN,
    "hold": pb.CAUTION_HOLD,
}
# Streams of random numbers of a trial.
_COLLECT, _CHANGE, _FRESH = 0, 1, 2


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
        others: number of those episodes, the last of each round. The session is judged by its return on both tasks.
        other_from: round from which on they do.
        fresh: episodes to measure the last policy with, and the session's best policy.
        fresh_from: which policies are measured so, beside the last and the best: ``theta``, ``each`` or none.
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

    @property
    def key(self) -> str:
        """Identifies the trial: a digest of its attributes."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

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
        session = self._client.resume(self._create(trial))
        rounds: list[dict[str, Any]] = []
        policies, failure = [session.policy], ""
        for k in range(trial.rounds):
            collected = _collect(trial, session.policy, k)
            rounds.append({"return": judged(collected, trial.change, trial.rounds)})
            uploaded = transform(collected, trial.change, k, _generator(trial, _CHANGE, k))
            try:
                session.upload(uploaded)
                policies.append(session.adapt())
            except PreconditionError as error:
                failure = str(error)
                break
        state = self._stub.GetSession(pb.GetSessionRequest(session_id=session.id), timeout=_SECONDS)
        for record, report in zip(rounds, state.reports, strict=False):
            record |= _of_report(report)
        best = int(state.session.best_round)
        measured = {
            "each": set(range(len(policies))),
            "theta": {0, best, len(policies) - 1},
        }.get(trial.fresh_from, {best, len(policies) - 1} if len(policies) > 1 else set())
        fresh = {str(k): _fresh(trial, policies[k], k) for k in sorted(measured) if trial.fresh}
        session.close()
        return {
            "key": trial.key,
            "trial": dataclasses.asdict(trial),
            "rounds": rounds,
            "fresh": fresh,
            "best_round": best,
            "failure": failure,
        }

    def _create(self, trial: Trial) -> str:
        options = pb.SessionOptions(caution=_CAUTION[trial.caution])
        request = pb.CreateSessionRequest(request_id=str(uuid.uuid4()), meta_policy=trial.meta_policy, options=options)
        request.ttl.seconds = 600
        return str(self._stub.CreateSession(request, timeout=_SECONDS).session.session_id)


def _collect(trial: Trial, policy: AdaptedPolicy, k: int) -> list[wire.Trajectory]:
    env = make_environment(trial.meta_policy, trial.goals(k, trial.episodes), trial.body)
    return collect(policy, env, trial.episodes, seed=_seed(trial, _COLLECT, k))


def _fresh(trial: Trial, policy: AdaptedPolicy, k: int) -> list[float]:
    """Mean, standard error and number of fresh episodes on the trial's task, or on its two tasks as they are mixed."""
    env = make_environment(trial.meta_policy, trial.goals(trial.rounds, trial.fresh), trial.body)
    collected = collect(policy, env, trial.fresh, seed=_seed(trial, _FRESH, k))
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


def _generator(trial: Trial, stream: int, k: int) -> np.random.Generator:
    return np.random.default_rng([trial.seed, stream, k])


def _seed(trial: Trial, stream: int, k: int) -> int:
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
