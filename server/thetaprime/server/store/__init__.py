"""The durable state: rows and small blobs in SQLite, large blobs in files."""

from thetaprime.server.store import tables
from thetaprime.server.store.blobs import BlobStore
from thetaprime.server.store.cache import RecentCache
from thetaprime.server.store.clock import ClockGuard
from thetaprime.server.store.expiry import SweptSession
from thetaprime.server.store.store import Store

__all__ = ["BlobStore", "ClockGuard", "RecentCache", "Store", "SweptSession", "tables"]
