"""The on-policy test of rounds: however a round is split into uploads, and the way out of a doubted one."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import onnxruntime
import pytest

from tests.support.server.service import Refusal
from thetaprime import wire
from thetaprime.v1 import adaptation_service_pb2 as service_pb

if TYPE_CHECKING:
    from tests.support.server.service import Configure, Service, Start

CODE = grpc.StatusCode
EPISODES, STEPS = 20, 100
Array = np.ndarray[Any, Any]
Act = Callable[["Draw"], Array]


@dataclasses.dataclass
class Draw:
    """One episode's chance to act: the policy's mean and standard deviation, and a generator."""

    mean: Array
    std: Array
    rng: np.random.Generator
    episode: int

    def sampled(self) -> Array:
        return np.asarray(self.mean + self.std * self.noise())

    def noise(self) -> Array:
        return np.asarray(self.rng.standard_normal(self.mean.shape))


CASES: dict[str, Act] = {
    "some steps deterministic": lambda d: np.where(d.rng.random((len(d.mean), 1)) < 0.3, d.mean, d.sampled()),
    "some episodes deterministic": lambda d: d.mean if d.episode % 3 == 0 else d.sampled(),
    "less noise": lambda d: d.mean + 0.8 * d.std * d.noise(),
    "more noise": lambda d: d.mean + 1.25 * d.std * d.noise(),
    "one dimension shifted": lambda d: d.sampled() + 0.2 * d.std * np.eye(len(d.std))[0],
    "all dimensions shifted": lambda d: d.sampled() + 0.2 * d.std,
}
SPLITS: dict[str, int] = {"one upload": EPISODES, "one episode an upload": 1}


def episodes(policy: Any, act: Act, seed: int = 0, count: int = EPISODES, steps: int = STEPS) -> list[wire.Trajectory]:
    """Episodes of random observations, with the actions of a case."""
    rng = np.random.default_rng(seed)
    session = onnxruntime.InferenceSession(policy.onnx, providers=["CPUExecutionProvider"])
    found = []
    for index in range(count):
        observations = rng.uniform(-0.5, 0.5, (steps, 2)).astype(np.float32)
        mean, log_std = session.run(["mean", "log_std"], {"obs": observations})
        actions = act(Draw(mean, np.exp(log_std).reshape(-1)[: mean.shape[1]], rng, index))
        found.append(
            wire.Trajectory(
                observations=observations,
                actions=actions.astype(np.float32),
                rewards=actions.sum(axis=1).astype(np.float32),
                terminated=False,
                truncated=True,
                final_observation=observations[-1],
                policy_id=policy.policy_id,
            )
        )
    return found


def honest(draw: Draw) -> Array:
    return draw.sampled()


def parts(trajectories: list[wire.Trajectory], size: int) -> Iterator[list[wire.Trajectory]]:
    for start in range(0, len(trajectories), size):
        yield trajectories[start : start + size]


def refused(service: "Service", session_id: str, trajectories: Sequence[wire.Trajectory], **arguments: Any) -> Refusal:
    """The refusal of an upload, which changes nothing that counts."""
    before = service.get(session_id).session.batch
    refusal = Refusal()
    with pytest.raises(grpc.RpcError) as caught:
        service.upload(session_id, trajectories, **arguments)
    refusal.read(caught.value)
    assert service.get(session_id).session.batch == before
    return refusal


def first_refusal(
    service: "Service",
    session_id: str,
    uploads: Iterable[Sequence[wire.Trajectory]],
    *,
    round_index: int = 0,
    start: int = 0,
) -> Refusal | None:
    """Uploads until one is refused."""
    for index, part in enumerate(uploads, start):
        try:
            service.upload(session_id, part, upload_id=f"upload {index}", round_index=round_index)
        except grpc.RpcError as error:
            refusal = Refusal()
            refusal.read(error)
            return refusal
    return None


def discard(service: "Service", session_id: str, *upload_ids: str, round_index: int = 0) -> service_pb.Session:
    request = service_pb.DiscardUploadsRequest(session_id=session_id, round=round_index, upload_ids=upload_ids)
    return service.stub.DiscardUploads(request).session


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("case", CASES)
def test_a_round_that_the_policy_did_not_collect_is_refused_however_it_is_split(
    service: "Service", case: str, split: str
) -> None:
    created = service.create()
    session_id = created.session.session_id
    trajectories = episodes(created.policy, CASES[case])
    refusal = first_refusal(service, session_id, parts(trajectories, SPLITS[split]))
    assert refusal is not None
    assert refusal.code is CODE.FAILED_PRECONDITION


@pytest.mark.parametrize("split", SPLITS)
def test_an_honest_round_is_taken_however_it_is_split(service: "Service", split: str) -> None:
    created = service.create()
    session_id = created.session.session_id
    assert first_refusal(service, session_id, parts(episodes(created.policy, honest), SPLITS[split])) is None
    batch = service.get(session_id).session.batch
    assert batch.trajectories == EPISODES
    assert service.adapt(session_id, 0, batch.sha256).session.round == 1


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("rounds", [1, 2])
def test_actions_of_an_earlier_policy_of_the_session_are_refused(service: "Service", split: str, rounds: int) -> None:
    # Without a guard, every step is as long as the first.
    options = service_pb.SessionOptions(step_size_scale=22.0, caution=service_pb.CAUTION_OFF)
    created = service.create(options=options)
    session_id, policy = created.session.session_id, created.policy
    for index in range(rounds):
        earlier = policy
        service.upload(session_id, episodes(policy, honest, seed=index), round_index=index)
        reply = service.adapt(session_id, index, service.get(session_id).session.batch.sha256)
        policy = reply.policy
    assert 0.15 < reply.report.kl_divergence < 0.35
    stale = [dataclasses.replace(each, policy_id=policy.policy_id) for each in episodes(earlier, honest, seed=7)]
    refusal = first_refusal(service, session_id, parts(stale, SPLITS[split]), round_index=rounds)
    assert refusal is not None
    assert refusal.reason in ("OFF_POLICY", "ROUND_DOUBTED")


def near_mean(draw: Draw) -> Array:
    return np.asarray(draw.mean + 1e-5 * draw.noise())


def doubted(service: "Service") -> tuple[str, Any]:
    """A session whose round is doubted after a few steps that were uploaded one by one, and its policy."""
    created = service.create()
    session_id = created.session.session_id
    refusal = first_refusal(service, session_id, parts(episodes(created.policy, near_mean, count=200, steps=1), 1))
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (CODE.FAILED_PRECONDITION, "ROUND_DOUBTED")
    return session_id, created.policy


def test_a_doubted_round_takes_no_upload_and_no_step(service: "Service") -> None:
    session_id, policy = doubted(service)
    session = service.get(session_id).session
    assert 0 < session.batch.uploads < 10
    assert session.doubt.startswith(f"the round's {session.batch.uploads + 1} uploads")
    assert "policy's mean" in session.doubt
    assert "'upload 0'" in session.doubt
    again = refused(service, session_id, episodes(policy, honest))
    assert (again.reason, again.message, again.metadata) == ("ROUND_DOUBTED", session.doubt, {"scope": "round"})
    with service.refuses(session_id) as refusal:
        service.adapt(session_id, 0, session.batch.sha256)
    assert (refusal.reason, refusal.message) == ("ROUND_DOUBTED", session.doubt)
    # An upload that was acknowledged before is acknowledged again.
    known = episodes(policy, near_mean, count=200, steps=1)[:1]
    assert service.upload(session_id, known, upload_id="upload 0").upload_id == "upload 0"


def test_a_doubt_outlives_the_server_and_ends_with_the_uploads_that_cause_it(
    configure: "Configure", start: "Start"
) -> None:
    store = configure().store
    with start(store=store) as service:
        session_id, policy = doubted(service)
        before = service.get(session_id).session
    with start(store=store) as service:
        assert service.get(session_id).session == before
        left = discard(service, session_id)
        assert (left.doubt, left.batch) == ("", service_pb.UploadedBatch())
        assert discard(service, session_id) == left
        batch = service.upload(session_id, episodes(policy, honest)).batch
        assert service.adapt(session_id, 0, batch.sha256).report.trajectories == EPISODES


def test_a_doubt_does_not_end_with_a_part_of_its_cause(service: "Service") -> None:
    created = service.create()
    session_id, policy = created.session.session_id, created.policy
    good, bad = episodes(policy, honest, count=5), episodes(policy, CASES["less noise"], seed=1, count=100, steps=20)
    for index, each in enumerate(good):
        service.upload(session_id, [each], upload_id=f"good {index}")
    assert first_refusal(service, session_id, parts(bad, 1)) is not None
    count = service.get(session_id).session.batch.uploads - len(good)
    assert discard(service, session_id, "upload 0").doubt
    left = discard(service, session_id, *(f"upload {index}" for index in range(count)))
    assert (left.doubt, left.batch.uploads) == ("", len(good))
    assert service.adapt(session_id, 0, left.batch.sha256).report.trajectories == len(good)


def test_two_servers_on_one_store_test_one_round(configure: "Configure", start: "Start") -> None:
    store = configure().store
    with start(store=store) as one, start(store=store) as other:
        created = one.create()
        trajectories = episodes(created.policy, CASES["all dimensions shifted"])
        refusals = [
            first_refusal(service, created.session.session_id, parts(half, 1), start=start)
            for service, half, start in ((one, trajectories[:3], 0), (other, trajectories[3:], 3))
        ]
    assert refusals[0] is None
    assert refusals[1] is not None
    assert refusals[1].reason == "ROUND_DOUBTED"


def test_equal_content_counts_once_unless_it_is_meant(service: "Service") -> None:
    created = service.create()
    session_id, trajectories = created.session.session_id, episodes(created.policy, honest, count=2)
    payload = wire.pack(trajectories)

    def send(upload_id: str, *, count_again: bool = False) -> service_pb.UploadTrajectoriesResponse:
        return service.send(wire.iter_upload(session_id, upload_id, 0, payload, 2, 2 * STEPS, count_again=count_again))

    first = send("a")
    assert (first.counted_as, first.batch.uploads) == ("", 1)
    # A client that does not know the field.
    repeated = [send(f"b{index}") for index in range(50)]
    assert {each.counted_as for each in repeated} == {"a"}
    assert all(each.batch == first.batch for each in repeated)
    meant = send("c", count_again=True)
    assert (meant.counted_as, meant.batch.uploads, meant.batch.trajectories) == ("", 2, 4)
    # Each is acknowledged again as it was.
    assert [send(f"b{index}") for index in range(50)] == repeated
    assert send("a") == first
    reply = service.adapt(session_id, 0, meant.batch.sha256)
    assert reply.report.trajectories == 4
    assert send("b0") == repeated[0]


def test_uploads_that_do_not_count_are_limited(start: "Start") -> None:
    with start(max_round_uploads=3) as service:
        created = service.create()
        session_id, trajectories = created.session.session_id, episodes(created.policy, honest, count=1)
        for _ in range(3):
            service.upload(session_id, trajectories)
        refusal = refused(service, session_id, trajectories)
    assert (refusal.code, refusal.reason) == (CODE.RESOURCE_EXHAUSTED, "ROUND_FULL")


@pytest.mark.parametrize("across", [False, True])
def test_an_episode_that_is_sent_twice_is_refused_by_name(service: "Service", across: bool) -> None:
    created = service.create()
    session_id, trajectories = created.session.session_id, episodes(created.policy, honest, count=4)
    repeated = [*trajectories[2:], trajectories[1]]
    if across:
        service.upload(session_id, trajectories[:2], upload_id="before")
    else:
        repeated = [*trajectories[:2], trajectories[1]]
    refusal = refused(service, session_id, repeated, upload_id="again")
    assert (refusal.code, refusal.reason) == (CODE.FAILED_PRECONDITION, "REPEATED_NOISE")
    name = "before" if across else "again"
    assert refusal.metadata == {"trajectory": "2", "upload_id": name}
    assert f"trajectories[1] of upload '{name}'" in refusal.message
    payload = wire.pack(repeated)
    messages = wire.iter_upload(session_id, "meant", 0, payload, 3, 3 * STEPS, count_again=True)
    assert service.send(messages).batch.trajectories == 3 + 2 * across


def test_collectors_with_one_seed_are_refused(service: "Service") -> None:
    created = service.create()
    session_id = created.session.session_id
    for start in range(2):
        rng = np.random.default_rng(5)
        trajectories = [
            dataclasses.replace(
                each, actions=(means(created.policy, each) + rng.standard_normal((STEPS, 2))).astype(np.float32)
            )
            for each in episodes(created.policy, honest, seed=start, count=2)
        ]
        if start == 0:
            service.upload(session_id, trajectories)
    assert refused(service, session_id, trajectories).reason == "REPEATED_NOISE"


def means(policy: Any, trajectory: wire.Trajectory) -> Array:
    session = onnxruntime.InferenceSession(policy.onnx, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["mean"], {"obs": trajectory.observations})[0])


def test_discarded_uploads_are_not_in_the_step(service: "Service") -> None:
    policies = []
    for more in (False, True):
        created = service.create()
        session_id = created.session.session_id
        batch = service.upload(session_id, episodes(created.policy, honest, count=3), upload_id="kept").batch
        if more:
            service.upload(session_id, episodes(created.policy, honest, seed=1, count=3), upload_id="dropped")
            left = discard(service, session_id, "dropped")
            assert left.batch == batch == service.get(session_id).session.batch
            known = refused(service, session_id, episodes(created.policy, honest, seed=1, count=3), upload_id="dropped")
            assert (known.code, known.reason) == (CODE.FAILED_PRECONDITION, "UPLOAD_DISCARDED")
        policies.append(service.adapt(session_id, 0, batch.sha256).policy)
    assert policies[0] == policies[1]


def test_the_discard_of_an_unknown_upload_or_of_another_round_changes_nothing(service: "Service") -> None:
    created = service.create()
    session_id = created.session.session_id
    service.upload(session_id, episodes(created.policy, honest, count=3), upload_id="here")
    with service.refuses(session_id) as refusal:
        discard(service, session_id, "here", "nowhere")
    assert (refusal.code, refusal.details["ResourceInfo"].resource_type) == (CODE.NOT_FOUND, "upload")
    with service.refuses(session_id) as refusal:
        discard(service, session_id, round_index=1)
    assert (refusal.code, refusal.metadata) == (CODE.ABORTED, {"round": "0"})
