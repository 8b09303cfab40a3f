"""The record of who did what: log events that carry ``audit=true``, one for each call that had its effect."""

import structlog

from thetaprime.server.auth.caller import Caller

_log = structlog.get_logger(audit=True)


def record(action: str, caller: Caller, **what: object) -> None:
    """Writes down one action.

    A call that came again is written down again, since its answer was given out again.

    Args:
        action: created, uploaded, adapted, fetched, closed.
        caller: who did it.
        what: to what: session_id, meta_policy, policy_id. Nothing that a client words as it likes: logs are read on
            terminals.
    """
    _log.info("audit", action=action, tenant=caller.tenant, peer=caller.peer, **what)


def record_refusal(peer: str, method: str, reason: str) -> None:
    """Writes down a call that was not let in.

    Args:
        peer: where it came from.
        method: what it wanted.
        reason: why not.
    """
    _log.warning("audit", action="refused", peer=peer, method=method, reason=reason)


def record_end(action: str, tenant: str, session_id: str, policy_id: str, rounds: int) -> None:
    """Writes down what went with time, and by nobody's call.

    Args:
        action: expired, where a session's uploads went; deleted, where the policies that it had made went.
        tenant: whose it was.
        session_id: the session.
        policy_id: of the last policy that it had made; of θ where it made none.
        rounds: how many it had made.
    """
    _log.info("audit", action=action, tenant=tenant, session_id=session_id, policy_id=policy_id, rounds=rounds)
