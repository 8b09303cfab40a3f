"""Writes tokens files."""

from collections.abc import Mapping
from pathlib import Path

from thetaprime import wire


def write_tokens(path: Path, tokens: Mapping[str, str], more: str = "") -> Path:
    """Writes a tokens file atomically, with tenants by token."""
    entries = [
        f'[[tokens]]\ntenant = "{tenant}"\nsha256 = "{wire.sha256_hex(token.encode())}"\n'
        for token, tenant in tokens.items()
    ]
    beside = path.with_suffix(".new")
    beside.write_text("\n".join([*entries, more]))
    return beside.replace(path)
