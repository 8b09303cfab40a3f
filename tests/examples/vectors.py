"""Writes docs/test-vectors.json and the worked example of docs/write-a-client.md: what our own code sends and answers.

Everything in them is exact arithmetic, so that every machine writes the same bytes. Policies are left out for that
reason: torch's last bits depend on the processor, and every server gives out golden vectors of its own.
"""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from thetaprime import wire
from thetaprime.client._policy.inference import Exploration
from thetaprime.server import errors
from thetaprime.v1 import trajectory_pb2 as pb

ROOT: Final = Path(__file__).resolve().parents[2]
VECTORS: Final = ROOT / "docs" / "test-vectors.json"
PAGE: Final = ROOT / "docs" / "write-a-client.md"
_OPEN, _CLOSE = "<!-- worked example -->\n", "<!-- /worked example -->"
_ABOUT: Final = (
    "What a client must compute, made by ThetaPrime's own code; docs/write-a-client.md explains it. Arrays lie flat, "
    "in row-major order; elements of integer arrays are strings, since not every JSON reader keeps 64 bits."
)

Array = npt.NDArray[Any]


def main() -> None:
    """Writes both files."""
    for path, text in written().items():
        path.write_text(text)
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")


def written() -> dict[Path, str]:
    """The two files as they should be."""
    before, _, rest = PAGE.read_text().partition(_OPEN)
    _, _, after = rest.partition(_CLOSE)
    page = f"{before}{_OPEN}```text\n{worked_example()}\n```\n{_CLOSE}{after}"
    return {VECTORS: _lines(vectors()), PAGE: page}


def _lines(found: dict[str, Any]) -> str:
    """JSON with one vector a line, so that a change shows which it is."""
    parts = []
    for key, value in found.items():
        each = [json.dumps(item, ensure_ascii=False) for item in value] if isinstance(value, list) else None
        text = json.dumps(value, ensure_ascii=False) if each is None else "[\n" + ",\n".join(each) + "\n]"
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def vectors() -> dict[str, Any]:
    """All test vectors, for JSON."""
    payloads = [_payload(name, each) for name, each in _uploads().items()]
    digests = [payload["footer"]["sha256"] for payload in payloads]
    batches = [[], digests[:1], digests, digests[::-1], [digests[0], digests[0]]]
    return {
        "about": _ABOUT,
        "arrays": [_array(name, each) for name, each in _arrays().items()],
        "payloads": payloads,
        "batches": [{"uploads": uploads, "sha256": wire.batch_digest(uploads)} for uploads in batches],
        "box_actions": list(_box_actions()),
        "errors": list(_errors()),
    }


def array_json(array: Array) -> dict[str, Any]:
    """An array as it stands in the vectors."""
    flat = array.ravel().tolist()
    name = pb.DataType.Name(wire.array_to_message(array).data_type)
    values = flat if array.dtype.kind == "f" else [str(value) for value in flat]
    return {"data_type": name, "shape": list(array.shape), "values": values}


def trajectory_json(trajectory: wire.Trajectory) -> dict[str, Any]:
    """A trajectory as it stands in the vectors."""
    return {
        "policy_id": trajectory.policy_id,
        "observations": array_json(trajectory.observations),
        "actions": array_json(trajectory.actions),
        "rewards": array_json(trajectory.rewards),
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
        "final_observation": array_json(trajectory.final_observation),
    }


def example() -> wire.Trajectory:
    """The trajectory of the worked example: two steps, two observed numbers, one action dimension."""
    return wire.Trajectory(
        observations=np.array([[0.0, 0.5], [1.0, -2.0]], np.float32),
        actions=np.array([[0.25], [-1.5]], np.float32),
        rewards=np.array([-1.0, 2.0], np.float32),
        terminated=False,
        truncated=True,
        final_observation=np.array([0.1, 3.0], np.float32),
        policy_id="theta",
    )


def worked_example() -> str:
    """The payload of the example, byte by byte."""
    payload, message = wire.pack([example()]), wire.trajectory_to_message(example())
    body = message.SerializeToString()
    lines = [_line(payload[: len(payload) - len(body)], f"length of the message: {len(body)} bytes, as a varint")]
    lines += _annotated(message, "")
    shown = "".join(line.partition("  #")[0] for line in lines).replace(" ", "").replace("\n", "")
    assert shown == payload.hex(), "the annotated bytes are not the payload"
    digest = wire.sha256_hex(payload)
    lines += [
        "",
        f"payload: {len(payload)} bytes",
        f"sha256:  {digest}",
        f"batch:   {wire.batch_digest([digest])}, where this is the round's only upload",
    ]
    return "\n".join(lines)


def _annotated(message: Message, indent: str) -> Iterator[str]:
    """A line for each field, a tag and its length before what is nested."""
    for field, value in message.ListFields():
        alone = type(message)()
        if isinstance(value, Message):
            getattr(alone, field.name).CopyFrom(value)
            data = alone.SerializeToString()
            body = value.SerializeToString()
            yield _line(data[: len(data) - len(body)], f"{indent}{field.name}: {len(body)} bytes")
            yield from _annotated(value, indent + "  ")
            continue
        if isinstance(value, bool | int | str | bytes):
            setattr(alone, field.name, value)
        else:
            getattr(alone, field.name).extend(value)
        yield _line(alone.SerializeToString(), f"{indent}{field.name} = {_shown(message, field, value)}")


def _shown(message: Message, field: Any, value: Any) -> str:
    if field.enum_type is not None:
        return f"{field.enum_type.values_by_number[value].name} ({value})"
    if isinstance(message, pb.Array) and field.name == "data":
        numbers = wire.array_from_message(message, "data").ravel().tolist()
        return ", ".join(f"{number:g}" for number in numbers)
    return json.dumps(list(value) if not isinstance(value, bool | str) else value)


def _line(data: bytes, comment: str) -> str:
    return f"{data.hex(' '):<56}  # {comment}"


def _arrays() -> dict[str, Array]:
    return {
        "a float32 matrix": np.array([[0.0, 0.1, -0.0], [1.5, -3.25, 3.4028234663852886e38]], np.float32),
        "a float64 vector": np.array([0.1, -1e300, 5e-324], np.float64),
        "an int32 vector": np.array([0, 1, -(2**31)], np.int32),
        "an int64 vector": np.array([2**53 + 1, -(2**63)], np.int64),
        "a scalar": np.array(0.5, np.float32),
        "no steps": np.zeros((0, 2), np.float32),
        "three axes": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
        "300 elements: lengths and axes of two bytes": np.arange(300, dtype=np.float32),
    }


def _array(name: str, array: Array) -> dict[str, Any]:
    message = wire.array_to_message(array)
    return {"name": name, **array_json(array), "data": message.data.hex(), "message": message.SerializeToString().hex()}


def _uploads() -> dict[str, list[wire.Trajectory]]:
    discrete = wire.Trajectory(
        observations=np.arange(12, dtype=np.float64).reshape(2, 2, 3) / 8,
        actions=np.array([3, 0], np.int64),
        rewards=np.array([0.0, 1.0], np.float64),
        terminated=True,
        truncated=False,
        final_observation=np.ones((2, 3), np.float64),
        policy_id="7f" * 32,
    )
    steps = 50
    longer = wire.Trajectory(
        observations=np.arange(2 * steps, dtype=np.float32).reshape(steps, 2) / 4,
        actions=np.arange(steps, dtype=np.float32).reshape(steps, 1) / -8,
        rewards=np.zeros(steps, np.float32),
        terminated=True,
        truncated=True,
        final_observation=np.array([-1.0, 1.0], np.float32),
        policy_id="θ",
    )
    return {
        "the worked example": [example()],
        "discrete actions, observations of two axes, float64": [discrete],
        "a length of two bytes, and an id that is not ASCII": [longer],
        "several trajectories": [example(), longer, example()],
    }


def _payload(name: str, trajectories: list[wire.Trajectory]) -> dict[str, Any]:
    payload = wire.pack(trajectories)
    return {
        "name": name,
        "trajectories": [trajectory_json(each) for each in trajectories],
        "payload": payload.hex(),
        "footer": {
            "trajectories": len(trajectories),
            "steps": sum(len(each) for each in trajectories),
            "sha256": wire.sha256_hex(payload),
        },
    }


def _box_actions() -> Iterator[dict[str, Any]]:
    infinity = float("inf")
    sampled = np.array([-1.75, -1.0, -0.3, 0.0, 0.7, 1.0, 2.5], np.float32)
    for low, high in ((-0.1, 0.1), (0.0, 10.0), (-3.0, 5.0), (-infinity, infinity), (0.0, infinity)):
        contract = wire.EnvironmentContract("example", (1,), wire.ActionKind.BOX, 1, (low,), (high,), horizon=1)
        taken = Exploration(contract, np.zeros(1, np.float32)).to_environment(sampled[:, None])[:, 0]
        yield {
            # JSON has no infinity: null stands where there is no bound.
            "low": low if np.isfinite(low) else None,
            "high": high if np.isfinite(high) else None,
            "recorded": sampled.tolist(),
            "environment": taken.tolist(),
        }


def _errors() -> Iterator[dict[str, Any]]:
    """Refusals as the server writes them, and what a client is to read from each."""
    refusals: list[tuple[Exception, dict[str, Any]]] = [
        (
            wire.WireError("trajectories[3].rewards[17]", "nan is not a finite float32"),
            {
                "violations": [
                    {"field": "trajectories[3].rewards[17]", "description": "nan is not a finite float32"},
                ]
            },
        ),
        (wire.DigestMismatchError("footer.sha256", "another was named"), {"reason": "DIGEST_MISMATCH"}),
        (errors.RoundMismatchError(0, 2), {"reason": "ROUND_MISMATCH", "metadata": {"round": "2"}}),
        (
            errors.PreconditionError("BATCH_CHANGED", "the batch has grown", batch_sha256="ab" * 32),
            {"reason": "BATCH_CHANGED", "metadata": {"batch_sha256": "ab" * 32}},
        ),
        (
            errors.QuotaError("ROUND_FULL", "uploads of the round", 1001, 1000),
            {"reason": "ROUND_FULL", "metadata": {"came": "1001", "limit": "1000"}},
        ),
        (errors.BusyError("too many uploads are arriving at once", retry_after=1.5), {"retry_after": 1.5}),
        (errors.UnavailableError("the server is shutting down", retry_after=1.0), {"retry_after": 1.0}),
        (errors.NotFoundError("session", "nowhere"), {}),
    ]
    for refusal, told in refusals:
        code, status = errors.error_status(refusal, "")
        yield {
            "code": code.name,
            "message": status.message,
            "grpc_status_details_bin": base64.b64encode(_settled(status)).decode(),
            **{"violations": [], "reason": "", "metadata": {}, "retry_after": None, **told},
        }


def _settled(status: status_pb2.Status) -> bytes:
    """A status with its maps in one order, where the server leaves that to chance."""
    for packed in status.details:
        detail = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])()
        assert packed.Unpack(detail)
        packed.Pack(detail, deterministic=True)
    settled: bytes = status.SerializeToString(deterministic=True)
    return settled


if __name__ == "__main__":
    main()
