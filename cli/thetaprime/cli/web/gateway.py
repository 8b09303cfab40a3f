"""What the demo's page asks for: browsers do not speak gRPC, so their calls are passed on by a client of ours.

| request | what |
|---|---|
| ``POST /api/sessions`` | opens a session; answers with its id and θ |
| ``POST /api/sessions/<id>/uploads`` | trajectories of the current round |
| ``POST /api/sessions/<id>/rounds`` | takes one step; answers with θ′ and the report |

Bodies are JSON; arrays lie in them as base64 of little-endian float32.
"""

import base64
import binascii
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thetaprime import wire
from thetaprime.client import AdaptedPolicy, Client, Session, ThetaPrimeError

_MOST_SESSIONS: Final = 100
_MOST_TRAJECTORIES: Final = 200


class RequestError(Exception):
    """A request that cannot be served.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gateway:
    """The sessions of a page's visitors. Safe to use from several threads.

    Args:
        client: of the server that adapts.
        meta_policy: what it adapts.
    """

    def __init__(self, client: Client, meta_policy: str) -> None:
        self._client = client
        self._meta_policy = meta_policy
        self._sessions: OrderedDict[str, tuple[Session, threading.Lock]] = OrderedDict()
        self._lock = threading.Lock()

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """Answers a request.

        Args:
            path: below ``/api/``.
            body: JSON, or nothing.

        Raises:
            RequestError: there is nothing by this path, the body is not what it has to be, or the server refuses.
        """
        try:
            match path.split("/"):
                case ["sessions"]:
                    return self._open()
                case ["sessions", session_id, "uploads"]:
                    return self._upload(session_id, body)
                case ["sessions", session_id, "rounds"]:
                    return self._adapt(session_id)
        except ThetaPrimeError as error:
            raise RequestError(502, str(error)) from error
        raise RequestError(404, f"nothing to be had by /api/{path[:80]}")

    def _open(self) -> dict[str, Any]:
        session = self._client.create_session(self._meta_policy)
        with self._lock:
            self._sessions[session.id] = session, threading.Lock()
            surplus = len(self._sessions) - _MOST_SESSIONS
            oldest = [self._sessions.popitem(last=False)[1] for _ in range(surplus)]
        for each, lock in oldest:
            with lock:
                each.close()
        return {"session_id": session.id, "policy": _policy(session.policy)}

    def _upload(self, session_id: str, body: bytes) -> dict[str, Any]:
        session, lock = self._find(session_id)
        trajectories = _trajectories(body, session.policy)
        with lock:
            receipt = session.upload(trajectories)
        return {"sha256": receipt.sha256, "steps": receipt.batch.steps, "bytes": len(wire.pack(trajectories))}

    def _adapt(self, session_id: str) -> dict[str, Any]:
        session, lock = self._find(session_id)
        with lock:
            policy = session.adapt()
            report = session.report
        if report is None:
            raise RequestError(502, "the server took a step and reported nothing")
        numbers = {
            name: getattr(report, name)
            for name in ("round", "mean_return", "std_return", "kl_divergence", "gradient_norm", "seconds")
        }
        return {"policy": _policy(policy), "report": numbers}

    def _find(self, session_id: str) -> tuple[Session, threading.Lock]:
        with self._lock:
            found = self._sessions.get(session_id)
        if found is None:
            raise RequestError(404, "no such session: this page was left for too long, or its server started anew")
        return found


def _policy(policy: AdaptedPolicy) -> dict[str, Any]:
    # Browsers' onnxruntime does not show a file's metadata, so they lie beside it.
    return {
        "policy_id": policy.policy_id,
        "sha256": policy.sha256,
        "metadata": dict(policy.metadata),
        "onnx": base64.b64encode(policy.onnx).decode(),
    }


def _trajectories(body: bytes, policy: AdaptedPolicy) -> list[wire.Trajectory]:
    try:
        fields = json.loads(body)
        given = fields["trajectories"]
        policy_id = str(fields["policy_id"])
        if not 0 < len(given) <= _MOST_TRAJECTORIES:
            raise RequestError(400, f"trajectories: {len(given)}; expected 1 to {_MOST_TRAJECTORIES}")
        return [_trajectory(each, policy_id, policy.contract) for each in given]
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise RequestError(400, f"the body is not what a page sends: {error!r}"[:300]) from error


def _trajectory(fields: Mapping[str, Any], policy_id: str, contract: wire.EnvironmentContract) -> wire.Trajectory:
    size = int(np.prod(contract.observation_shape))
    return wire.Trajectory(
        observations=_floats(fields["observations"]).reshape(-1, size),
        actions=_floats(fields["actions"]).reshape(-1, contract.action_size),
        rewards=_floats(fields["rewards"]),
        terminated=fields["terminated"] is True,
        truncated=fields["truncated"] is True,
        final_observation=_floats(fields["final_observation"]),
        policy_id=policy_id,
    )


def _floats(text: str) -> npt.NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
