"""Replies of ipset that can't be decoded are errors of the kernel, which every caller expects."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from nfagent.errors import KernelError
from nfagent.kernel import ipset_socket
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.netlink import codec, ipset

NAMELESS = codec.nfgen(2, 0) + codec.attribute(ipset.PROTOCOL, b"\6")
CUT_SHORT = NAMELESS + codec.attribute(ipset.SETNAME, b"nfa-s\0") + b"\x40\0\1\0"
MEMBER = codec.nested(ipset.DATA, codec.nested(ipset.IP, b"\0\0\0"), codec.attribute(ipset.PACKETS, bytes(8)))
TORN = NAMELESS + codec.attribute(ipset.SETNAME, b"nfa-s\0") + codec.nested(ipset.ADT, MEMBER)


class AnsweringSocket(socket.socket):
    """Answers each request with a message that has this payload."""

    kernel: socket.socket
    payload: bytes
    kind = ipset.LIST

    def send(self, request: bytes) -> int:  # type: ignore[override]
        """Put the answer where it is received."""
        (asked,) = codec.messages(request)
        self.kernel.send(codec.message(self.kind, 0, asked.sequence, self.payload))
        return len(request)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnsweringSocket]:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made = AnsweringSocket(fileno=ours.detach())
    made.setblocking(False)  # noqa: FBT003 - a socket's method
    made.kernel = kernel
    monkeypatch.setattr(ipset_socket, "request_socket", lambda *_, **__: made)
    with made, kernel:
        yield made


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(IpSetSocket.headers, id="headers"),
        pytest.param(lambda sets: sets.packets("nfa-s"), id="packets"),
        pytest.param(lambda sets: sets.read("nfa-s"), id="members"),
    ],
)
def test_a_listing_that_cannot_be_decoded_is_a_kernel_error(
    opened: AnsweringSocket, ask: Callable[[IpSetSocket], object]
) -> None:
    for opened.payload in (CUT_SHORT, TORN):
        with pytest.raises(KernelError, match="ipset list"):
            ask(IpSetSocket())


def test_a_set_without_a_name_is_a_kernel_error(opened: AnsweringSocket) -> None:
    opened.payload = NAMELESS
    for ask in (IpSetSocket.names, IpSetSocket.headers):
        with pytest.raises(KernelError, match="ipset list"):
            ask(IpSetSocket())


def test_an_acknowledgement_with_a_code_that_is_none_is_a_kernel_error(opened: AnsweringSocket) -> None:
    opened.kind, opened.payload = codec.NLMSG_ERROR, struct.pack("=i", 1) + bytes(16)
    with pytest.raises(KernelError, match="ipset flush nfa-s"):
        IpSetSocket().flush("nfa-s")
