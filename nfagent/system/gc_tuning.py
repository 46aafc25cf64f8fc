"""Tunes garbage collection and malloc for a large, mostly constant state, and returns free memory to the system.

The variables of MALLOC_ENVIRONMENT are also in systemd/nfagent.service and in the Containerfile.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from functools import cache

_YOUNG = 10_000
"""New objects before a collection of the youngest generation; the default is 700. There is little to find here (cycles
of tasks and errors), and while a cluster is read, nearly all new objects stay."""

_MIDDLE, _OLD = 1, 380
"""Collections of the youngest generation before one of the middle one, which walks what they left, 30,000 objects at
most, in 2 to 4 ms of CPU, and holds all threads meanwhile; and collections of the middle one before a full one."""


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""mallopt(3), malloc.h."""
_MAPPED_BYTES = 4 * 1024 * 1024
_TOP_BYTES = 256 * 1024
_ARENAS = 2

MALLOC_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
"""Variables for the environment that a process starts with, since glibc has no call for them.

By default each thread keeps up to seven freed blocks of each of 64 sizes, up to 1,040 bytes. No thread can use those of
another, and they fill for hours: 1.9 MB in 22 minutes, of at most 3.4 MB (docs/soak.md). Objects of up to 512 bytes are
CPython's own allocator's, and need none of it.
"""


def limit_free_memory() -> None:
    """Bound the free memory that malloc keeps (glibc's mallopt); to be called at the start, before threads.

    Each block of 4 MiB or more is mapped by itself. By default glibc stops doing so after it freed the first such
    block. A dictionary of 150,000 Pods is copied every 200,000 changes, and the place of the old copy, 10 MiB, would
    stay with the process.

    Threads share two arenas, and 256 KiB at most are kept free at the end of each. By default each of a dozen threads
    has its own, which a few long-lived blocks keep in memory, and of whose end malloc_trim returns nothing. A thread
    that was started before keeps its own.
    """
    mallopt = _libc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TOP_BYTES)
        mallopt(_M_ARENA_MAX, _ARENAS)


def relax_collection() -> None:
    """Make collections less frequent; to be called at the start of a process."""
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)


def collect_and_freeze() -> None:
    """Collect garbage, freeze the remaining objects and trim memory; takes tens of milliseconds for a large cluster.

    To be called when the state is complete: most of it stays, and every full collection that walks it would hold the
    event loop for as long.
    """
    gc.collect()
    gc.freeze()
    malloc_trim()


def malloc_trim() -> None:
    """Return free memory to the system (glibc's malloc_trim, where there is one); takes tens of milliseconds."""
    trim = _libc("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _libc(name: str) -> Callable[..., int] | None:
    """Return a function of the C library; None where it has none of this name.

    Loaded once: each `CDLL` is a class of its own, which stays until a garbage collection.
    """
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return function
