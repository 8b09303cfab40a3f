"""How the process holds on to memory that its arrays have given up."""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
# The most that glibc takes.
_ARRAY_BYTES: Final = 32 << 20
_HELD_BYTES: Final = 256 << 20


def hold_freed_memory() -> bool:
    """Lets the C library keep what is freed, up to a quarter of a gigabyte, for the arrays that come next.

    A gradient takes and frees arrays of megabytes, layer by layer. glibc gives each back to the system at once, which
    then clears every page of the next one: about a quarter of the gradient's time. For processes that take one
    gradient after another.

    Returns:
        Whether the C library is glibc, and took it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS, musl, Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _ARRAY_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _HELD_BYTES))
