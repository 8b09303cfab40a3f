"""Forwards the page's HTTP requests to the gRPC server: browsers cannot call gRPC.

| request | effect | response |
|---|---|---|
| ``POST /api/sessions`` | creates a session | its id, and θ |
| ``POST /api/sessions/<id>/uploads`` | uploads trajectories of the current round | the receipt |
| ``POST /api/sessions/<id>/rounds`` | takes one step | θ′, the report with its verdict, and the best round |

Bodies are JSON. Arrays are base64 of little-endian float32.
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
from thetaprime.client import AdaptedPolicy, Client, Session, ThetaPrimeError, Verdict

_MAX_SESSIONS: Final = 100
_MAX_TRAJECTORIES: Final = 200


class RequestError(Exception):
    """A request that failed.

    Attributes:
        status: HTTP status code.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gateway:
    """Forwards requests, and keeps the sessions of the page's visitors. Thread-safe.

    Args:
        client: client of the server that adapts.
        meta_policy: the meta-policy to adapt.
    """

    def __init__(self, client: Client, meta_policy: str) -> None:
        self._client = client
        self._meta_policy = meta_policy
        self._sessions: OrderedDict[str, tuple[Session, threading.Lock]] = OrderedDict()
        self._lock = threading.Lock()

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """Returns the response to a request.

        Args:
            path: the path below ``/api/``.
            body: JSON, or empty.

        Raises:
            RequestError: the path is unknown, the body is malformed, or the server refused the call.
        """
        try:
            match path.split("/"):
                case ["sessions"]:
                    return self._create_session()
                case ["sessions", session_id, "uploads"]:
                    return self._upload(session_id, body)
                case ["sessions", session_id, "rounds"]:
                    return self._adapt(session_id)
        except ThetaPrimeError as error:
            raise RequestError(502, str(error)) from error
        raise RequestError(404, f"no such path: /api/{path[:80]}")

    def _create_session(self) -> dict[str, Any]:
        session = self._client.create_session(self._meta_policy)
        with self._lock:
            self._sessions[session.id] = session, threading.Lock()
            excess = len(self._sessions) - _MAX_SESSIONS
            oldest = [self._sessions.popitem(last=False)[1] for _ in range(excess)]
        for each, lock in oldest:
            with lock:
                each.close()
        return {"session_id": session.id, "policy": _policy_json(session.policy)}

    def _upload(self, session_id: str, body: bytes) -> dict[str, Any]:
        session, lock = self._find(session_id)
        trajectories = _parse_trajectories(body, session.policy)
        with lock:
            receipt = session.upload(trajectories)
        return {"sha256": receipt.sha256, "steps": receipt.batch.steps, "bytes": len(wire.pack(trajectories))}

    def _adapt(self, session_id: str) -> dict[str, Any]:
        session, lock = self._find(session_id)
        with lock:
            policy = session.adapt()
            report = session.report
        if report is None:
            raise RequestError(502, "the server took a step without a report")
        numbers = {
            name: getattr(report, name)
            for name in ("round", "mean_return", "std_return", "kl_divergence", "gradient_norm", "seconds")
        }
        best = None if session.best is None else session.best.round
        late = None if report.discount == session.meta_policy.discount else report.discount
        return {
            "policy": _policy_json(policy),
            "report": {**numbers, "late_discount": late, "verdict": _verdict_json(report.verdict)},
            "best_round": best,
        }

    def _find(self, session_id: str) -> tuple[Session, threading.Lock]:
        with self._lock:
            entry = self._sessions.get(session_id)
        if entry is None:
            raise RequestError(404, "no such session: it was replaced by newer ones, or the server restarted")
        return entry


def _policy_json(policy: AdaptedPolicy) -> dict[str, Any]:
    # onnxruntime-web does not expose a file's metadata.
    return {
        "policy_id": policy.policy_id,
        "sha256": policy.sha256,
        "metadata": dict(policy.metadata),
        "onnx": base64.b64encode(policy.onnx).decode(),
    }


def _verdict_json(verdict: Verdict | None) -> dict[str, str] | None:
    """Returns a verdict as the page shows it; None from a server that gives none."""
    if verdict is None:
        return None
    return {"decision": verdict.decision, "text": str(verdict).removeprefix(verdict.decision).lstrip(":. ")}


def _parse_trajectories(body: bytes, policy: AdaptedPolicy) -> list[wire.Trajectory]:
    try:
        fields = json.loads(body)
        trajectories = fields["trajectories"]
        policy_id = str(fields["policy_id"])
        if not 0 < len(trajectories) <= _MAX_TRAJECTORIES:
            raise RequestError(400, f"trajectories: {len(trajectories)}; expected 1 to {_MAX_TRAJECTORIES}")
        return [_parse_trajectory(each, policy_id, policy.contract) for each in trajectories]
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise RequestError(400, f"malformed body: {error!r}"[:300]) from error


def _parse_trajectory(fields: Mapping[str, Any], policy_id: str, contract: wire.EnvironmentContract) -> wire.Trajectory:
    size = int(np.prod(contract.observation_shape))
    return wire.Trajectory(
        observations=_decode(fields["observations"]).reshape(-1, size),
        actions=_decode(fields["actions"]).reshape(-1, contract.action_size),
        rewards=_decode(fields["rewards"]),
        terminated=fields["terminated"] is True,
        truncated=fields["truncated"] is True,
        final_observation=_decode(fields["final_observation"]),
        policy_id=policy_id,
    )


def _decode(text: str) -> npt.NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
