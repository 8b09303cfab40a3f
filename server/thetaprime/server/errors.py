"""What the service can refuse, and the one table from there to canonical status codes.

::

    ServiceError
    ├── InvalidRequestError    INVALID_ARGUMENT     BadRequest: path to the field
    ├── NotFoundError          NOT_FOUND            ResourceInfo
    ├── ReusedIdError          ALREADY_EXISTS       ErrorInfo: an id sent again with other content
    ├── PreconditionError      FAILED_PRECONDITION  ErrorInfo: reason and metadata
    ├── RoundMismatchError     ABORTED              ErrorInfo: the current round
    ├── CorruptDataError       DATA_LOSS            ErrorInfo
    ├── QuotaError             RESOURCE_EXHAUSTED   QuotaFailure, ErrorInfo: sending it again does not help
    ├── BusyError              RESOURCE_EXHAUSTED   RetryInfo
    ├── StalledUploadError     DEADLINE_EXCEEDED    ErrorInfo
    ├── UnauthenticatedError   UNAUTHENTICATED      ErrorInfo: who calls is not known
    ├── StoreFailedError       UNAVAILABLE          ErrorInfo, RetryInfo: nothing was stored, nothing was lost
    └── UnavailableError       UNAVAILABLE          RetryInfo

`WireError` stands for INVALID_ARGUMENT and its `DigestMismatchError` for DATA_LOSS. Whatever else is raised is a
fault of the server: INTERNAL, with an id under which the log has the traceback.
"""

from collections.abc import Mapping
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from thetaprime.wire import DigestMismatchError, WireError

DOMAIN: Final = "thetaprime"
"""`ErrorInfo.domain` of every error of this service."""
_SHOWN: Final = 80


def shown(text: str) -> str:
    """A client's text as it may stand in a message: quoted, and cut where it is long."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


class StartupError(RuntimeError):
    """The server cannot start; the message is one line that says why."""


class ServiceError(Exception):
    """Base of everything that a call may be refused with."""

    def __init__(self, message: str, *details: Message) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidRequestError(ServiceError):
    """A field of the request breaks the contract, whatever the state of the session."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", _bad_request(field, problem))


class NotFoundError(ServiceError):
    """There is no such thing, or it has expired."""

    def __init__(self, resource_type: str, name: str) -> None:
        message = f"there is no {resource_type} {shown(name)}"
        resource = error_details_pb2.ResourceInfo(
            resource_type=resource_type, resource_name=name[:_SHOWN], description=message
        )
        super().__init__(message, resource)


class ReusedIdError(ServiceError):
    """An id that makes a call repeatable was sent again with other content."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, _error_info(reason, {}))


class PreconditionError(ServiceError):
    """The session is not in a state that allows the call; the reason says what is in the way."""

    def __init__(self, reason: str, message: str, **metadata: object) -> None:
        super().__init__(message, _error_info(reason, metadata))


class RoundMismatchError(ServiceError):
    """The call is about another round than the session's current one."""

    def __init__(self, came: int, current: int) -> None:
        super().__init__(
            f"round {came} was named; the session is at round {current}",
            _error_info("ROUND_MISMATCH", {"round": current}),
        )


class CorruptDataError(ServiceError):
    """Bytes are not the ones that their digest stands for."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, _error_info(reason, {}))


class QuotaError(ServiceError):
    """More than the server allows; the same call will be refused again."""

    def __init__(self, reason: str, subject: str, came: int, limit: int) -> None:
        message = f"{subject}: {came}; at most {limit} are allowed"
        violation = error_details_pb2.QuotaFailure.Violation(subject=subject, description=message)
        super().__init__(
            message,
            error_details_pb2.QuotaFailure(violations=[violation]),
            _error_info(reason, {"came": came, "limit": limit}),
        )


class BusyError(ServiceError):
    """The server has its hands full; the same call may succeed later."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message, _retry_info(retry_after))


class StalledUploadError(ServiceError):
    """An upload paused, or took, for longer than the server holds memory for it."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, _error_info("UPLOAD_STALLED", {}))


class UnauthenticatedError(ServiceError):
    """Nobody knows whose call it is."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, _error_info(reason, {}))
        self.reason = reason


class StoreFailedError(ServiceError):
    """The disk does not take what has to be durable before the call may succeed."""

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(f"the store failed: {problem}", _error_info(reason, {}), _retry_info(1.0))


class UnavailableError(ServiceError):
    """The server takes no calls at the moment; another one, or this one later, may."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message, _retry_info(retry_after))


_CODES: Final[dict[type[ServiceError], grpc.StatusCode]] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    ReusedIdError: grpc.StatusCode.ALREADY_EXISTS,
    PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    RoundMismatchError: grpc.StatusCode.ABORTED,
    CorruptDataError: grpc.StatusCode.DATA_LOSS,
    QuotaError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StalledUploadError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    StoreFailedError: grpc.StatusCode.UNAVAILABLE,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}


def error_status(error: Exception, error_id: str) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """The status that a call ends with.

    Args:
        error: what the call raised.
        error_id: stands in the reply instead of an error that the service did not mean to raise.
    """
    if isinstance(error, DigestMismatchError):
        error = CorruptDataError("DIGEST_MISMATCH", str(error))
    elif isinstance(error, WireError):
        error = InvalidRequestError(error.field, error.problem)
    if isinstance(error, ServiceError):
        code, message, details = _CODES[type(error)], error.message, error.details
    else:
        code, message = grpc.StatusCode.INTERNAL, f"internal error {error_id}; the server's log tells more"
        details = (error_details_pb2.RequestInfo(request_id=error_id),)
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return code, status


def _bad_request(field: str, problem: str) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=problem)
    return error_details_pb2.BadRequest(field_violations=[violation])


def _error_info(reason: str, metadata: Mapping[str, object]) -> error_details_pb2.ErrorInfo:
    words = {key: str(value) for key, value in metadata.items()}
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=words)


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)
