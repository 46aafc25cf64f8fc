"""Which addresses are this machine's own, in the network namespace of the calling thread."""

from __future__ import annotations

import ipaddress
import socket

from nfagent.cluster.address import family_of

_DISCARD = 9
_DOMAINS = {4: socket.AF_INET, 6: socket.AF_INET6}


def is_own(address: str) -> bool:
    """Tell whether an address is this machine's: whether what is sent there would come from there too.

    That asks the routes; nothing is sent. (What a socket may be bound to says less where `ip_nonlocal_bind` is set.)
    A link-local address is taken for one: it reaches no further than the link between the machine and one Pod.
    """
    if ipaddress.ip_address(address).is_link_local:
        return True
    try:
        with socket.socket(_DOMAINS[family_of(address)], socket.SOCK_DGRAM) as sock:
            sock.connect((address, _DISCARD))
            chosen: str = sock.getsockname()[0]
    except OSError:
        return False
    return chosen == address
