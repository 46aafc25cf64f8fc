"""How libnftables is opened: with descriptors kept for its sockets, and only where the kernel can be spoken to."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from nfagent.errors import HostError, KernelError
from nfagent.netlink import codec
from nfagent.system.descriptors import DescriptorReserve


class NftContextFactory:
    """Stands for the library's function that opens a context: it ends the whole process where it gets no socket."""

    def __init__(self, reserve: DescriptorReserve) -> None:
        """Free the reserve for each opening."""
        self._reserve = reserve

    def __get__(self, library: object, kind: type | None = None) -> NftContextFactory:
        """Be found as what it stands for."""
        return self

    def __set__(self, library: object, function: object) -> None:
        """Leave out the one that lets other threads run meanwhile."""

    def __call__(self, flags: int) -> Any:  # noqa: ANN401 - a pointer
        """Open a context, while no other thread runs. Raises KernelError without a descriptor."""
        opening = ctypes.PyDLL("libnftables.so.1").nft_ctx_new
        opening.restype, opening.argtypes = ctypes.c_void_p, [ctypes.c_int]
        try:
            return self._reserve.use(opening, flags)
        except OSError as error:
            raise KernelError(f"nf_tables can't be spoken to: {error.strerror}") from None


def reserving(library: Any, reserve: DescriptorReserve) -> Callable[[], Any]:  # noqa: ANN401 - the library is untyped
    """Return the library, but for how it opens a context, and for freeing one that it never got."""

    def free(opened: object) -> None:
        if hasattr(opened, f"_{library.__name__}__ctx"):
            library.__del__(opened)

    replaced = {"nft_ctx_new": NftContextFactory(reserve), "__del__": free}
    made: Callable[[], Any] = type(library.__name__, (library,), replaced)
    return made


def require_netlink() -> None:
    """Look whether there are netlink sockets to be had. Raises KernelError, MachineError.

    libnftables ends the whole process where it gets none: so we look first, and keep some descriptors.
    """
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, codec.NETLINK_NETFILTER).close()
    except OSError as error:
        if error.errno == errno.EMFILE:
            return  # those that are kept may do
        reason = os.strerror(error.errno or 0)
        if error.errno in {errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
            raise KernelError(f"nf_tables can't be spoken to: {reason}") from None
        raise HostError(f"nf_tables can't be spoken to: {reason}", hint="modprobe nf_tables") from None
