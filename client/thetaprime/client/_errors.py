"""The exceptions of the client, as one tree.

    ThetaPrimeError
    ├── UnreachableError (ConnectionError)        no server answers at the address, or it is shutting down
    ├── DeadlineError (TimeoutError)              the server did not answer within the timeout
    ├── NotFoundError (LookupError)               the meta-policy, session or round does not exist
    ├── InvalidInputError (ValueError)            an argument, a trajectory or an environment is invalid
    ├── PreconditionError (RuntimeError)          the session's state does not allow the call
    │   └── StaleRoundError                       the session is in another round
    ├── LimitError (RuntimeError)                 a limit of the server is reached
    ├── AccessError (PermissionError)             the server refuses this client
    ├── DataLossError (OSError)                   bytes were damaged in transit, or in the server's store
    ├── CollectionError (RuntimeError)            an environment or a collector failed
    ├── PolicyVerificationError (ValueError)      an ONNX policy fails its verification
    └── ServerError (RuntimeError)                the server failed, or does not serve this contract

Every call is safe to repeat after `UnreachableError`, `DeadlineError`, `LimitError`, `DataLossError` or `ServerError`:
a repeated call with equal arguments takes effect once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from thetaprime import wire

MEMORY_UNSUPPORTED: Final = "MEMORY_UNSUPPORTED"
"""The reason of a refusal: no gradient step goes through a memory yet."""


class ThetaPrimeError(Exception):
    """Base class of the client's errors.

    Attributes:
        session_id: the session that `Client.adapt` or `Session.run` left open, for `Client.resume`; None without one.
    """

    session_id: str | None = None


class UnreachableError(ThetaPrimeError, ConnectionError):
    """No server answers at the address, or it is shutting down.

    Attributes:
        retry_after: seconds until the server asks for a retry; None if the server does not say.
        reason: the reason of a server that answers and cannot work, in capitals (``STORE_FULL``); empty where no server
            answers, or where it is shutting down.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason


class DeadlineError(ThetaPrimeError, TimeoutError):
    """The server did not answer within the timeout. The call may have taken effect, and is safe to repeat."""


class NotFoundError(ThetaPrimeError, LookupError):
    """The meta-policy, session or round does not exist."""


class Violation(NamedTuple):
    """One invalid field of an input."""

    field: str
    """Path of the field, down to the step: ``trajectories[3].rewards[17]``."""
    description: str
    """The value, and the expected value."""


class InvalidInputError(ThetaPrimeError, ValueError):
    """An argument, a trajectory or an environment is invalid.

    Attributes:
        violations: the invalid fields, each with its value and the expected value.
    """

    def __init__(self, message: str, *, violations: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(Violation(*violation) for violation in violations)

    @classmethod
    def at(cls, field: str, description: str) -> "InvalidInputError":
        """Returns the error for one field."""
        return cls(f"{field}: {description}", violations=[(field, description)])


class PreconditionError(ThetaPrimeError, RuntimeError):
    """The session's state, or the uploaded data, does not allow the call.

    Attributes:
        reason: the server's reason, in capitals (``OFF_POLICY``, ``SESSION_CLOSED``); may be empty.
        details: the server's details of the reason, by name.
    """

    def __init__(self, message: str, *, reason: str = "", details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.details = dict(details or {})


class StaleRoundError(PreconditionError):
    """The session is in another round: call `Session.refresh`, and collect with the new policy.

    Attributes:
        current_round: the session's round; None if the server does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        details: Mapping[str, str] | None = None,
        current_round: int | None = None,
    ) -> None:
        super().__init__(message, reason=reason, details=details)
        self.current_round = current_round


class LimitError(ThetaPrimeError, RuntimeError):
    """A limit of the server is reached.

    Attributes:
        retry_after: seconds until a retry may succeed; None if no retry will.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AccessError(ThetaPrimeError, PermissionError):
    """The server refuses this client: the token is missing, invalid, or lacks the permission."""


class DataLossError(ThetaPrimeError, OSError):
    """Bytes were damaged: in transit (repeat the call), or in the server's store."""


class CollectionError(ThetaPrimeError, RuntimeError):
    """An environment or a collector failed. Its exception is the `__cause__`.

    Attributes:
        trajectories: the complete episodes collected before the failure.
    """

    def __init__(self, message: str, *, trajectories: Sequence[wire.Trajectory] = ()) -> None:
        super().__init__(message)
        self.trajectories = tuple(trajectories)


class PolicyVerificationError(ThetaPrimeError, ValueError):
    """An ONNX policy fails its verification: digest, metadata, graph or golden vectors. It must not act."""


class ServerError(ThetaPrimeError, RuntimeError):
    """The server failed, or does not serve this contract.

    Attributes:
        code: name of the gRPC status code.
    """

    def __init__(self, message: str, *, code: str = "UNKNOWN") -> None:
        super().__init__(message)
        self.code = code


_Detail = TypeVar("_Detail", bound=Message)
# The errors of blocking and asyncio stubs. The second is not a grpc.Call, but has its methods.
_FAILED_CALLS: Final = (grpc.Call, grpc.aio.AioRpcError)


class _Details:
    """Reads the google.rpc details of a failed call."""

    def __init__(self, error: grpc.RpcError) -> None:
        try:
            status = rpc_status.from_call(cast("grpc.Call", error)) if isinstance(error, _FAILED_CALLS) else None
        except (ValueError, DecodeError):
            status = None  # malformed details must not hide the error
        self._any: list[Any] = list(status.details) if status is not None else []

    def of(self, kind: type[_Detail]) -> Iterator[_Detail]:
        for packed in self._any:
            detail = kind()
            if packed.Is(detail.DESCRIPTOR) and packed.Unpack(detail):
                yield detail

    def violations(self) -> list[Violation]:
        return [
            Violation(violation.field, violation.description)
            for request in self.of(error_details_pb2.BadRequest)
            for violation in request.field_violations
        ]

    def reason(self) -> tuple[str, dict[str, str]]:
        for info in self.of(error_details_pb2.ErrorInfo):
            return info.reason, dict(info.metadata)
        return "", {}

    def retry_after(self) -> float | None:
        for info in self.of(error_details_pb2.RetryInfo):
            return float(info.retry_delay.ToTimedelta().total_seconds())
        return None


def _unreachable(text: str, address: str, details: _Details) -> ThetaPrimeError:
    message = f"the server at {address} cannot be reached ({text}); is `thetaprime serve` running there?"
    return UnreachableError(message, retry_after=details.retry_after(), reason=details.reason()[0])


def _deadline(text: str, address: str, details: _Details) -> ThetaPrimeError:
    return DeadlineError(
        f"the server at {address} did not answer in time ({text}): repeat the call, or set a larger timeout"
    )


def _not_found(text: str, address: str, details: _Details) -> ThetaPrimeError:
    return NotFoundError(text)


def _invalid(text: str, address: str, details: _Details) -> ThetaPrimeError:
    violations = details.violations()
    named = "; ".join(f"{field}: {description}" for field, description in violations)
    return InvalidInputError(named or text, violations=violations)


def _precondition(text: str, address: str, details: _Details) -> ThetaPrimeError:
    reason, metadata = details.reason()
    return PreconditionError(text, reason=reason, details=metadata)


def _aborted(text: str, address: str, details: _Details) -> ThetaPrimeError:
    reason, metadata = details.reason()
    current = metadata.get("round", "")
    return StaleRoundError(
        f"{text}: call session.refresh(), then collect with session.policy",
        reason=reason,
        details=metadata,
        current_round=int(current) if current.isdigit() else None,
    )


def _limit(text: str, address: str, details: _Details) -> ThetaPrimeError:
    retry_after = details.retry_after()
    advice = "" if retry_after is None else f"; retry after {retry_after:g} s"
    return LimitError(text + advice, retry_after=retry_after)


def _access(text: str, address: str, details: _Details) -> ThetaPrimeError:
    return AccessError(f"the server at {address} refuses this client: {text}")


def _data_loss(text: str, address: str, details: _Details) -> ThetaPrimeError:
    return DataLossError(text)


def _unimplemented(text: str, address: str, details: _Details) -> ThetaPrimeError:
    message = f"the server at {address} does not serve thetaprime.v1 ({text}): check its address and version"
    return ServerError(message, code="UNIMPLEMENTED")


_FROM_CODE: Final[dict[grpc.StatusCode, Callable[[str, str, _Details], ThetaPrimeError]]] = {
    grpc.StatusCode.UNAVAILABLE: _unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: _deadline,
    grpc.StatusCode.NOT_FOUND: _not_found,
    grpc.StatusCode.INVALID_ARGUMENT: _invalid,
    grpc.StatusCode.OUT_OF_RANGE: _invalid,
    grpc.StatusCode.FAILED_PRECONDITION: _precondition,
    grpc.StatusCode.ALREADY_EXISTS: _precondition,
    grpc.StatusCode.ABORTED: _aborted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: _limit,
    grpc.StatusCode.UNAUTHENTICATED: _access,
    grpc.StatusCode.PERMISSION_DENIED: _access,
    grpc.StatusCode.DATA_LOSS: _data_loss,
    grpc.StatusCode.UNIMPLEMENTED: _unimplemented,
}


def from_rpc_error(error: grpc.RpcError, address: str) -> ThetaPrimeError:
    """Returns the client's error for a failed call.

    Args:
        error: gRPC's exception.
        address: the server's address, for the message.
    """
    code = error.code() if isinstance(error, _FAILED_CALLS) else grpc.StatusCode.UNKNOWN
    text = (error.details() if isinstance(error, _FAILED_CALLS) else "") or str(code.name)
    make = _FROM_CODE.get(code)
    if make is None:
        return ServerError(f"the server at {address} failed: {text} ({code.name})", code=code.name)
    return make(text, address, _Details(error))
