"""Memory after the first reading: what stays is set apart, what is no longer needed goes back to the machine."""

from __future__ import annotations

import ctypes
import gc

_YOUNG = 20_000
"""So many new objects before Python's collector looks at them; its default is 700. It finds little here (cycles of
tasks and errors), and while a cluster is read, nearly all that is new stays."""

_MIDDLE, _OLD = 5, 80
"""Collections of the young before one of the middle generation, which then walks 100,000 objects in 10 ms; and of those
before one of all."""


def spare_collections() -> None:
    """Have the collector look at new objects more seldom; for a process's start."""
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)


def settle_memory() -> None:
    """Settle what was allocated so far, once the state is whole; takes tens of milliseconds for a large cluster.

    What is here now mostly stays: collections that walk it again and again would each hold the event loop for as
    long. And what reading needed and nobody needs any more is given back (glibc's malloc_trim(3), where there is one).
    """
    gc.collect()
    gc.freeze()
    give_back()


def give_back() -> None:
    """Give what is free back to the machine, in tens of milliseconds (glibc's malloc_trim(3), where there is one)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
