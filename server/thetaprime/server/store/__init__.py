"""The durable state of the service."""

from thetaprime.server.store import tables
from thetaprime.server.store.blobs import BlobStore
from thetaprime.server.store.cache import RECENT_BYTES, Recent
from thetaprime.server.store.database import ROW_BYTES, Store
from thetaprime.server.store.expiry import SweptSession

__all__ = ["RECENT_BYTES", "ROW_BYTES", "BlobStore", "Recent", "Store", "SweptSession", "tables"]
