from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import trajectory_pb2 as pb
from thetaprime.wire import (
    CHUNK_BYTES,
    ActionKind,
    EnvironmentContract,
    RewardContract,
    Trajectory,
    WireError,
    array_from_message,
    array_to_message,
    batch_digest,
    contract_from_message,
    contract_to_message,
    iter_upload,
    pack,
    sha256_hex,
    unpack,
)

DTYPES: st.SearchStrategy[np.dtype[Any]] = st.sampled_from([np.dtype(n) for n in ("<f4", "<f8", "<i4", "<i8", ">f4")])
ARRAYS: st.SearchStrategy[npt.NDArray[Any]] = hnp.arrays(
    dtype=DTYPES, shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
)


def make_trajectory(steps: int = 3, policy_id: str = "p") -> Trajectory:
    rng = np.random.default_rng(steps)
    return Trajectory(
        observations=rng.normal(size=(steps, 2)).astype(np.float32),
        actions=rng.normal(size=(steps, 1)).astype(np.float32),
        rewards=rng.normal(size=steps),
        terminated=False,
        truncated=True,
        final_observation=rng.normal(size=2).astype(np.float32),
        policy_id=policy_id,
    )


@given(array=ARRAYS)
def test_arrays_round_trip(array: npt.NDArray[Any]) -> None:
    message = array_to_message(array)
    again = array_from_message(pb.Array.FromString(message.SerializeToString()), "x")
    assert again.dtype == array.dtype.newbyteorder("<") and again.shape == array.shape
    np.testing.assert_array_equal(again, array)
    assert array_to_message(again) == message


def test_an_array_s_bytes_are_copied_out_of_its_message_once() -> None:
    """Formerly twice: each access to a field of bytes copies it."""

    class Message:
        data_type = pb.DATA_TYPE_FLOAT32
        shape = (2,)
        accesses = 0

        @property
        def data(self) -> bytes:
            self.accesses += 1
            return bytes(8)

    message = Message()
    np.testing.assert_array_equal(array_from_message(cast("pb.Array", message), "x"), np.zeros(2, np.float32))
    assert message.accesses == 1


@given(
    data_type=st.integers(0, 6),
    shape=st.lists(st.one_of(st.integers(-2, 5), st.sampled_from([2**31, 2**62])), max_size=10),
    data=st.binary(max_size=200),
)
def test_arbitrary_array_messages_are_read_or_refused(data_type: int, shape: list[int], data: bytes) -> None:
    try:
        array = array_from_message(pb.Array(data_type=data_type, shape=shape, data=data), "trajectories[0].rewards")  # type: ignore[arg-type]
    except WireError as error:
        assert error.field.startswith("trajectories[0].rewards.")
    else:
        assert array.tobytes() == data


@given(lengths=st.lists(st.integers(0, 6), max_size=5), chop=st.integers(0, 400))
def test_payloads_round_trip_and_cut_payloads_are_refused(lengths: list[int], chop: int) -> None:
    trajectories = [make_trajectory(n, policy_id=str(n)) for n in lengths]
    payload = pack(trajectories)
    again = list(unpack(payload))
    assert [t.policy_id for t in again] == [t.policy_id for t in trajectories]
    for one, other in zip(trajectories, again, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.rewards, other.rewards)
        assert (other.terminated, other.truncated) == (False, True)
    assert pack(again) == payload
    cut = payload[: min(chop, len(payload))]
    try:
        found = list(unpack(cut))
    except WireError:
        return
    assert pack(found) == cut  # a cut between two trajectories is whole by itself; the footer tells


@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_as_wire_errors(data: bytes) -> None:
    try:
        for trajectory in unpack(data):
            assert isinstance(trajectory, Trajectory)
    except WireError as error:
        assert error.field.startswith("trajectories[")


@pytest.mark.parametrize("data", [b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x0f", b"\x05abc"])
def test_hostile_length_prefixes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError, match=r"trajectories\[0\]"):
        list(unpack(data))


def test_dtypes_without_a_wire_form_are_refused() -> None:
    with pytest.raises(WireError, match="complex64 has no wire form; expected one of float32"):
        array_to_message(np.zeros(1, np.complex64))


def test_an_upload_is_header_chunks_footer() -> None:
    payload = bytes(range(256)) * (CHUNK_BYTES // 128)
    messages = list(iter_upload("s", "u", 4, payload, trajectories=7, steps=70))
    kinds = [message.WhichOneof("part") for message in messages]
    assert kinds == ["header", "chunk", "chunk", "footer"]
    assert b"".join(message.chunk.data for message in messages) == payload
    assert messages[0].header == service_pb.UploadHeader(
        session_id="s", upload_id="u", round=4, payload_bytes=len(payload)
    )
    assert messages[-1].footer == service_pb.UploadFooter(trajectories=7, steps=70, sha256=sha256_hex(payload))


@given(digests=st.lists(st.integers(0, 5).map(lambda i: sha256_hex(bytes([i]))), max_size=6), data=st.data())
def test_batch_digest_ignores_order_and_counts_repeats(digests: list[str], data: st.DataObject) -> None:
    assert batch_digest(data.draw(st.permutations(digests))) == batch_digest(digests)
    if digests:
        assert batch_digest([*digests, digests[0]]) != batch_digest(digests)
    else:
        assert batch_digest(digests) == ""


@pytest.mark.parametrize(
    "contract",
    [
        EnvironmentContract("box", (2, 3), ActionKind.BOX, 2, (-1.0, -np.inf), (1.0, np.inf), horizon=9),
        EnvironmentContract("disc", (4,), ActionKind.DISCRETE, 3, action_start=-1, horizon=9, control_timestep=0.05),
        EnvironmentContract("formula", (1,), ActionKind.DISCRETE, 2, reward=RewardContract("1 for each step")),
        EnvironmentContract(
            "measured", (1,), ActionKind.DISCRETE, 2, reward=RewardContract("x", (-1.5, 0.0), (0.0, 0.0))
        ),
    ],
)
def test_contracts_round_trip(contract: EnvironmentContract) -> None:
    assert contract_from_message(contract_to_message(contract)) == contract
