"""Memory for large frames: the C library's malloc is told to keep what it has.

By default glibc maps fresh pages for every block of 128 KiB or more, and gives the end of the heap back to the kernel as soon
as 128 KiB of it are free.  A batch of 64 KiB frames that is read, handed over and forgotten then costs a page fault per 4 KiB,
several times what it costs to copy the bytes.
"""

from __future__ import annotations

import ctypes

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

LARGEST_BLOCK = 4 << 20
"""Bytes below which a block comes from the heap."""
KEPT = 128 << 20
"""Bytes of free heap that the process keeps."""


def keep_pages() -> bool:
    """Let this process keep freed memory for the next frames; False where the C library has no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))
