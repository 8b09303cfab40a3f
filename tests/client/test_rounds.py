"""`Client.adapt` and `Session.run`: collectors, failures and resuming."""

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

import thetaprime.client as tp
from thetaprime import wire
from thetaprime.server.adaptation.engine import AdaptationEngine
from thetaprime.server.sessions.uploads import NewUpload


def pendulum() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("Pendulum-v1")


def collector(policy: tp.AdaptedPolicy, count: int) -> list[wire.Trajectory]:
    return tp.collect(policy, pendulum(), count)


def one_by_one(policy: tp.AdaptedPolicy, count: int) -> Iterator[wire.Trajectory]:
    for _ in range(count):
        yield tp.collect(policy, pendulum(), 1)[0]


def half_of_it(policy: tp.AdaptedPolicy, count: int) -> list[wire.Trajectory]:
    return tp.collect(policy, pendulum(), (count + 1) // 2)


class Failing(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Raises an exception within an episode."""

    def __init__(self, episode: int, error: BaseException) -> None:
        super().__init__(pendulum())
        self.episodes, self.steps, self._failing, self._error = 0, 0, episode, error

    def reset(self, **options: Any) -> Any:
        self.episodes, self.steps = self.episodes + 1, 0
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self.steps += 1
        if (self.episodes, self.steps) == (self._failing, 7):
            raise self._error
        return super().step(action)


def test_the_server_computes_no_step_for_the_episodes_that_verify(
    client: tp.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    precompute = AdaptationEngine.precompute

    def record(engine: AdaptationEngine, upload: NewUpload) -> None:
        begun.append(upload.batch.trajectories)
        precompute(engine, upload)

    monkeypatch.setattr(AdaptationEngine, "precompute", record)
    session = client.create_session("pendulum")
    session.run(pendulum(), 2, 4, seed=0, progress=False)
    assert [each.trajectories for each in session.history] == [4, 4, 5]
    assert begun == [4, 4]
    # The episodes count all the same, and another round may rest on them.
    session.adapt()
    assert session.report is not None
    assert session.report.trajectories == 5


@pytest.mark.parametrize("source", [collector, one_by_one, half_of_it])
def test_a_callable_collects(source: Callable[..., Any], client: tp.Client) -> None:
    asked: list[int] = []

    def recorded(policy: tp.AdaptedPolicy, count: int) -> Any:
        asked.append(count)
        return source(policy, count)

    seen: list[tp.Progress] = []
    adapted = client.adapt("pendulum", recorded, 2, 4, verify=0, progress=seen.append)
    assert asked == ([4, 2, 1] * 2 if source is half_of_it else [4, 4])
    assert [(p.round, p.collected) for p in seen] == [(k, n) for k in (0, 1) for n in (1, 2, 3, 4, 4)]
    assert client.resume(seen[0].session_id).policy.policy_id == adapted.policy_id


@pytest.mark.parametrize("count", [2, 3])
def test_several_collectors_run_concurrently(count: int, client: tp.Client) -> None:
    together = threading.Barrier(count)

    def waiting(policy: tp.AdaptedPolicy, count: int) -> list[wire.Trajectory]:
        together.wait(60)  # collectors that run one after the other would wait forever
        return collector(policy, count)

    seen: list[tp.Progress] = []
    env = gymnasium.make_vec("Pendulum-v1", 2, "sync")
    sources = [waiting] * (count - 1) + [lambda *args: (together.wait(60), tp.collect(args[0], env, args[1]))[1]]
    client.adapt("pendulum", sources, 2, 7, progress=seen.append)
    env.close()
    session = client.resume(seen[0].session_id)
    assert [report.trajectories for report in session.reports] == [7, 7]
    assert [p.collected for p in seen if p.round == 1] == [1, 2, 3, 4, 5, 6, 7, 7]


def test_a_list_of_environments_shares_the_episodes(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    envs = [pendulum(), gymnasium.make_vec("Pendulum-v1", 2, "sync"), pendulum()]
    session.run(envs, 1, 5, verify=0, seed=3, progress=False)
    again = client.create_session("pendulum")
    again.run([pendulum()], 1, 5, verify=0, seed=3, progress=False)
    assert session.report is not None
    assert again.report is not None
    assert (session.report.trajectories, again.report.trajectories) == (5, 5)
    # Each environment has its own seed: the five episodes differ.
    assert session.report.std_return > 0
    # More collectors than trajectories: some collect none.
    session.run([pendulum() for _ in range(4)], 2, 2, progress=False)
    assert session.report.trajectories == 2


def test_a_mismatched_environment_of_a_list_is_named_and_no_session_stays_open(client: tp.Client) -> None:
    before = [each.session_id for each in client.sessions()]
    with pytest.raises(tp.InvalidInputError, match=r"env\[1\]\.observation_space"):
        client.adapt("pendulum", [pendulum(), gymnasium.make("CartPole-v1")])
    nothings: list[Any] = [[], None, 3]
    for nothing in nothings:
        with pytest.raises(tp.InvalidInputError, match="env"):
            client.adapt("pendulum", nothing)
    new = [each for each in client.sessions() if each.session_id not in before]
    assert [each.state for each in new] == ["closed"] * 4


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda policy, count: None, "returned NoneType"),
        (lambda policy, count: [], "returned no trajectory; expected 4"),
        (lambda policy, count: ["x"], "returned str; expected a Trajectory"),
    ],
)
def test_a_collector_without_trajectories_is_refused(
    source: Callable[..., Any], message: str, client: tp.Client
) -> None:
    with pytest.raises(tp.InvalidInputError, match=message) as caught:
        client.adapt("pendulum", source, 1, 4, progress=False)
    assert caught.value.session_id is not None


@pytest.mark.parametrize("kind", ["env", "callable", "generator"])
def test_episodes_before_a_failure_count_and_a_resumed_run_collects_the_rest(kind: str, client: tp.Client) -> None:
    cause = OSError("the cable is out")
    env = Failing(3, cause)

    def failing(policy: tp.AdaptedPolicy, count: int) -> Iterator[wire.Trajectory]:
        yield from one_by_one(policy, 2)
        raise cause

    def wrapped(policy: tp.AdaptedPolicy, count: int) -> list[wire.Trajectory]:
        return tp.collect(policy, env, count)

    source = {"env": env, "callable": wrapped, "generator": failing}[kind]
    kept = 0 if kind == "callable" else 2  # a callable that raises returns no episodes
    with pytest.raises(tp.CollectionError, match="after 2 of 4 trajectories: OSError: the cable is out") as caught:
        client.adapt("pendulum", source, 2, 4, seed=0, progress=False)
    assert caught.value.__cause__ is cause
    assert len(caught.value.trajectories) == 2
    session_id = caught.value.session_id
    assert session_id is not None
    assert caught.value.__notes__[-1] == (
        f"session {session_id} is in round 0, with {kept} of 4 trajectories: resume it to continue"
    )
    session = client.resume(session_id)
    assert (session.round, session.batch.trajectories) == (0, kept)
    seen: list[tp.Progress] = []
    adapted = session.run(pendulum(), 2, 4, verify=0, seed=0, progress=seen.append)
    assert seen[0].collected == kept + 1
    assert [report.trajectories for report in session.reports] == [4, 4]
    assert session.reports[0].std_return > 0
    assert client.resume(session_id).policy.policy_id == adapted.policy_id


def test_a_failed_collect_returns_the_complete_episodes_with_its_error(client: tp.Client) -> None:
    with pytest.raises(tp.CollectionError) as caught:
        tp.collect(client.theta("pendulum"), Failing(2, ValueError("x")), 4)
    assert len(caught.value.trajectories) == 1


def test_a_failed_collector_ends_the_others_and_their_episodes_are_uploaded(client: tp.Client) -> None:
    class Endless(Failing):
        """Collects until another collector fails."""

        def reset(self, **options: Any) -> Any:
            time.sleep(0.001)
            return super().reset(**options)

    endless = Endless(-1, ValueError())
    with pytest.raises(tp.CollectionError, match="ValueError: broken") as caught:
        client.adapt("pendulum", [Failing(3, ValueError("broken")), endless], 1, 20_000, progress=False)
    assert caught.value.session_id is not None
    kept = client.resume(caught.value.session_id).batch.trajectories
    assert kept in (2 + endless.episodes, 2 + endless.episodes - 1)


@pytest.mark.slow
def test_the_deadline_ends_a_run_and_the_error_names_the_session(client: tp.Client) -> None:
    with pytest.raises(tp.DeadlineError, match=r"did not end within its timeout of 3 s") as caught:
        client.adapt("pendulum", pendulum(), 1, 1_000_000, progress=False, timeout=3)
    assert caught.value.session_id is not None
    session = client.resume(caught.value.session_id)
    with pytest.raises(tp.DeadlineError, match=session.id) as caught:
        session.run([pendulum(), one_by_one], 1, 1_000_000, progress=False, timeout=0.3)
    assert any("the timeout of 0.3 s for session" in note for note in caught.value.__notes__)
    for timeout in (0.0, -1.0, float("nan")):
        with pytest.raises(tp.InvalidInputError, match="timeout"):
            session.run(pendulum(), timeout=timeout)
    assert session.run(pendulum(), 1, 2, verify=0, progress=False, timeout=300).parent_id


def test_a_passed_deadline_creates_no_session(client: tp.Client) -> None:
    known = [each.session_id for each in client.sessions()]
    with pytest.raises(tp.DeadlineError, match=r"the adaptation of pendulum did not end"):
        client.adapt("pendulum", pendulum(), timeout=1e-9)
    assert [each.session_id for each in client.sessions()] == known


def test_a_session_with_all_its_rounds_is_unchanged(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    adapted = session.run(pendulum(), 2, 2, progress=False)
    again = session.run(Failing(1, ValueError()), 2, 2, progress=False)
    assert (again.policy_id, again.history) == (adapted.policy_id, adapted.history)
    assert session.discard().batch.trajectories == 0  # the episodes of the verification
    for wrong in ({"rounds": 0}, {"trajectories": 0}, {"verify": -1}):
        with pytest.raises(tp.InvalidInputError, match=next(iter(wrong))):
            session.run(pendulum(), **wrong)  # type: ignore[arg-type]
    session.upload(collector(session.policy, 3))
    session.run(
        Failing(1, ValueError()), 3, 2, verify=0, progress=False
    )  # more trajectories than requested were uploaded before
    assert session.report is not None
    assert session.report.trajectories == 3


def test_bars_are_shown_on_request(client: tp.Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.adapt("pendulum", pendulum(), 1, 2)  # stderr is not a terminal here
    client.adapt("pendulum", pendulum(), 1, 2, progress=False)
    assert capsys.readouterr() == ("", "")
    client.adapt("pendulum", pendulum(), 2, 2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"round 1\s+return \S+ ± \S+.*2/2 episodes", err)
    assert "round 2" in err
    with pytest.raises(tp.InvalidInputError, match="progress: 'bar'"):
        client.adapt("pendulum", pendulum(), progress="bar")  # type: ignore[arg-type]


def test_an_exception_of_the_progress_callback_propagates(client: tp.Client) -> None:
    def stop(progress: tp.Progress) -> None:
        raise StopIteration

    with pytest.raises(StopIteration) as caught:
        client.adapt("pendulum", pendulum(), 1, 2, progress=stop)
    assert "resume it to continue" in caught.value.__notes__[-1]


_ADAPTING = """
import sys, gymnasium, thetaprime.client as tp
def slow(env):
    import time
    step = env.step
    env.step = lambda action: (time.sleep(0.002), step(action))[1]
    return env
env = [slow(gymnasium.make("Pendulum-v1")) for _ in range(int(sys.argv[2]))]
with tp.Client(sys.argv[1]) as client:
    def tell(progress):
        print(progress.session_id, flush=True)
    try:
        client.adapt("pendulum", env if len(env) > 1 else env[0], 100, 2, progress=tell)
    except KeyboardInterrupt as interrupt:
        print("interrupted", interrupt.session_id, flush=True)
        raise
"""


@pytest.mark.parametrize(("collectors", "after"), [(1, 0.05), (1, 0.31), (2, 0.17), (2, 0.43)])
def test_ctrl_c_carries_the_id_of_a_session_that_can_be_resumed(collectors: int, after: float, address: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _ADAPTING, address, str(collectors)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert process.stdout is not None
    session_id = process.stdout.readline().strip()
    time.sleep(after * random.uniform(0.5, 1.5))
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors, errors
    assert output.splitlines()[-1] == f"interrupted {session_id}"
    assert f"session {session_id} is in round" in errors
    with tp.Client(address) as client:
        session = client.resume(session_id)
        taken = session.round
        session.run(pendulum(), taken + 1, 2, progress=False)
        assert [report.round for report in session.reports] == list(range(taken + 1))


_COLLECTING = """
import sys, gymnasium, thetaprime.client as tp
with tp.Client(sys.argv[1]) as client:
    def tell(progress):
        print(progress.session_id, progress.collected, flush=True)
    client.adapt("pendulum", gymnasium.make("Pendulum-v1"), 1, 500, progress=tell)
"""


def test_ctrl_c_uploads_the_complete_episodes(address: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _COLLECTING, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert process.stdout is not None
    session_id = ""
    for line in process.stdout:
        session_id, collected = line.split()
        if int(collected) >= 3:
            break
    process.send_signal(signal.SIGINT)
    more, errors = process.communicate(timeout=60)
    (kept,) = re.findall(rf"session {session_id} is in round 0, with (\d+) of 500 trajectories", errors)
    assert int(kept) >= max(3, len(more.splitlines()) + 3)
    with tp.Client(address) as client:
        assert client.resume(session_id).batch.trajectories == int(kept)


def test_seeds_differ_between_rounds_collectors_and_resumed_runs(client: tp.Client) -> None:
    drawn: list[int] = []

    class Seeded(gymnasium.Wrapper[Any, Any, Any, Any]):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            if seed is not None:
                drawn.append(seed)
            return super().reset(seed=seed)

    session = client.create_session("pendulum")
    session.run([Seeded(pendulum()), Seeded(pendulum())], 2, 4, verify=0, seed=1, progress=False)
    session.upload(collector(session.policy, 2))
    session.run(Seeded(pendulum()), 3, 4, verify=0, seed=1, progress=False)
    session.run(Seeded(pendulum()), 4, 4, verify=0, seed=1, progress=False)
    assert len(drawn) == len(set(drawn)) == 6
    first = drawn[:4]
    drawn.clear()
    client.adapt("pendulum", [Seeded(pendulum()), Seeded(pendulum())], 2, 4, verify=0, seed=1, progress=False)
    assert sorted(drawn[:2]) == sorted(first[:2])
    assert all(0 <= seed < 2**32 for seed in itertools.chain(drawn, first))
    assert np.unique(drawn).size == 4
