"""Which addresses are this machine's own, in the network namespace of the calling thread."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from nfagent.model.netaddr import Family, family_of, is_link_local

_DISCARD = 9
_INTERFACES = Path("/proc/thread-self/net/if_inet6")
_DOMAINS: dict[Family, socket.AddressFamily] = {4: socket.AF_INET, 6: socket.AF_INET6}


def is_own(address: str) -> bool:
    """Tell whether an address is this machine's: whether what is sent there would come from there too.

    That asks the routes; nothing is sent. (What a socket may be bound to says less where `ip_nonlocal_bind` is set.)
    """
    if is_link_local(address):
        return ipaddress.ip_address(address).packed.hex() in _link_locals()
    return bool(own_among((address,)))


def own_among(addresses: Iterable[str]) -> str:
    """Return the first address that is this machine's, by its routes, and no link-local one; '' where none is.

    Asks with one socket a family: some microseconds an address.
    """
    with ExitStack() as stack:
        sockets: dict[Family, socket.socket] = {}
        for address in addresses:
            family = family_of(address)
            if family not in sockets:
                sockets[family] = stack.enter_context(socket.socket(_DOMAINS[family], socket.SOCK_DGRAM))
            try:
                sockets[family].connect((address, _DISCARD))
                chosen: str = sockets[family].getsockname()[0]
            except OSError:
                continue
            if chosen == address and not ipaddress.ip_address(address).is_link_local:
                return address
    return ""


def _link_locals() -> set[str]:
    """Give the addresses of all interfaces, in hexadecimal; a route to a link-local one says nothing without a link."""
    try:
        listed = _INTERFACES.read_text(encoding="ascii")
    except OSError:  # a kernel without IPv6
        return set()
    return {line.split()[0] for line in listed.splitlines()}
