"""The client with a real server: adaptation end to end, sessions, resuming, refusals."""

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import thetaprime.client as tp
from thetaprime import models, wire
from thetaprime.server import ServerConfig, running_server
from thetaprime.v1 import adaptation_service_pb2 as adaptation_pb

Artifact = Callable[[str], models.MetaPolicy]


def trajectories_of(policy: tp.AdaptedPolicy, count: int = 4, seed: int = 0) -> list[wire.Trajectory]:
    env = gymnasium.make("Pendulum-v1")
    collected = tp.collect(policy, env, count, seed=seed)
    env.close()
    return collected


def test_the_catalog(client: tp.Client, artifact: Artifact) -> None:
    found = client.meta_policies()
    assert [each.label for each in found] == [
        "cart-pole@1", "grid@1", "half-open@1", "pendulum@1", "point-navigation@1"
    ]  # fmt: skip
    pendulum = client.meta_policy("pendulum")
    assert pendulum == found[3] == client.meta_policy("pendulum@1") == client.meta_policy("pendulum", 1)
    assert pendulum.environment.action_high == (2.0,)
    assert pendulum.trajectories_per_round == 4
    assert client.theta("pendulum").policy_id == pendulum.policy_id == artifact("pendulum").policy_id


def test_adapt_with_an_environment(client: tp.Client) -> None:
    seen: list[tp.Progress] = []
    with gymnasium.make("Pendulum-v1") as env:
        adapted = client.adapt("pendulum@1", env, rounds=2, trajectories=3, seed=0, progress=seen.append)
        again = client.adapt("pendulum", env, rounds=2, trajectories=3, seed=0)
    assert adapted.meta_policy == "pendulum@1"
    assert (adapted.policy_id, adapted.round) == (again.policy_id, again.round)
    counted = [(each.round, each.collected, each.report is not None) for each in seen if not each.verifying]
    assert counted == [(k, n, done) for k in (0, 1) for n, done in ((1, False), (2, False), (3, False), (3, True))]
    assert {(each.rounds, each.trajectories) for each in seen} == {(2, 3), (2, 5)}
    assert [(each.round, each.collected) for each in seen if each.verifying] == [(2, n) for n in (1, 2, 3, 4, 5)]
    session = client.resume(seen[0].session_id)
    assert session.info.state == "closed"
    assert session.policy_at(adapted.round).policy_id == adapted.policy_id
    first, last = (each.report for each in seen if each.report is not None)
    # A resumed session has the contributions of its last round alone.
    assert session.reports == (dataclasses.replace(first, uploads=()), last)
    assert last.shares.shape == last.returns.shape == (3,)
    assert last.shares.sum() == pytest.approx(1.0)
    assert last.returns.mean() == pytest.approx(last.mean_return)


def test_adapt_collects_the_meta_policys_trajectories_per_round(client: tp.Client) -> None:
    seen: list[tp.Progress] = []
    env = gymnasium.make_vec("CartPole-v1", 3, "sync")
    adapted = client.adapt("cart-pole", env, rounds=1, progress=seen.append)
    env.close()
    assert [each.collected for each in seen if each.report is not None] == [4]
    assert adapted.act(np.zeros(4, np.float32)) in (0, 1)


def test_a_session_step_by_step(client: tp.Client) -> None:
    session = client.create_session("pendulum", step_size_scale=0.5, ttl=3600)
    theta = session.policy
    assert (session.round, session.report, session.reports) == (0, None, ())
    assert session.info.step_size_scale == 0.5
    assert (session.info.expire_time - session.info.create_time).total_seconds() == pytest.approx(3600)
    collected = trajectories_of(theta)
    receipt = session.upload(collected[:3])
    assert (receipt.batch.uploads, receipt.batch.trajectories, receipt.batch.steps) == (1, 3, 120)
    receipt = session.upload(collected[3:], upload_id="the last one")
    assert (receipt.upload_id, receipt.batch.uploads, receipt.batch.trajectories) == ("the last one", 2, 4)
    adapted = session.adapt()
    assert session.policy is adapted
    assert (session.round, adapted.parent_id) == (1, theta.policy_id)
    report = session.report
    assert report is not None
    assert (report.round, report.trajectories, report.steps) == (0, 4, 160)
    assert report.batch_sha256 == receipt.batch.sha256
    assert report.mean_return == pytest.approx(np.mean([each.total_reward for each in collected]), rel=1e-5)
    assert session.policy_at(0).policy_id == theta.policy_id
    assert session.policy_at(1) is adapted
    session.close()
    assert session.info.state == "closed"


def test_the_step_size_scale_changes_the_step(client: tp.Client) -> None:
    adapted = []
    for scale in (None, 1.0, 0.1):
        session = client.create_session("pendulum", step_size_scale=scale)
        session.upload(trajectories_of(session.policy))
        adapted.append(session.adapt().policy_id)
    assert adapted[0] == adapted[1] != adapted[2]


def test_a_repeated_upload_counts_once(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    collected = trajectories_of(session.policy)
    assert session.upload(collected) == session.upload(collected)
    session.adapt()
    assert session.report is not None
    assert session.report.trajectories == 4


def test_equal_request_ids_return_the_same_session(client: tp.Client) -> None:
    first = client.create_session("pendulum", request_id="r-1")
    assert client.create_session("pendulum", request_id="r-1").id == first.id
    first.upload(trajectories_of(first.policy))
    first.adapt()
    later = client.create_session("pendulum", request_id="r-1")
    assert (later.id, later.round, later.policy.policy_id) == (first.id, 1, first.policy.policy_id)


def test_several_threads_upload_to_one_round(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    policy = session.policy
    batches = [trajectories_of(policy, 2, seed) for seed in range(4)]
    threads = [threading.Thread(target=session.upload, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.adapt()
    assert session.report is not None
    assert session.report.trajectories == 8


def test_adapt_without_own_uploads_uses_the_servers_batch(client: tp.Client) -> None:
    collector = client.create_session("pendulum")
    collector.upload(trajectories_of(collector.policy))
    learner = client.resume(collector.id)
    adapted = learner.adapt()
    with pytest.raises(tp.StaleRoundError) as caught:
        collector.upload(trajectories_of(collector.policy, seed=9))
    assert caught.value.current_round == 1
    collector.refresh()
    assert (collector.round, collector.policy.policy_id) == (1, adapted.policy_id)
    assert collector.reports == learner.reports


def test_a_step_with_a_lost_response_is_taken_once(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    receipt = session.upload(trajectories_of(session.policy))
    # The request of `adapt`, whose response is lost.
    request = adaptation_pb.AdaptRequest(session_id=session.id, expected_round=0, batch_sha256=receipt.batch.sha256)
    lost = client._transport.call(client._transport.adaptation.Adapt, request)
    assert session.round == 0
    assert session.adapt().policy_id == lost.policy.policy_id
    assert client.resume(session.id).round == 1


def test_a_late_adapt_gets_the_current_round(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    session.upload(trajectories_of(session.policy))
    twin = client.resume(session.id)
    session.adapt()
    with pytest.raises(tp.StaleRoundError) as caught:
        twin.adapt()
    assert caught.value.current_round == 1


def test_a_session_continues_after_its_client_was_killed(address: str) -> None:
    code = f"""
import os, gymnasium, thetaprime.client as tp
client = tp.Client({address!r})
session = client.create_session("pendulum")
env = gymnasium.make("Pendulum-v1")
session.upload(tp.collect(session.policy, env, 4, seed=0))
session.adapt()
session.upload(tp.collect(session.policy, env, 2, seed=1))
print(session.id, session.policy.policy_id, flush=True)
os._exit(9)
"""
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert died.returncode == 9, died.stderr
    session_id, policy_id = died.stdout.split()
    with tp.Client(address) as client:
        session = client.resume(session_id)
        assert (session.round, session.policy.policy_id) == (1, policy_id)
        assert [report.round for report in session.reports] == [0]
        assert session.info.batch.trajectories == 2
        session.upload(trajectories_of(session.policy, 2, seed=2))
        session.adapt()
    assert session.report is not None
    assert (session.round, session.report.trajectories) == (2, 4)


def test_a_session_outlives_its_server(zoo: Path, tmp_path: Path) -> None:
    config = ServerConfig(address="127.0.0.1:0", store=tmp_path / "store", zoo=(zoo,))
    with running_server(config) as address, tp.Client(address) as client:
        session = client.create_session("pendulum")
        session.upload(trajectories_of(session.policy))
        adapted = session.adapt()
    with running_server(config) as address, tp.Client(address) as client:
        assert client.resume(session.id).policy.policy_id == adapted.policy_id


def test_sessions_are_listed_newest_first_over_all_pages(zoo: Path, tmp_path: Path) -> None:
    config = ServerConfig(address="127.0.0.1:0", store=tmp_path / "store", zoo=(zoo,))
    with running_server(config) as address, tp.Client(address) as client:
        created = [client.create_session("grid").id for _ in range(105)]  # a page has 100
        listed = [session.session_id for session in client.sessions()]
    assert listed == created[::-1]


def test_an_invalid_trajectory_is_refused_by_field_before_the_upload(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    collected = trajectories_of(session.policy)
    rewards = collected[2].rewards.copy()
    rewards[7] = np.nan
    collected[2] = dataclasses.replace(collected[2], rewards=rewards)
    with tp.Client("127.0.0.1:1") as nowhere:
        session._transport = nowhere._transport  # no server listens there
        with pytest.raises(tp.InvalidInputError, match=r"trajectories\[2\]\.rewards\[7\]") as caught:
            session.upload(collected)
        assert caught.value.violations[0].field == "trajectories[2].rewards[7]"
        with pytest.raises(tp.InvalidInputError, match="trajectories: empty"):
            session.upload([])


def test_off_policy_trajectories_are_refused_with_the_reason(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    collected = [
        dataclasses.replace(each, actions=session.policy.act(each.observations))
        for each in trajectories_of(session.policy)
    ]
    with pytest.raises(tp.PreconditionError) as caught:
        session.upload(collected)
    assert caught.value.reason


def test_trajectories_of_another_policy_are_refused_with_the_reason(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    collected = [dataclasses.replace(each, policy_id="0" * 64) for each in trajectories_of(session.policy)]
    with pytest.raises(tp.PreconditionError) as caught:
        session.upload(collected)
    assert caught.value.reason


def test_adapt_without_uploads_is_refused_and_the_session_is_unchanged(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    with pytest.raises(tp.ThetaPrimeError):
        session.adapt()
    assert session.round == 0
    session.upload(trajectories_of(session.policy))
    session.adapt()
    assert session.round == 1


def test_unknown_names_and_ids_are_not_found(client: tp.Client) -> None:
    for call in (
        lambda: client.meta_policy("no-such"),
        lambda: client.create_session("no-such"),
        lambda: client.create_session("pendulum@7"),
        lambda: client.resume("no-such"),
        lambda: client.create_session("pendulum").policy_at(3),
    ):
        with pytest.raises(tp.NotFoundError) as caught:
            call()
        assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"step_size_scale": -1.0}, "step_size_scale"), ({"ttl": -5.0}, "ttl"), ({"ttl": float("nan")}, "ttl")],
)
def test_options_out_of_range_are_refused_by_field(options: dict[str, float], field: str, client: tp.Client) -> None:
    with pytest.raises(tp.InvalidInputError) as caught:
        client.create_session("pendulum", **options)  # type: ignore[arg-type]
    assert field in caught.value.violations[0].field


@pytest.mark.parametrize(("name", "version"), [("pendulum@", 0), ("pendulum@x", 0), ("pendulum@1", 2), ("@1", 0)])
def test_a_malformed_name_is_refused(name: str, version: int, client: tp.Client) -> None:
    with pytest.raises(tp.ThetaPrimeError):
        client.meta_policy(name, version)


def test_a_mismatched_environment_is_refused_by_field(client: tp.Client) -> None:
    with gymnasium.make("CartPole-v1") as env, pytest.raises(tp.InvalidInputError, match="observation_space"):
        client.adapt("pendulum", env)


def test_zero_rounds_are_refused(client: tp.Client) -> None:
    with pytest.raises(tp.InvalidInputError, match="rounds: 0"):
        client.adapt("pendulum", None, rounds=0)


def test_a_repeated_upload_says_which_one_counts(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    trajectories = trajectories_of(session.policy)
    first = session.upload(trajectories, "first")
    second = session.upload(trajectories, "second")
    assert (first.counted_as, second.counted_as, second.batch) == (None, "first", first.batch)
    third = session.upload(trajectories, "third", count_again=True)
    assert (third.counted_as, third.batch.trajectories) == (None, 8)
    session.adapt()
    assert session.report is not None
    assert session.report.trajectories == 8


def test_a_doubted_round_goes_on_after_a_discard(client: tp.Client) -> None:
    session = client.create_session("pendulum")
    session.upload(trajectories_of(session.policy, 2), "good")
    with pytest.raises(tp.PreconditionError) as caught:
        for index, each in enumerate(trajectories_of(session.policy, 40, seed=1)):
            # Half of the noise is missing: too little to show in one short episode.
            mean = np.stack([session.policy.act(each) for each in each.observations[:10]]) / 2.0
            halved = (mean + 0.5 * (each.actions[:10] - mean)).astype(np.float32)
            short = dataclasses.replace(
                each, observations=each.observations[:10], actions=halved, rewards=each.rewards[:10]
            )
            session.upload([short], f"bad {index}")
    assert caught.value.reason == "ROUND_DOUBTED"
    with pytest.raises(tp.PreconditionError, match="together"):
        session.adapt()
    session.refresh()
    assert session.info.doubt is not None
    assert session.info.doubt in str(caught.value)
    left = session.discard(*(f"bad {index}" for index in range(session.batch.uploads - 1)))
    assert (left.doubt, left.batch.uploads, session.batch.trajectories) == (None, 1, 2)
    session.adapt()
    assert session.round == 1
    with pytest.raises(tp.NotFoundError):
        session.discard("good")
