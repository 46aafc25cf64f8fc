"""Opens libnftables with reserved file descriptors, after a check that netlink sockets can be opened."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any

from nfagent.errors import HostError, KernelError
from nfagent.kernel.sockets import netlink_socket
from nfagent.netlink.codec import NETLINK_NETFILTER
from nfagent.system.descriptors import DescriptorReserve

_FAILED = "cannot open a netlink socket for nf_tables"


class NftContextFactory:
    """Replaces the library's `nft_ctx_new`, which calls exit(3) where it gets no socket."""

    def __init__(self, reserve: DescriptorReserve) -> None:
        """Store the reserve, which is freed for each call."""
        self._reserve = reserve

    def __get__(self, library: object, kind: type | None = None) -> NftContextFactory:
        """Return itself in the place of the replaced function."""
        return self

    def __set__(self, library: object, function: object) -> None:
        """Ignore the library's own function, which releases the interpreter lock."""

    def __call__(self, flags: int) -> Any:  # noqa: ANN401 - a pointer
        """Open a context while the interpreter lock is held. Raises KernelError without a free descriptor."""
        opening = ctypes.PyDLL("libnftables.so.1").nft_ctx_new
        opening.restype, opening.argtypes = ctypes.c_void_p, [ctypes.c_int]
        try:
            return self._reserve.use(opening, flags)
        except OSError as error:
            raise KernelError(f"{_FAILED}: {error.strerror}") from None


def with_reserve(library: Any, reserve: DescriptorReserve) -> Callable[[], Any]:  # noqa: ANN401 - the library is untyped
    """Return the library's class with `nft_ctx_new` replaced; a context that was never opened isn't freed."""

    def free(opened: object) -> None:
        if hasattr(opened, f"_{library.__name__}__ctx"):
            library.__del__(opened)

    replaced = {"nft_ctx_new": NftContextFactory(reserve), "__del__": free}
    made: Callable[[], Any] = type(library.__name__, (library,), replaced)
    return made


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
