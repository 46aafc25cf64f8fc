"""Asks rtnetlink for interfaces, in the network namespace of the thread that asks.

The kernel has answered by the time that a request is sent, or the next part is asked for: nothing waits here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator

from nfagent.kernel.sockets import DATAGRAM_BYTES, netlink_socket
from nfagent.netlink import codec
from nfagent.netlink.rtnl_link import (
    NETLINK_ROUTE,
    NLM_F_DUMP_INTR,
    RTM_NEWLINK,
    Interface,
    decode_link,
    encode_listing,
)

_TRIES = 3


def rtnetlink_socket() -> socket.socket:
    """Open a socket that talks to the kernel alone. Raises OSError."""
    opened = netlink_socket(NETLINK_ROUTE)
    opened.connect((0, 0))
    return opened


def listed_links(
    opened: socket.socket, kind: str = "", master: int = 0
) -> Generator[list[Interface], None, list[Interface]]:
    """List interfaces, all of them or those of a kind and a master; anew where some came or went meanwhile.

    Gives what each datagram holds, and returns what the last listing held. A kernel that doesn't know the kind lists
    more than was asked for. Raises OSError, WireError.
    """
    found: list[Interface] = []
    for sequence in range(1, _TRIES + 1):
        opened.send(encode_listing(sequence, kind, master))
        found = []
        whole, ended = True, False
        while not ended:
            came: list[Interface] = []
            for part in codec.messages(opened.recv(DATAGRAM_BYTES)):
                whole = whole and not part.flags & NLM_F_DUMP_INTR
                ended = ended or part.type == codec.NLMSG_DONE
                raise_refusal(part)
                if part.type == RTM_NEWLINK:
                    came.append(decode_link(part))
            found += came
            yield came
        if whole:
            break
    return found


def raise_refusal(part: codec.Message) -> None:
    """Raise OSError for an answer that is a refusal."""
    if part.type == codec.NLMSG_ERROR:
        code = codec.ack_errno(part)
        raise OSError(code, os.strerror(code))
