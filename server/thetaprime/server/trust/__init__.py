"""Who may call, as whom, and how much: TLS, tokens, tenants, quotas, and the record of what was done."""

from thetaprime.server.trust.caller import Caller, current_caller
from thetaprime.server.trust.gate import Gate
from thetaprime.server.trust.quotas import Pace, Quotas
from thetaprime.server.trust.tls import server_credentials
from thetaprime.server.trust.tokens import new_token, token_digest

__all__ = ["Caller", "Gate", "Pace", "Quotas", "current_caller", "new_token", "server_credentials", "token_digest"]
