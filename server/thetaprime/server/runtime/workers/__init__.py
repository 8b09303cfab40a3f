"""A server of several worker processes on one address and one store, with a supervisor that takes no calls."""

from thetaprime.server.runtime.workers.restarts import WorkersError
from thetaprime.server.runtime.workers.supervisor import supervise

__all__ = ["WorkersError", "supervise"]
