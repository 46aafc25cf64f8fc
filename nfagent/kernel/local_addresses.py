"""Recognises local addresses of this machine, in the network namespace of the calling thread."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from nfagent.errors import KernelError
from nfagent.model.netaddr import Family, family_of, is_link_local

_DISCARD = 9
_INTERFACES = Path("/proc/thread-self/net/if_inet6")
_DOMAINS: dict[Family, socket.AddressFamily] = {4: socket.AF_INET, 6: socket.AF_INET6}


def is_local_address(address: str) -> bool:
    """Return whether an address is local: whether a packet to it would have it as its source too.

    A route look-up by `connect`; nothing is sent. (`bind` would accept any address with `ip_nonlocal_bind` set.)
    Raises KernelError where that can't be told.
    """
    if is_link_local(address):
        return ipaddress.ip_address(address).packed.hex() in _link_locals()
    return bool(first_local_address((address,)))


def first_local_address(addresses: Iterable[str]) -> str:
    """Return the first local address, link-local ones excluded; '' without one.

    One socket per family, some microseconds per address. Raises KernelError where none can be opened.
    """
    with ExitStack() as stack:
        sockets: dict[Family, socket.socket | None] = {}
        for address in addresses:
            family = family_of(address)
            if family not in sockets:
                sockets[family] = _opened(stack, family)
            opened = sockets[family]
            if opened is None:
                continue
            try:
                opened.connect((address, _DISCARD))
                chosen: str = opened.getsockname()[0]
            except OSError:
                continue
            if chosen == address and not ipaddress.ip_address(address).is_link_local:
                return address
    return ""


def _opened(stack: ExitStack, family: Family) -> socket.socket | None:
    """Return a socket of a family, None where the kernel has no such family."""
    try:
        return stack.enter_context(socket.socket(_DOMAINS[family], socket.SOCK_DGRAM))
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise _unknown(error) from error


def _unknown(error: OSError) -> KernelError:
    return KernelError(f"cannot tell which addresses this machine has: {error.strerror}")


def _link_locals() -> set[str]:
    """Return all interfaces' IPv6 addresses, in hexadecimal: a link-local route look-up needs an interface."""
    try:
        listed = _INTERFACES.read_bytes()  # an interface's name is any bytes
    except FileNotFoundError:  # a kernel without IPv6
        return set()
    except OSError as error:
        raise _unknown(error) from error
    return {words[0].decode("ascii", "replace") for line in listed.split(b"\n") if (words := line.split())}
