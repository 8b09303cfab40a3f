"""What can go wrong, as one tree.

    ThetaPrimeError
    ├── UnreachableError (ConnectionError)        no server answers at the address, or it is shutting down
    ├── DeadlineError (TimeoutError)              the server did not answer within the client's timeout
    ├── NotFoundError (LookupError)               no such meta-policy, session or round
    ├── InvalidInputError (ValueError)            an argument, a trajectory or an environment does not fit
    ├── PreconditionError (RuntimeError)          the session's state does not allow the call
    │   └── StaleRoundError                       the session has moved on to another round
    ├── LimitError (RuntimeError)                 a limit of the server is reached
    ├── AccessError (PermissionError)             the server does not let this client in
    ├── DataLossError (OSError)                   bytes were damaged on their way, or in the server's store
    ├── CollectionError (RuntimeError)            an environment or a collector failed in the middle of its work
    ├── PolicyVerificationError (ValueError)      an ONNX policy is not what it says it is
    └── ServerError (RuntimeError)                the server failed, or does not speak this contract

Every call is safe to repeat: after `UnreachableError`, `DeadlineError`, `LimitError`, `DataLossError` or
`ServerError`, the same call with the same arguments has the effect of one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from thetaprime import wire


class ThetaPrimeError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        session_id: the session that `Client.adapt` was at work on, to be resumed; None where there is none.
    """

    session_id: str | None = None


class UnreachableError(ThetaPrimeError, ConnectionError):
    """No server answers at the address, or it is shutting down.

    Attributes:
        retry_after: seconds after which the server asks to be called again; None where it does not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(ThetaPrimeError, TimeoutError):
    """The server did not answer within the client's timeout. The call may have had its effect: repeat it."""


class NotFoundError(ThetaPrimeError, LookupError):
    """There is no such meta-policy, session or round."""


class Violation(NamedTuple):
    """One thing that is wrong with an input."""

    field: str
    """Path to it, down to the step: ``trajectories[3].rewards[17]``."""
    description: str
    """What came and what was expected."""


class InvalidInputError(ThetaPrimeError, ValueError):
    """An argument, a trajectory or an environment does not fit.

    Attributes:
        violations: every field that is wrong, with what came and what was expected.
    """

    def __init__(self, message: str, *, violations: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(Violation(*violation) for violation in violations)

    @classmethod
    def at(cls, field: str, description: str) -> "InvalidInputError":
        """The error for one field."""
        return cls(f"{field}: {description}", violations=[(field, description)])


class PreconditionError(ThetaPrimeError, RuntimeError):
    """The session's state, or what it was sent, does not allow the call.

    Attributes:
        reason: the server's word for why, in capitals (``OFF_POLICY``, ``SESSION_CLOSED``); may be empty.
        details: what the server adds to it, by name.
    """

    def __init__(self, message: str, *, reason: str = "", details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.details = dict(details or {})


class StaleRoundError(PreconditionError):
    """The session has moved on to another round: `Session.refresh` and collect with its new policy.

    Attributes:
        current_round: the session's round; None where the server does not say.
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
        retry_after: seconds after which the same call may succeed; None where it will not.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AccessError(ThetaPrimeError, PermissionError):
    """The server does not let this client in."""


class DataLossError(ThetaPrimeError, OSError):
    """Bytes were damaged: on their way (repeat the call), or in the server's store."""


class CollectionError(ThetaPrimeError, RuntimeError):
    """An environment or a collector failed in the middle of its work. What it raised is the `__cause__`.

    Attributes:
        trajectories: the whole episodes that were collected before.
    """

    def __init__(self, message: str, *, trajectories: Sequence[wire.Trajectory] = ()) -> None:
        super().__init__(message)
        self.trajectories = tuple(trajectories)


class PolicyVerificationError(ThetaPrimeError, ValueError):
    """An ONNX policy is not what it says it is. It must not act."""


class ServerError(ThetaPrimeError, RuntimeError):
    """The server failed, or does not speak this contract.

    Attributes:
        code: the gRPC status code's name.
    """

    def __init__(self, message: str, *, code: str = "UNKNOWN") -> None:
        super().__init__(message)
        self.code = code


_Detail = TypeVar("_Detail", bound=Message)
# What the two kinds of stubs raise; the second is no grpc.Call, and has its methods.
_FAILED_CALLS: Final = (grpc.Call, grpc.aio.AioRpcError)


class _Details:
    """The google.rpc details of a failed call."""

    def __init__(self, error: grpc.RpcError) -> None:
        try:
            status = rpc_status.from_call(cast("grpc.Call", error)) if isinstance(error, _FAILED_CALLS) else None
        except (ValueError, DecodeError):
            status = None  # details that do not fit the status are a server's mistake, not the caller's
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
    return UnreachableError(message, retry_after=details.retry_after())


def _deadline(text: str, address: str, details: _Details) -> ThetaPrimeError:
    return DeadlineError(
        f"the server at {address} did not answer in time ({text}); repeat the call, or give the client a larger timeout"
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
        f"{text}; call session.refresh(), then collect with session.policy",
        reason=reason,
        details=metadata,
        current_round=int(current) if current.isdigit() else None,
    )


def _limit(text: str, address: str, details: _Details) -> ThetaPrimeError:
    retry_after = details.retry_after()
    advice = "" if retry_after is None else f"; try again in {retry_after:g} s"
    return LimitError(text + advice, retry_after=retry_after)


def _access(text: str, address: str, details: _Details) -> ThetaPrimeError:
    return AccessError(f"the server at {address} refuses this client: {text}")


def _data_loss(text: str, address: str, details: _Details) -> ThetaPrimeError:
    return DataLossError(text)


def _unimplemented(text: str, address: str, details: _Details) -> ThetaPrimeError:
    message = f"what answers at {address} does not serve thetaprime.v1 ({text}); check the address and version"
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
    """The error of the tree for a failed call.

    Args:
        error: what gRPC raised.
        address: the server's, for the message.
    """
    code = error.code() if isinstance(error, _FAILED_CALLS) else grpc.StatusCode.UNKNOWN
    text = (error.details() if isinstance(error, _FAILED_CALLS) else "") or str(code.name)
    make = _FROM_CODE.get(code)
    if make is None:
        return ServerError(f"the server at {address} failed: {text} ({code.name})", code=code.name)
    return make(text, address, _Details(error))
