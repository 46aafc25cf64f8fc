"""Opens contexts of libnftables with reserved file descriptors, after a check that netlink sockets can be opened.

No call of the library runs beside another one (`one_call`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from nfagent.errors import HostError, KernelError
from nfagent.kernel.sockets import netlink_socket
from nfagent.netlink.codec import NETLINK_NETFILTER
from nfagent.system.descriptors import DescriptorReserve

_IN_USE = threading.RLock()
_FAILED = "cannot open a netlink socket for nf_tables"


@contextmanager
def one_call() -> Iterator[None]:
    """Hold back other threads' calls of the library, of any context, for as long as a call runs. Blocking.

    The library isn't made for threads, each with its context or not: it splits the names of types by strtok(3), whose
    state is that of the process, and finds protocols by getprotobynumber(3), which returns the same memory each time.
    A listing beside another one lacks types or has those of the other, or the library ends the process (assert(3)).
    """
    with _IN_USE:
        yield


class _FunctionsLoadedError(Exception):
    """The library's constructor has loaded its functions, and would open a context next."""


class _NoContext:
    """Stands in the place of the library's `nft_ctx_new`, and opens nothing."""

    def __get__(self, context: object, kind: type | None = None) -> _NoContext:
        """Return itself."""
        return self

    def __set__(self, context: object, function: object) -> None:
        """Ignore the library's own function."""

    def __call__(self, _flags: int) -> None:
        """Raise _FunctionsLoadedError."""
        raise _FunctionsLoadedError


class ContextOpener:
    """Opens contexts of python3-nftables' class, whose functions are loaded once for all of them.

    The class's constructor loads them for each context, anew: ctypes then makes a class and twenty functions, which
    refer to each other and stay until the next garbage collection. Besides, its `nft_ctx_new` releases the interpreter
    lock, and calls exit(3) where it gets no socket.
    """

    def __init__(self, library: Any, reserve: DescriptorReserve) -> None:  # noqa: ANN401 - the library is untyped
        """Load the library's functions. Raises OSError where it can't be loaded.

        library: the class `Nftables`
        reserve: is freed for each opening
        """
        self._library = library
        self._reserve = reserve
        self._functions = _functions_of(library)
        self._opening = _nft_ctx_new()

    def open(self) -> Any:  # noqa: ANN401 - the library is untyped
        """Open a context while the interpreter lock is held. Raises KernelError without a free descriptor."""
        try:
            pointer = self._reserve.use(self._opening, 0)
        except OSError as error:
            raise KernelError(f"{_FAILED}: {error.strerror}") from None
        context = self._library.__new__(self._library)
        # As the end of the library's constructor does.
        vars(context).update(self._functions, **{f"_{self._library.__name__}__ctx": pointer})
        context.nft_ctx_buffer_output(pointer)
        context.nft_ctx_buffer_error(pointer)
        return context


@cache
def _functions_of(library: Any) -> dict[str, Any]:  # noqa: ANN401 - the library is untyped
    """Return the functions that the library's constructor loads, by name. Raises OSError."""
    loading: Any = type(library.__name__, (library,), {"nft_ctx_new": _NoContext(), "__del__": lambda _: None})
    loaded = loading.__new__(loading)
    with suppress(_FunctionsLoadedError):
        loaded.__init__()
    return {name: function for name, function in vars(loaded).items() if name.startswith("nft_")}


@cache
def _nft_ctx_new() -> Callable[[int], Any]:
    """Return the function of the library that keeps the interpreter lock. Raises OSError."""
    opening = ctypes.PyDLL("libnftables.so.1").nft_ctx_new
    opening.restype, opening.argtypes = ctypes.c_void_p, [ctypes.c_int]
    return opening


def require_netlink() -> None:
    """Check that a netlink socket can be opened. Raises KernelError, HostError.

    libnftables calls exit(3) where it gets no socket: so this check comes first, and descriptors are reserved.
    """
    try:
        netlink_socket(NETLINK_NETFILTER).close()
    except OSError as error:
        if error.errno == errno.EMFILE:
            return  # the reserved descriptors are left
        reason = os.strerror(error.errno or 0)
        if error.errno in {errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
            raise KernelError(f"{_FAILED}: {reason}") from None
        raise HostError(f"{_FAILED}: {reason}", hint="modprobe nf_tables") from None
