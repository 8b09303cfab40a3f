"""Who may call, as whom, and how much: TLS, tokens, tenants, quotas, and the record of what was done."""

from thetaprime.server.auth.authenticator import Authenticator
from thetaprime.server.auth.caller import Caller, current_caller
from thetaprime.server.auth.quotas import Pace, Quotas
from thetaprime.server.auth.tls import server_credentials
from thetaprime.server.auth.tokens import new_token, token_digest

__all__ = [
    "Authenticator",
    "Caller",
    "Pace",
    "Quotas",
    "current_caller",
    "new_token",
    "server_credentials",
    "token_digest",
]
