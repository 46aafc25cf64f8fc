"""Keys of connections, without the source port: packets of a client that tries again have the same key.

A key is bytes: the protocol, the addresses of client and server, and the destination port where there is one. It is
read from the packet itself where its header has the usual form, which costs a tenth of decoding it.
"""

from __future__ import annotations

import struct

from nfagent.model.netaddr import number
from nfagent.netlink.packet_header import DCCP, SCTP, TCP, UDP, UDPLITE, PacketHead

_WITH_PORTS = frozenset({TCP, UDP, DCCP, SCTP, UDPLITE})
_IPV4 = struct.Struct("!BxHxxHxBxx4s4s2s2s")  # RFC 791, without options, and ports
_IPV6 = struct.Struct("!BxxxHBx16s16s2s2s")  # RFC 8200, without extension headers, and ports
_PLAIN_IPV4 = 0x45  # version 4, five words of header
_OFFSET = 0x1FFF  # of a fragment
_PORT = struct.Struct("!H")
_ADDRESS_BYTES = {4: 4, 6: 16}


def key_of_packet(packet: bytes, *, is_reply: bool) -> bytes | None:
    """Return the key of a packet's connection; None for a header of another form: see `key_of_head`.

    packet:   from its IP header on, cut behind the ports at the earliest
    is_reply: the server sent it
    """
    try:
        if packet[0] == _PLAIN_IPV4:
            _, length, fragment, protocol, source, destination, sport, dport = _IPV4.unpack_from(packet)
            plain = not fragment & _OFFSET and (length >= _IPV4.size or not length)
        else:
            version, length, protocol, source, destination, sport, dport = _IPV6.unpack_from(packet)
            plain = version >> 4 == 6 and (length >= 4 or not length)
    except (struct.error, IndexError):
        return None
    if not plain or protocol not in _WITH_PORTS:
        return None
    if is_reply:
        return b"%c%b%b%b" % (protocol, destination, source, sport)
    return b"%c%b%b%b" % (protocol, source, destination, dport)


def key_of_head(head: PacketHead) -> bytes:
    """Return the key of the connection of a packet from client to server."""
    size = _ADDRESS_BYTES[head.family]
    ends = number(head.source).to_bytes(size, "big") + number(head.destination).to_bytes(size, "big")
    port = b"" if head.destination_port is None else _PORT.pack(head.destination_port)
    return b"%c%b%b" % (head.protocol, ends, port)
