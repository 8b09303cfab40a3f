"""The audit log: log events with ``audit=true``, one for each call that took effect."""

import structlog

from thetaprime.server.auth.authenticator import Caller
from thetaprime.server.store import SweptSession

_log = structlog.get_logger(audit=True)


def record(action: str, caller: Caller, **subject: object) -> None:
    """Logs a call that took effect. A retried call is logged again, because it received its answer again.

    Args:
        action: created, uploaded, discarded, adapted, explained, fetched or closed.
        caller: the tenant and the peer of the call.
        subject: session_id, meta_policy and policy_id. No free text of a client: terminals interpret control
            characters.
    """
    _log.info("audit", action=action, tenant=caller.tenant, peer=caller.peer, **subject)


def record_refusal(peer: str, method: str, reason: str) -> None:
    """Logs a call that was not authenticated.

    Args:
        peer: the address of the client.
        method: the RPC that it called.
        reason: `TOKEN_MISSING` or `TOKEN_REFUSED`.
    """
    _log.warning("audit", action="refused", peer=peer, method=method, reason=reason)


def record_refusals(reason: str, count: int) -> None:
    """Logs the number of calls that were not authenticated and have no line.

    Args:
        reason: as for `record_refusal`.
        count: number of calls.
    """
    _log.warning("audit", action="refused", reason=reason, count=count)


def record_disconnection(peer: str, reason: str) -> None:
    """Logs a connection that the server closed.

    Args:
        peer: the address of the client.
        reason: the limit that it exceeded.
    """
    _log.warning("audit", action="disconnected", peer=peer, reason=reason)


def record_disconnections(reason: str, count: int) -> None:
    """Logs the number of connections that the server closed and that have no line.

    Args:
        reason: as for `record_disconnection`.
        count: number of connections.
    """
    _log.warning("audit", action="disconnected", reason=reason, count=count)


def record_block(network: str) -> None:
    """Logs an address whose new connections are refused for a time.

    Args:
        network: the IPv4 address or IPv6 network.
    """
    _log.warning("audit", action="blocked", network=network)


def record_end(swept: SweptSession) -> None:
    """Logs the deletion of a session's uploads (expired) or of its policies (deleted)."""
    _log.info(
        "audit",
        action=swept.action,
        tenant=swept.tenant,
        session_id=swept.session_id,
        policy_id=swept.policy_id,
        rounds=swept.round,
    )
