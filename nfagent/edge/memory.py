"""Memory after the first reading: what stays is set apart, what is no longer needed goes back to the machine."""

from __future__ import annotations

import ctypes
import gc


def settle_memory() -> None:
    """Settle what was allocated so far, once the state is whole; takes tens of milliseconds for a large cluster.

    What is here now mostly stays: collections that walk it again and again would each hold the event loop for as
    long. And what reading needed and nobody needs any more is given back (glibc's malloc_trim(3), where there is one).
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
