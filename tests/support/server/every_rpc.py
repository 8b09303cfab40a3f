"""Every RPC of the contract, as a call for one session."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from thetaprime import wire
from thetaprime.v1 import adaptation_service_pb2 as service_pb
from thetaprime.v1 import meta_policy_service_pb2 as meta_pb

if TYPE_CHECKING:
    from tests.support.server.service import Service

Call = Callable[["Service", str], Any]


def _upload(service: "Service", session_id: str, upload_id: str = "u", payload: bytes = b"\x00") -> Any:
    return service.send(wire.iter_upload(session_id, upload_id, 0, payload, 1, 1))


ABOUT_A_SESSION: Final[Mapping[str, Call]] = {
    "UploadTrajectories": _upload,
    "Adapt": lambda service, session_id: service.adapt(session_id, 0, ""),
    "GetSession": lambda service, session_id: service.get(session_id),
    "GetPolicy": lambda service, session_id: service.stub.GetPolicy(service_pb.GetPolicyRequest(session_id=session_id)),
    "GetPolicy of a round": lambda service, session_id: service.stub.GetPolicy(
        service_pb.GetPolicyRequest(session_id=session_id, round=1)
    ),
    "ExplainRound": lambda service, session_id: service.stub.ExplainRound(
        service_pb.ExplainRoundRequest(session_id=session_id)
    ),
    "DiscardUploads": lambda service, session_id: service.stub.DiscardUploads(
        service_pb.DiscardUploadsRequest(session_id=session_id)
    ),
    "CloseSession": lambda service, session_id: service.stub.CloseSession(
        service_pb.CloseSessionRequest(session_id=session_id)
    ),
}
ALL: Final[Mapping[str, Call]] = {
    **ABOUT_A_SESSION,
    "CreateSession": lambda service, _: service.create(),
    "ListSessions": lambda service, _: service.stub.ListSessions(service_pb.ListSessionsRequest()),
    "ListMetaPolicies": lambda service, _: service.meta_stub.ListMetaPolicies(meta_pb.ListMetaPoliciesRequest()),
    "GetMetaPolicy": lambda service, _: service.meta_stub.GetMetaPolicy(
        meta_pb.GetMetaPolicyRequest(name="point-navigation")
    ),
}
"""Calls by name; each takes a client and a session id."""
