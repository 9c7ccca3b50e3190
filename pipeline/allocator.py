"""Memory that a fit frees is kept for its next chunk, where the C library would give it back to the system.

A chunk of an LSTM on a CPU takes and frees some 24 MB (64x2, 64 lanes of 64 steps). By its own defaults glibc gives
much of that back every time, and every page of it is then mapped and cleared anew: six thousand page faults a chunk, a
third of the time. See docs/decisions/0025.

Comes in: nothing. Goes out: nothing; it is the process that is set. Imported by training.
"""

from __future__ import annotations

import ctypes
import functools
import sys

KEPT = 1 << 30
"""Most bytes that are freed and kept, of each thread's own memory."""

LARGEST = 32 << 20
"""Bytes from which on an allocation is mapped by itself, and goes back when it is freed: the most that glibc takes."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


@functools.cache
def keep_freed() -> bool:
    """Let this process keep what it frees, from now on; say whether the C library is one that can be told."""
    libc = _glibc()
    return libc is not None and all(
        libc.mallopt(option, size) for option, size in ((_M_TRIM_THRESHOLD, KEPT), (_M_MMAP_THRESHOLD, LARGEST))
    )


def give_back() -> None:
    """Give back to the system what is free just now."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
