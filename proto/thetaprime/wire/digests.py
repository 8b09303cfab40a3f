"""SHA-256 digests, the identity of everything that crosses the wire."""

import hashlib
from collections.abc import Iterable


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """The SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def batch_digest(upload_digests: Iterable[str]) -> str:
    """The digest of a round's batch: what `Adapt` names to say which uploads it means.

    The digests of the uploads' payloads are sorted first, so that the order of arrival does not count.

    Args:
        upload_digests: the hex SHA-256 of each upload's payload; a payload sent under two upload ids
            stands there twice.

    Returns:
        64 hexadecimal digits, or the empty string for no uploads.
    """
    ordered = sorted(upload_digests)
    return sha256_hex("".join(ordered).encode("ascii")) if ordered else ""
