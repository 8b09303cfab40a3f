"""The durable state: rows and small blobs in a database, large blobs beside it."""

from thetaprime.server.store import tables
from thetaprime.server.store.blobs import BlobFolder, Blobs
from thetaprime.server.store.cache import RecentCache
from thetaprime.server.store.clock import ClockGuard
from thetaprime.server.store.expiry import SweptSession
from thetaprime.server.store.store import Store

__all__ = ["BlobFolder", "Blobs", "ClockGuard", "RecentCache", "Store", "SweptSession", "tables"]
