"""Discards uploads of the current round: the way out of a round that is implausible. These functions block."""

from collections.abc import Sequence

import sqlalchemy as sa

from thetaprime.models.behavior import ROUND_BOUND
from thetaprime.server.catalog.catalog import Catalog
from thetaprime.server.errors import NotFoundError, RoundMismatchError
from thetaprime.server.sessions.on_policy import find_round_doubt
from thetaprime.server.sessions.policies import session_entry
from thetaprime.server.sessions.rows import SessionRecord, UploadedBatch, find_session, set_doubt, uploaded_batch
from thetaprime.server.store import Store
from thetaprime.server.store.retries import retried
from thetaprime.server.store.tables import uploads


@retried
def discard_uploads(
    store: Store, catalog: Catalog, tenant: str, session_id: str, round_index: int, upload_ids: Sequence[str]
) -> tuple[SessionRecord, UploadedBatch]:
    """Discards uploads of a session's current round. A repeated call has no further effect.

    A doubt of the round ends where the evidence against the other uploads is at most half of the bound. At the bound
    itself, a round could be cut to just below it.

    Args:
        store: the store.
        catalog: the meta-policies.
        tenant: the caller's tenant.
        session_id: the session.
        round_index: the session's current round.
        upload_ids: the uploads; none for all uploads of the round.

    Returns:
        The session, and the uploads that are left.

    Raises:
        NotFoundError: the session or an upload does not exist. Nothing is discarded.
        PreconditionError: the session is closed or expired, or its meta-policy has left the catalog.
        RoundMismatchError: the session is at another round.
    """
    with store.reading() as connection:
        entry = session_entry(catalog, find_session(connection, tenant, session_id, store.now()))
    with store.writing(tenant) as connection:
        now = store.now()
        session = find_session(connection, tenant, session_id, now)
        session.require_open(now)
        if round_index != session.round:
            raise RoundMismatchError(round_index, session.round)
        ours = (uploads.c.session_id == session_id) & (uploads.c.round == session.round)
        known = connection.scalars(sa.select(uploads.c.upload_id).where(ours)).all()
        missing = set(upload_ids).difference(known)
        if missing:
            raise NotFoundError("upload", min(missing))
        chosen = set(upload_ids) or known
        connection.execute(uploads.update().where(ours, uploads.c.upload_id.in_(chosen)).values(counted=False))
        batch = uploaded_batch(connection, session)
        if session.doubt is not None:
            set_doubt(connection, session_id, find_round_doubt(entry.meta_policy.policy, batch, ROUND_BOUND / 2))
        left = find_session(connection, tenant, session_id, now)
    return left, batch
