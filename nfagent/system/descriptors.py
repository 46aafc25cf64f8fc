"""File descriptors: raises their limit, and reserves some for libnftables.

libnftables calls exit(3) where it gets no netlink socket. A check beforehand is not enough: another thread may take the
last descriptor meanwhile. So some are reserved, and freed and used without releasing the interpreter lock.
"""

from __future__ import annotations

import ctypes
import errno
import operator
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from itertools import starmap
from typing import Any

KEPT = 8
"""One is used at a time; running system calls of other threads take one each, at most."""
_LEAST = 4
_CLOSE = ctypes.PyDLL(None).close  # keeps the interpreter lock, so that no other thread runs; os.close releases it


def raise_limit() -> None:
    """Raise the soft limit of descriptors to the hard limit: service managers start processes with 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class DescriptorReserve:
    """Reserved descriptors. One thread at a time may use it."""

    def __init__(self, count: int = KEPT) -> None:
        """Reserve up to `count` descriptors, as far as there are any."""
        self._count = count
        self._kept: list[int] = []
        self.fill()

    def fill(self) -> None:
        """Reserve missing descriptors, as far as there are any."""
        with suppress(OSError):
            while len(self._kept) < self._count:
                self._kept.append(os.eventfd(0, os.EFD_CLOEXEC))

    def use(self, call: Callable[[int], Any], argument: int) -> Any:  # noqa: ANN401 - the library's
        """Free the descriptors and call a C function that keeps the interpreter lock. Raises OSError (EMFILE)."""
        self.fill()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        kept = [number for number in self._kept if number < limit or limit == resource.RLIM_INFINITY]
        if len(kept) < _LEAST:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        calls = [*((_CLOSE, number) for number in self._kept), (call, argument)]
        self._kept = []
        try:
            return list(starmap(operator.call, calls))[-1]  # all in C: no other thread runs in between
        finally:
            self.fill()

    def close(self) -> None:
        """Free the descriptors. Closing twice is harmless."""
        kept, self._kept, self._count = self._kept, [], 0
        for number in kept:
            os.close(number)
