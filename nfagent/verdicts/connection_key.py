"""Keys of connections, read from a packet itself where its header has the usual form: a tenth of the cost of decoding.

A denied client tries again from any port, so the keys of denies leave the source port out: they are the protocol, the
addresses of client and server, and the destination port where there is one. Keys of allows have the source port too,
of ICMP type, code and identifier: what conntrack tells connections apart by. All keys are bytes.
"""

from __future__ import annotations

import struct

from nfagent.model.netaddr import number
from nfagent.netlink.packet_header import DCCP, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, PacketHead, address_text

_WITH_PORTS = frozenset({TCP, UDP, DCCP, SCTP, UDPLITE})
_IPV4 = struct.Struct("!BxHxxHxBxx4s4s2s2s")  # RFC 791, without options, and ports
_IPV6 = struct.Struct("!BxxxHBx16s16s2s2s")  # RFC 8200, without extension headers, and ports
_PLAIN_IPV4 = 0x45  # version 4, five words of header
_IPV4_SIZE, _IPV6_SIZE = 20, 40
_OFFSET = 0x1FFF  # of a fragment
_PORT = struct.Struct("!H")
_ADDRESS_BYTES = {4: 4, 6: 16}
_TCP_OPENING = struct.Struct("!4x4s5xB")  # RFC 9293: sequence number, flags
_SYN, _ACK = 0x02, 0x10
_SCTP_OPENING = struct.Struct("!12xB3x4s")  # RFC 9260: the first chunk's type, and an INIT's initiate tag
_INIT = 1
_ICMP_ID = slice(4, 6)


def key_of_packet(packet: bytes, *, is_reply: bool) -> bytes | None:
    """Return the key of a denied packet's connection; None for a header of another form: see `key_of_head`.

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
    """Return the key of the connection of a denied packet from client to server."""
    port = b"" if head.destination_port is None else _PORT.pack(head.destination_port)
    return b"%c%b%b" % (head.protocol, _ends(head), port)


def connection_of_packet(packet: bytes) -> tuple[bytes, bytes] | None:
    """Return the key of an allowed packet's connection, and what this connection began with.

    A TCP SYN begins with its sequence number, an SCTP INIT with its initiate tag: a retransmission has the same one,
    the next connection between the same ports another one. All other packets have b''.
    None is for a header of another form: see `connection_of_head`.
    """
    try:
        if packet[0] == _PLAIN_IPV4:
            _, length, fragment, protocol, source, destination, sport, dport = _IPV4.unpack_from(packet)
            plain, size = not fragment & _OFFSET and (length >= _IPV4.size or not length), _IPV4_SIZE
        else:
            version, length, protocol, source, destination, sport, dport = _IPV6.unpack_from(packet)
            plain, size = version >> 4 == 6 and (length >= 4 or not length), _IPV6_SIZE
    except (struct.error, IndexError):
        return None
    if not plain:
        return None
    if protocol in _WITH_PORTS:
        key = b"%c%b%b%b%b" % (protocol, source, destination, sport, dport)
        return key, _opening(packet, protocol, size)
    if protocol in {ICMP, ICMPV6}:
        return b"%c%b%b%b%b" % (protocol, source, destination, sport, packet[size:][_ICMP_ID]), b""
    return None


def _opening(packet: bytes, protocol: int, offset: int) -> bytes:
    try:
        if protocol == TCP:
            sequence, flags = _TCP_OPENING.unpack_from(packet, offset)
            return sequence if flags & (_SYN | _ACK) == _SYN else b""
        if protocol == SCTP:
            kind, tag = _SCTP_OPENING.unpack_from(packet, offset)
            return tag if kind == _INIT else b""
    except struct.error:  # the copy ends behind the ports
        return b""
    return b""


def connection_of_head(head: PacketHead) -> tuple[bytes, bytes]:
    """Return what `connection_of_packet` does, by what a decoded packet tells: without identifier and beginning."""
    if head.source_port is not None and head.destination_port is not None:
        upper = _PORT.pack(head.source_port) + _PORT.pack(head.destination_port)
    else:
        upper = bytes(value for value in (head.icmp_type, head.icmp_code) if value is not None)
    return b"%c%b%b" % (head.protocol, _ends(head), upper), b""


def address_in_key(key: bytes, *, of_server: bool) -> str:
    """Return the address of client or server in the key of a plain packet with ports or of ICMP."""
    size = 4 if len(key) < 1 + 2 * 16 else 16
    begin = 1 + size if of_server else 1
    return address_text(key[begin : begin + size])


def _ends(head: PacketHead) -> bytes:
    size = _ADDRESS_BYTES[head.family]
    return number(head.source).to_bytes(size, "big") + number(head.destination).to_bytes(size, "big")
