"""File descriptors: as many as this process may have, and some that are kept for a library that ends it without one.

libnftables calls exit(3) where it gets no netlink socket. Whether one is left can't be asked beforehand: another
thread may take it meanwhile. So some are kept, and are freed and used at one moment.
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
"""One is used at a time. Calls of other threads that are under way take one each, at most."""
_LEAST = 4
_CLOSE = ctypes.PyDLL(None).close  # keeps the interpreter, so that no other thread runs; os.close doesn't


def raise_limit() -> None:
    """Let this process have as many descriptors as it may ask for: service managers give 1024 to begin with."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class DescriptorReserve:
    """Descriptors that nobody else gets. One thread at a time may use it."""

    def __init__(self, count: int = KEPT) -> None:
        """Keep as many as there are now, up to `count`."""
        self._count = count
        self._kept: list[int] = []
        self.fill()

    def fill(self) -> None:
        """Keep as many as were wanted, as far as there are any."""
        with suppress(OSError):
            while len(self._kept) < self._count:
                self._kept.append(os.eventfd(0, os.EFD_CLOEXEC))

    def use(self, call: Callable[[int], Any], argument: int) -> Any:  # noqa: ANN401 - the library's
        """Free the descriptors, and have a function of C called that keeps the interpreter. Raises OSError (EMFILE)."""
        self.fill()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        kept = [number for number in self._kept if number < limit or limit == resource.RLIM_INFINITY]
        if len(kept) < _LEAST:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        calls = [*((_CLOSE, number) for number in self._kept), (call, argument)]
        self._kept = []
        try:
            return list(starmap(operator.call, calls))[-1]  # in C from here to there: no other thread has a turn
        finally:
            self.fill()

    def close(self) -> None:
        """Free them for good. Closing twice is harmless."""
        kept, self._kept, self._count = self._kept, [], 0
        for number in kept:
            os.close(number)
