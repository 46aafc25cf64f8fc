"""An SCTP association between two network namespaces, by raw packets, since many kernels have no SCTP sockets.

It has the handshake of RFC 9260, and heartbeats in place of data: conntrack sees an established association.
"""

from __future__ import annotations

import functools
import itertools
import socket
import struct
from typing import Self

from nfagent.lab.probes.raw_packets import INIT, INIT_ACK, SctpInit, crc32c, payload_of, sctp
from nfagent.lab.topology import netns

_SERVER_PORT = 9899
_SECONDS = 30.0
_client_ports = itertools.count(41_000)
_CLIENT_TAG, _SERVER_TAG = 0x1234_5678, 0x8765_4321
_HEARTBEAT, _HEARTBEAT_ACK, _COOKIE_ECHO, _COOKIE_ACK = 4, 5, 10, 11
_HEADER = struct.Struct("!HHI")
_CHUNK = struct.Struct("!BBH")
_START = _HEADER.size + 4  # behind the checksum


class SctpAssociation:
    """A live association; `ask` sends a heartbeat on it, and returns its source address at the server.

    seen_port: source port that the server saw last
    """

    def __init__(self, client: str, server: str, destination: str) -> None:
        """Set it up from one namespace to an address in another. Raises OSError where that takes over half a minute."""
        self._family = 6 if ":" in destination else 4
        domain = socket.AF_INET6 if self._family == 6 else socket.AF_INET
        make = functools.partial(socket.socket, domain, socket.SOCK_RAW, socket.IPPROTO_SCTP)
        self._client = netns.inside(client, make)
        self._server = netns.inside(server, make)
        self._port = next(_client_ports)
        self.seen_port = 0
        try:
            for sock in (self._client, self._server):
                sock.settimeout(_SECONDS)
            self._server.bind((destination, 0))
            self._client.connect((destination, 0))
            self._shake_hands()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close both ends."""
        self._client.close()
        self._server.close()

    def ask(self, payload: bytes) -> str:
        """Send a heartbeat, answer it; return the source address that the server saw."""
        return self._exchange(_HEARTBEAT, _HEARTBEAT_ACK, struct.pack("!HH", 1, 4 + len(payload)) + payload)

    def _shake_hands(self) -> None:
        self._client.send(sctp(SctpInit(INIT, self._port, _SERVER_PORT, 0, _CLIENT_TAG)))
        _, sender, port = self._received(self._server, _SERVER_PORT)
        self._server.sendto(sctp(SctpInit(INIT_ACK, _SERVER_PORT, port, _CLIENT_TAG, _SERVER_TAG)), (sender, 0))
        self._received(self._client, self._port)
        self._exchange(_COOKIE_ECHO, _COOKIE_ACK, b"cookie")

    def _exchange(self, kind: int, answer: int, value: bytes) -> str:
        self._client.send(_packet(self._port, _SERVER_PORT, _SERVER_TAG, kind, value))
        asked, sender, self.seen_port = self._received(self._server, _SERVER_PORT)
        assert asked[0] == kind
        self._server.sendto(_packet(_SERVER_PORT, self.seen_port, _CLIENT_TAG, answer, value), (sender, 0))
        answered, _, _ = self._received(self._client, self._port)
        assert answered == bytes([answer]) + asked[1:]
        return sender

    def _received(self, sock: socket.socket, port: int) -> tuple[bytes, str, int]:
        """Return the chunk, the source address and the source port of the next packet to a port."""
        while True:
            received, sender = sock.recvfrom(2048)
            packet = payload_of(self._family, received)
            source, destination, _ = _HEADER.unpack_from(packet)
            if destination == port:
                return packet[_START:], str(sender[0]), int(source)


def _packet(source: int, destination: int, tag: int, kind: int, value: bytes) -> bytes:
    header = _HEADER.pack(source, destination, tag)
    chunk = _CHUNK.pack(kind, 0, _CHUNK.size + len(value)) + value + bytes(-len(value) % 4)
    return header + struct.pack("<I", crc32c(header + bytes(4) + chunk)) + chunk
