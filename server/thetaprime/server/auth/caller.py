"""Who is calling."""

import contextvars
import dataclasses
from typing import Final

DEFAULT_TENANT: Final = ""
"""The one tenant of a server without tokens."""


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who a call comes from.

    Attributes:
        tenant: whom its token stands for.
        peer: where it comes from, in gRPC's words.
    """

    tenant: str
    peer: str


_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller")


def set_caller(caller: Caller) -> None:
    """Says who the call is from that this task serves."""
    _caller.set(caller)


def current_caller() -> Caller:
    """Who the call is from that this task serves.

    A call that was let in past the gate has no caller, and fails here rather than to act as somebody.

    Raises:
        LookupError: nobody was let in.
    """
    return _caller.get()
