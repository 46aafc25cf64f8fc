"""The conntrack table of a network namespace: deletes all entries, or fills it to the limit.

Each namespace has its own count; the limit, nf_conntrack_max, is the machine's and only read here.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path

from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from nfagent.lab.topology import netns
from nfagent.netlink import codec

_LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")

# linux/netfilter/nfnetlink_conntrack.h: IPCTNL_MSG_CT_NEW of NFNL_SUBSYS_CTNETLINK, CTA_*
_NEW = 1 << 8
_NLM_F_CREATE = 0x400
_ORIGINAL, _REPLY, _STATUS, _TIMEOUT = 1, 2, 3, 7
_IP, _PROTOCOL = 1, 2
# IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED: entries that the kernel doesn't evict early
_KEPT = struct.pack("!I", 1 << 1 | 1 << 2 | 1 << 3)
_SECONDS = struct.pack("!I", 600)
_CLIENT = bytes.fromhex("f00df00d")  # stands for a client's address until that is known
SERVER = "172.16.0.1"
_SERVER = ipaddress.ip_address(SERVER).packed
_FIRST_CLIENT = int(ipaddress.ip_address("172.20.0.0"))
_BATCH = 256


def limit() -> int:
    """Return the largest number of entries of a namespace, 0 for no limit."""
    return int(_LIMIT.read_text(encoding="ascii"))


def count(namespace: str) -> int:
    """Return the number of a namespace's entries."""
    return netns.inside(namespace, lambda: int(_COUNT.read_text(encoding="ascii")))


def forget(namespace: str) -> None:
    """Delete every entry of a namespace, as after their timeouts."""

    def flush() -> None:
        tracking = NFCTSocket()
        try:
            tracking.flush()
        finally:
            tracking.close()

    netns.inside(namespace, flush)


def fill(namespace: str) -> None:
    """Fill a namespace's table with invented UDP entries; each takes some hundred bytes of memory."""
    netns.inside(namespace, lambda: create(limit() + _BATCH))


def create(connections: int) -> None:
    """Add at least this many UDP connections to SERVER to the table of this thread's namespace."""
    batch = b"".join(_connection(port) for port in range(1024, 1024 + _BATCH))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, codec.NETLINK_NETFILTER) as sock:
        for number in range(-(-connections // _BATCH)):
            sock.send(batch.replace(_CLIENT, (_FIRST_CLIENT + number).to_bytes(4, "big")))


def _connection(port: int) -> bytes:
    return codec.message(
        _NEW,
        codec.NLM_F_REQUEST | _NLM_F_CREATE,
        0,
        codec.nfgen(socket.AF_INET, 0)
        + _tuple(_ORIGINAL, (_CLIENT, _SERVER), (port, 53))
        + _tuple(_REPLY, (_SERVER, _CLIENT), (53, port))
        + codec.attribute(_STATUS, _KEPT)
        + codec.attribute(_TIMEOUT, _SECONDS),
    )


def _tuple(direction: int, addresses: tuple[bytes, bytes], ports: tuple[int, int]) -> bytes:
    ends = (codec.attribute(kind, address) for kind, address in enumerate(addresses, start=1))
    written = (codec.attribute(kind, struct.pack("!H", port)) for kind, port in enumerate(ports, start=2))
    udp = codec.attribute(1, bytes([socket.IPPROTO_UDP]))
    return codec.nested(direction, codec.nested(_IP, *ends), codec.nested(_PROTOCOL, udp, *written))
