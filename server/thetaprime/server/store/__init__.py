"""The durable state of the service."""

from thetaprime.server.store import tables
from thetaprime.server.store.blobs import BlobStore
from thetaprime.server.store.database import Store

__all__ = ["BlobStore", "Store", "tables"]
