"""Tunes garbage collection and malloc for a large, mostly constant state, and returns free memory to the system."""

from __future__ import annotations

import ctypes
import gc

_YOUNG = 10_000
"""New objects before a collection of the youngest generation; the default is 700. There is little to find here (cycles
of tasks and errors), and while a cluster is read, nearly all new objects stay."""

_MIDDLE, _OLD = 1, 380
"""Collections of the youngest generation before one of the middle one, which walks what they left, 30,000 objects at
most, in 2 to 4 ms of CPU, and holds all threads meanwhile; and collections of the middle one before a full one."""


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""mallopt(3), malloc.h."""
_MAPPED_BYTES = 4 * 1024 * 1024


def map_large_blocks() -> None:
    """Have each block of memory of 4 MiB or more mapped by itself (glibc's mallopt); to be called at the start.

    By default glibc stops doing so after it freed the first such block. A dictionary of 150,000 Pods is copied every
    200,000 changes, and the place of the old copy, 10 MiB, would stay with the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        # As far above it as glibc would set it by itself.
        mallopt(_M_TRIM_THRESHOLD, 2 * _MAPPED_BYTES)


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
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
