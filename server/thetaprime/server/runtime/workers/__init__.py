"""A server of several processes: they share an address and a store, and one that serves nobody watches over them."""

from thetaprime.server.runtime.workers.restarts import WorkersError
from thetaprime.server.runtime.workers.supervisor import supervise

__all__ = ["WorkersError", "supervise"]
