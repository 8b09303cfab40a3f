"""Authentication and authorization: TLS, bearer tokens, tenants, quotas and the audit log."""

from thetaprime.server.auth.authenticator import Authenticator, Caller, current_caller
from thetaprime.server.auth.quotas import Quotas
from thetaprime.server.auth.tls import server_credentials
from thetaprime.server.auth.tokens import new_token, token_digest

__all__ = [
    "Authenticator",
    "Caller",
    "Quotas",
    "current_caller",
    "new_token",
    "server_credentials",
    "token_digest",
]
