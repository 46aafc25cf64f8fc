"""Sysctls by which the kernel discards the packets of Pods that come to this node for its floating addresses.

Such a packet comes in by the link of the Nodes, or by the tunnel; its answer goes another way where Pods have an
overlay network. A strict reverse path filter (RFC 3704) discards it. Sysctls are those of the calling thread's network
namespace; none is written.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from nfagent.egress.tunnel import TUNNEL_LINK

_CONF = Path("/proc/sys/net/ipv4/conf")
_STRICT = 1


def discards(links: Iterable[int]) -> Iterator[str]:
    """Yield what discards packets that come in by interfaces, given by index, and what to write to end it.

    One interface is the tunnel, by which no answer leaves. IPv6 has no such filter.
    """
    for link in links:
        try:
            name = socket.if_indextoname(link)
        except OSError:
            continue  # it is gone
        shown = os.fsencode(name).decode("utf-8", "replace")  # a name is any bytes
        if max(_number("all", "rp_filter"), _number(name, "rp_filter")) == _STRICT:
            whose = "" if name == TUNNEL_LINK else " whose answers leave by another interface"
            yield (
                f"packets of other nodes' Pods that come in by {shown} are dropped{whose}: the reverse path filter is "
                f"strict there; write `net/ipv4/conf/{shown}/rp_filter = 2` into a file of /etc/sysctl.d, and set it"
            )
        if _number(name, "forwarding", absent=1) == 0:
            yield (
                f"packets of other nodes' Pods that come in by {shown} are dropped: it doesn't forward; "
                f"write `net/ipv4/conf/{shown}/forwarding = 1` into a file of /etc/sysctl.d, and set it"
            )


def _number(name: str, sysctl: str, absent: int = 0) -> int:
    """Return the value of an interface's sysctl; `absent` where it can't be read: the kernel has none."""
    try:
        return int((_CONF / name / sysctl).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return absent
