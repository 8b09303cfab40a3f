"""Makes room within a tenant's quotas by deleting what has expired. These functions block."""

from collections.abc import Callable
from typing import TypeVar

from thetaprime.server.auth import audit
from thetaprime.server.errors import TenantQuotaError
from thetaprime.server.store import Store

R = TypeVar("R")


def with_expired_deleted(store: Store, tenant: str, attempt: Callable[[], R]) -> R:
    """Returns the result of an attempt; if a quota refuses it, deletes what has expired of the tenant and tries again.

    What has expired counts until it is deleted. Without this, a tenant would wait for the next sweep.

    Raises:
        TenantQuotaError: the quota refuses the attempt still.
    """
    try:
        return attempt()
    except TenantQuotaError:
        if not store.sweep_tenant(tenant, audit.record_end):
            raise
    return attempt()
