"""Decodes NFLOG datagrams by layouts: records of one rule and one pair of interfaces begin with the same bytes.

These bytes, up to the value of the timestamp, are decoded once, attribute by attribute, and then looked up. What
follows them has one form in the hooks of forwarded packets: timestamp, sequence number, packet. Any other record is
decoded attribute by attribute. The result is that of `nflog.decode_datagram` for any bytes; a record costs a quarter.
"""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.netlink import nflog
from nfagent.netlink.codec import NFGEN_SIZE
from nfagent.netlink.nflog import Datagram, LoggedPacket

_MOST_LAYOUTS = 4_096
"""Of rules times pairs of interfaces. A layout takes some 300 bytes."""
_KEPT_NS = 300 * 1_000_000_000
"""Interfaces and rules come and go: after so long all layouts are forgotten, and those in use are soon kept again."""
_HEADER = struct.Struct("=IH10x")  # struct nlmsghdr: length and type
_SIZE = _HEADER.size
_PREFIX_LENGTH = struct.Struct("=H")
_PREFIX_AT = NFGEN_SIZE + 8  # behind NFULA_PACKET_HDR, which the kernel writes first
_TAIL = struct.Struct("=8s8s4s4sHH")  # the timestamp's value, NFULA_SEQ with its header, the header of NFULA_PAYLOAD
_SEQ_HEADER = struct.pack("=HH", 8, nflog.A_SEQ)
_STAMP_HEADER = struct.pack("=HH", 20, nflog.A_TIMESTAMP)
_BIG = int.from_bytes


class _Layout(msgspec.Struct, frozen=True, gc=False):
    prefix: str
    hook: int
    hw_protocol: int
    in_interface: int
    out_interface: int


class RecordLayouts:
    """The layouts of the records of one group."""

    def __init__(self) -> None:
        """Start without layouts."""
        self._layouts: dict[bytes, _Layout] = {}
        self._began_ns = 0  # the timestamp of the record with the first of them
        self._sizes: dict[int, int] = {}  # length of NFULA_PREFIX -> bytes before the timestamp, of the latest record

    def decode(self, datagram: bytes) -> Datagram:
        """Decode all packets of a datagram, as `nflog.decode_datagram`; never raises."""
        packets: list[LoggedPacket] = []
        undecodable, offset, size = 0, 0, len(datagram)
        while offset < size:
            if size - offset < _SIZE:
                undecodable += 1
                break
            length, kind = _HEADER.unpack_from(datagram, offset)
            if not _SIZE <= length <= size - offset:
                undecodable += 1
                break
            if kind == nflog.MSG_PACKET:
                body = datagram[offset + _SIZE : offset + length]
                packet = self.known(body)
                if packet is None:
                    try:
                        packet = self._decode(body)
                    except WireError:
                        undecodable += 1
                if packet is not None:
                    packets.append(packet)
            offset += (length + 3) & ~3
        return Datagram(packets, undecodable)

    def known(self, body: bytes) -> LoggedPacket | None:
        """Return the packet of a record that has a known layout; None for others."""
        try:
            at = self._sizes[_PREFIX_LENGTH.unpack_from(body, _PREFIX_AT)[0]]
            layout = self._layouts[body[:at]]
            seconds, microseconds, header, number, length, kind = _TAIL.unpack_from(body, at)
        except (KeyError, struct.error):
            return None
        end = at + _TAIL.size - 4 + length
        # Bytes behind the packet would be attributes, or the beginning of one: at most the padding may be there.
        if header != _SEQ_HEADER or kind != nflog.A_PAYLOAD or length < 4 or not end <= len(body) <= ((end + 3) & -4):
            return None
        return LoggedPacket(
            layout.prefix,
            body[at + _TAIL.size : end],
            layout.hook,
            layout.hw_protocol,
            _BIG(number, "big"),
            _BIG(seconds, "big") * 1_000_000_000 + _BIG(microseconds, "big") * 1_000,
            layout.in_interface,
            layout.out_interface,
        )

    def _decode(self, body: bytes) -> LoggedPacket:
        """Decode a record attribute by attribute, and keep its layout. Raises WireError."""
        packet = nflog.decode_packet(body)
        at = body.find(_STAMP_HEADER, NFGEN_SIZE) + len(_STAMP_HEADER)
        if at >= len(_STAMP_HEADER) + NFGEN_SIZE and body[:at] not in self._layouts:
            self._keep(body, at, packet.timestamp_ns or 0)
        return packet

    def _keep(self, body: bytes, at: int, now_ns: int) -> None:
        """Keep the layout of the bytes before `at`: their values, since an attribute behind them may have others."""
        end = at - len(_STAMP_HEADER)
        if not _attributes_end_at(body, end):
            return
        try:
            first = nflog.decode_packet(body[:end])
        except WireError:
            return
        if len(self._layouts) >= _MOST_LAYOUTS or abs(now_ns - self._began_ns) >= _KEPT_NS:
            self._layouts.clear()
            self._began_ns = now_ns
        self._sizes[_PREFIX_LENGTH.unpack_from(body, _PREFIX_AT)[0]] = at
        self._layouts[body[:at]] = _Layout(
            first.prefix, first.hook, first.hw_protocol, first.in_interface, first.out_interface
        )


def _attributes_end_at(body: bytes, end: int) -> bool:
    """Return whether an attribute ends there, and none before is of the kinds that a layout reads behind it."""
    offset = NFGEN_SIZE
    while offset < end:
        length, kind = nflog.ATTRIBUTE.unpack_from(body, offset)
        if kind in nflog.BEHIND_LAYOUT:
            return False
        offset = (offset + length + 3) & -4
    return offset == end
