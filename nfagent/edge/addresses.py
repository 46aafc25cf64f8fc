"""Which addresses are this machine's own, in the network namespace of the calling thread."""

from __future__ import annotations

import ipaddress
import socket

from nfagent.cluster.address import family_of

_DOMAINS = {4: socket.AF_INET, 6: socket.AF_INET6}


def is_own(address: str) -> bool:
    """Tell whether an address is this machine's: whether a socket can be bound to it.

    A link-local address is taken for one: it reaches no further than the link between the machine and one Pod.
    """
    if ipaddress.ip_address(address).is_link_local:
        return True
    try:
        with socket.socket(_DOMAINS[family_of(address)], socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True
