"""Encodes the loading of keys, which are compared or looked up: addresses, ports, and concatenations of these.

A key of several fields fills registers from register 1 on, each field from a multiple of four bytes on.
"""

from __future__ import annotations

from nfagent.model.netaddr import Family
from nfagent.netlink import nft_expressions as nft
from nfagent.netlink.nft_messages import ADDRESS_BYTES
from nfagent.nftables.matches import CtAddress, IpAddress

ADDRESS_AT = {("saddr", 4): (12, 4), ("daddr", 4): (16, 4), ("saddr", 6): (8, 16), ("daddr", 6): (24, 16)}
"""Offset and size of an address in the header of IPv4 or IPv6."""
SOURCE_PORT, DESTINATION_PORT = 0, 2
"""Offsets in the header of a transport protocol."""
TUPLES = {"client": 0, "server": 1}
"""The tuple of the connection (enum ip_conntrack_dir) that an end is the source of."""
_SOURCES = {4: nft.CT_SRC_IP, 6: nft.CT_SRC_IP6}
_PROTOCOL_BYTES = _PORT_BYTES = 4  # in a key of several fields: padded


def flow(family: Family, *, replies: bool = False) -> bytes:
    """Load source, protocol, source port, destination, destination port: of the packet, or of replies to it."""
    first, second = IpAddress("saddr", family), IpAddress("daddr", family)
    first_port, second_port = SOURCE_PORT, DESTINATION_PORT
    if replies:
        first, second, first_port, second_port = second, first, second_port, first_port
    protocol = ADDRESS_BYTES[family]
    port = protocol + _PROTOCOL_BYTES
    other = port + _PORT_BYTES
    return (
        address(first)
        + nft.meta(nft.META_L4PROTO, register(protocol))
        + nft.payload("transport", first_port, 2, register(port))
        + address(second, register(other))
        + nft.payload("transport", second_port, 2, register(other + ADDRESS_BYTES[family]))
    )


def to_port(start: int, offset: int = DESTINATION_PORT) -> bytes:
    """Load protocol and port of the packet as fields of a key, from this byte of the key on."""
    port = nft.payload("transport", offset, 2, register(start + _PROTOCOL_BYTES))
    return nft.meta(nft.META_L4PROTO, register(start)) + port


def register(start: int) -> int:
    """Return the register of the field at a byte of the key: NFT_REG_1.. where one starts, NFT_REG32_00.. elsewhere."""
    return 1 + start // 16 if start % 16 == 0 else 8 + start // 4


def address(key: CtAddress | IpAddress, to: int = 1) -> bytes:
    """Load an address into the register `to`."""
    if isinstance(key, IpAddress):
        return nft.payload("network", *ADDRESS_AT[key.side, key.family], to)
    return nft.ct(_SOURCES[key.family], to, direction=TUPLES[key.end])
