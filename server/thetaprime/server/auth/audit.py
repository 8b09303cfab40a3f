"""The audit log: log events with ``audit=true``, one for each call that took effect."""

import structlog

from thetaprime.server.auth.authenticator import Caller

_log = structlog.get_logger(audit=True)


def record(action: str, caller: Caller, **subject: object) -> None:
    """Logs a call that took effect. A retried call is logged again, because it received its answer again.

    Args:
        action: created, uploaded, adapted, fetched or closed.
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


def record_end(action: str, tenant: str, session_id: str, policy_id: str, rounds: int) -> None:
    """Logs what the sweep deleted.

    Args:
        action: expired, when the session's uploads were deleted; deleted, when its policies were.
        tenant: the owner of the session.
        session_id: the session.
        policy_id: the session's last policy; θ if it took no round.
        rounds: number of rounds that it took.
    """
    _log.info("audit", action=action, tenant=tenant, session_id=session_id, policy_id=policy_id, rounds=rounds)
