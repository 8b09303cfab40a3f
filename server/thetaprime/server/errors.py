"""The errors of the service, and the table that maps them to gRPC status codes.

::

    ServiceError
    ├── InvalidRequestError    INVALID_ARGUMENT     BadRequest: path to the field
    ├── NotFoundError          NOT_FOUND            ResourceInfo
    ├── ReusedIdError          ALREADY_EXISTS       ErrorInfo: an id reused for other content
    ├── PreconditionError      FAILED_PRECONDITION  ErrorInfo: reason and metadata
    ├── RoundMismatchError     ABORTED              ErrorInfo: the current round
    ├── CorruptDataError       DATA_LOSS            ErrorInfo
    ├── QuotaError             RESOURCE_EXHAUSTED   QuotaFailure, ErrorInfo: a retry does not help
    │   └── TenantQuotaError   RESOURCE_EXHAUSTED   as QuotaError: the tenant has stored too much
    ├── BusyError              RESOURCE_EXHAUSTED   RetryInfo
    │   └── RateLimitError     RESOURCE_EXHAUSTED   RetryInfo, ErrorInfo: the tenant's rate
    ├── StalledUploadError     DEADLINE_EXCEEDED    ErrorInfo
    ├── StalledRequestError    DEADLINE_EXCEEDED    ErrorInfo
    ├── UnauthenticatedError   UNAUTHENTICATED      ErrorInfo: the call has no valid token
    ├── StoreFailedError       UNAVAILABLE          ErrorInfo, RetryInfo: the call changed nothing
    └── UnavailableError       UNAVAILABLE          RetryInfo

`WireError` becomes INVALID_ARGUMENT, and its subclass `DigestMismatchError` DATA_LOSS. Any other exception is a fault
of the server: INTERNAL, with an error id; the log has the traceback under this id.
"""

from collections.abc import Mapping
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from thetaprime.wire import DigestMismatchError, WireError

DOMAIN: Final = "thetaprime"
"""`ErrorInfo.domain` of every error."""
_SHOWN: Final = 80


def shown(text: str) -> str:
    """Returns a client's text for use in a message: quoted, and truncated to 80 characters."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


class StartupError(RuntimeError):
    """The server cannot start; the message is one line that says why."""


class ServiceError(Exception):
    """Base of the errors that refuse a call."""

    def __init__(self, message: str, *details: Message) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidRequestError(ServiceError):
    """A field of the request is invalid, independent of the session's state."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", _bad_request(field, problem))


class NotFoundError(ServiceError):
    """The resource does not exist, or has expired."""

    def __init__(self, resource_type: str, name: str) -> None:
        message = f"there is no {resource_type} {shown(name)}"
        resource = error_details_pb2.ResourceInfo(
            resource_type=resource_type, resource_name=name[:_SHOWN], description=message
        )
        super().__init__(message, resource)


class ReusedIdError(ServiceError):
    """An idempotency id was reused for other content."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, _error_info(reason, {}))


class PreconditionError(ServiceError):
    """The session's state does not allow the call; the reason says why."""

    def __init__(self, reason: str, message: str, **metadata: object) -> None:
        super().__init__(message, _error_info(reason, metadata))


class RoundMismatchError(ServiceError):
    """The call names another round than the session's current one."""

    def __init__(self, came: int, current: int) -> None:
        super().__init__(
            f"the call names round {came}; the session is at round {current}",
            _error_info("ROUND_MISMATCH", {"round": current}),
        )


class CorruptDataError(ServiceError):
    """Bytes do not match their digest."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, _error_info(reason, {}))


class QuotaError(ServiceError):
    """The call exceeds a limit; a retry would be refused again."""

    def __init__(self, reason: str, subject: str, came: int, limit: int) -> None:
        message = f"{subject}: {came}; at most {limit} are allowed"
        violation = error_details_pb2.QuotaFailure.Violation(subject=subject, description=message)
        super().__init__(
            message,
            error_details_pb2.QuotaFailure(violations=[violation]),
            _error_info(reason, {"came": came, "limit": limit}),
        )


class TenantQuotaError(QuotaError):
    """The call exceeds a quota of what the tenant has stored; expiry makes room."""


class BusyError(ServiceError):
    """The server is busy; a retry may succeed."""

    def __init__(self, message: str, retry_after: float, *details: Message) -> None:
        super().__init__(message, _retry_info(retry_after), *details)


class RateLimitError(BusyError):
    """The tenant has reached a rate; a retry succeeds once it is below."""

    def __init__(self, reason: str, subject: str, limit: float, retry_after: float) -> None:
        message = f"the tenant may make {limit:g} {subject} per second; retry in {retry_after:.3g} s"
        super().__init__(message, retry_after, _error_info(reason, {"limit": f"{limit:g}"}))


class StalledUploadError(ServiceError):
    """An upload paused for longer than `upload_idle`, or took longer than `upload_seconds`."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, _error_info("UPLOAD_STALLED", {}))


class StalledRequestError(ServiceError):
    """A request did not arrive within `request_seconds`."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, _error_info("REQUEST_STALLED", {}))


class UnauthenticatedError(ServiceError):
    """The call has no valid token."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, _error_info(reason, {}))
        self.reason = reason


class StoreFailedError(ServiceError):
    """The store cannot make the call's data durable."""

    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(f"the store failed: {problem}", _error_info(reason, {}), _retry_info(1.0))


class UnavailableError(ServiceError):
    """This server accepts no calls now; another one, or this one later, may."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message, _retry_info(retry_after))


class TransientError(UnavailableError):
    """A transaction ended with its connection, or because of another transaction: it may succeed at once.

    Whether it was committed is unknown, where the connection was lost at its end.
    """


_CODES: Final[dict[type[ServiceError], grpc.StatusCode]] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    ReusedIdError: grpc.StatusCode.ALREADY_EXISTS,
    PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    RoundMismatchError: grpc.StatusCode.ABORTED,
    CorruptDataError: grpc.StatusCode.DATA_LOSS,
    QuotaError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TenantQuotaError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RateLimitError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StalledUploadError: grpc.StatusCode.DEADLINE_EXCEEDED,
    StalledRequestError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    StoreFailedError: grpc.StatusCode.UNAVAILABLE,
    TransientError: grpc.StatusCode.UNAVAILABLE,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}


def error_status(error: Exception, error_id: str) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """Returns the code and the status of an error.

    Args:
        error: the exception that the call raised.
        error_id: identifies an unexpected exception, whose text the reply leaves out.
    """
    if isinstance(error, DigestMismatchError):
        error = CorruptDataError("DIGEST_MISMATCH", str(error))
    elif isinstance(error, WireError):
        error = InvalidRequestError(error.field, error.problem)
    if isinstance(error, ServiceError):
        code, message, details = _CODES[type(error)], error.message, error.details
    else:
        code, message = grpc.StatusCode.INTERNAL, f"internal error {error_id}; see the server's log"
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
    texts = {key: str(value) for key, value in metadata.items()}
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=texts)


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)
