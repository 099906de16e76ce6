"""Holes: free memory between what lives for ever, filled so that nobody after a fork writes there.

Knows how CPython's allocator and the C library's hand out memory; refuses to know what lies around.
What is taken here is never used and never given back.
"""

from __future__ import annotations

import ctypes
from collections import Counter

STEP_BYTES = 16
SMALL_BYTES = 512
"""CPython has blocks of all multiples of the one up to the other: ALIGNMENT and
SMALL_REQUEST_THRESHOLD of pycore_obmalloc.h."""
POOL_BYTES = 16_384
"""A pool has blocks of one size: POOL_SIZE, where pointers have 64 bits."""
POOL_HEAD_BYTES = 48
NUMBERS = 4
"""Addresses are objects too: while some blocks are taken, so many of a pool may go to them."""
MOST_BYTES = 4_000_000
"""Of each allocator; measured: 1.5 MB. Where it is not as it is known to be, this is the end."""
LARGEST_BYTES, LARGE_BYTES = 65_536, 4_096
"""Of the C library's holes: above the one there are hardly any, above the other they are coarse."""
SMALLEST_BYTES = 32
CHUNK_HEAD_BYTES = 8
"""Of a block of the C library, part of its size; both from glibc's malloc.c."""


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later, mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def fill_holes() -> int:
    """Fills all holes it finds; returns how many bytes that took. For a process of one thread."""
    return _fill_heap() + _fill_pools()


def _fill_pools() -> int:
    """Of CPython's allocator, which takes holes first: once a pool is whole, there are no more."""
    allocate = ctypes.pythonapi.PyObject_Malloc
    allocate.argtypes, allocate.restype = (ctypes.c_size_t,), ctypes.c_size_t
    taken_bytes = 0
    for size_bytes in range(STEP_BYTES, SMALL_BYTES + 1, STEP_BYTES):
        blocks = (POOL_BYTES - POOL_HEAD_BYTES) // size_bytes
        most = 0
        while most < blocks - NUMBERS and taken_bytes < MOST_BYTES:
            pools = Counter(allocate(size_bytes) // POOL_BYTES for _ in range(2 * blocks))
            most = max(pools.values())
            taken_bytes += 2 * blocks * size_bytes
    return taken_bytes


def _fill_heap() -> int:
    """Of the C library: whoever comes next gets what lies above all that is used."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return 0
    library.mallinfo2.restype = _MallocInfo
    library.sbrk.restype = library.malloc.restype = ctypes.c_size_t
    library.malloc.argtypes = library.free.argtypes = (ctypes.c_size_t,)
    info = library.mallinfo2()
    top = library.sbrk(0) - info.keepcost
    taken_bytes = 0
    coarse = range(LARGEST_BYTES, LARGE_BYTES, -LARGE_BYTES)
    fine = range(LARGE_BYTES, SMALLEST_BYTES - 1, -STEP_BYTES)
    for size_bytes in (*coarse, *fine):
        while taken_bytes < MOST_BYTES:
            at = library.malloc(size_bytes - CHUNK_HEAD_BYTES)
            if at >= top:
                library.free(at)
                break
            taken_bytes += size_bytes
    return taken_bytes
