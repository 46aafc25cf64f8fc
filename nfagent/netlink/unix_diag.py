"""Unix sockets as sock_diag(7) tells of them: struct unix_diag_req and unix_diag_msg (linux/unix_diag.h).

/proc/net/unix isn't read: names stand in it as they are, and whoever has a newline in one writes rows of his own.
"""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.netlink.codec import NLM_F_REQUEST, Message, attributes, message

NETLINK_SOCK_DIAG = 4  # the protocol of a netlink socket, linux/netlink.h
SOCK_DIAG_BY_FAMILY = 20

_NLM_F_DUMP = 0x300
_AF_UNIX = 1
_REQUEST = struct.Struct("=BBHIIIII")  # family, protocol, padding, states, inode, what to show, cookie
_HEAD = struct.Struct("=BBBBIII")  # family, type, state, padding, inode, cookie
_ALL_STATES = 0xFFFFFFFF
_SHOW_NAME = 1  # UDIAG_SHOW_NAME
_NAME = 0  # UNIX_DIAG_NAME


class UnixSocket(msgspec.Struct, frozen=True, gc=False):
    """A socket's inode, and the name that it is bound to: an abstract one begins with NUL; empty without one."""

    inode: int
    name: bytes = b""


def encode_listing(sequence: int) -> bytes:
    """Ask for all unix sockets of the network namespace."""
    wanted = _REQUEST.pack(_AF_UNIX, 0, 0, _ALL_STATES, 0, _SHOW_NAME, 0, 0)
    return message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | _NLM_F_DUMP, sequence, wanted)


def decode_socket(found: Message) -> UnixSocket:
    """Read one message of the answer. Raises WireError."""
    if found.type != SOCK_DIAG_BY_FAMILY or len(found.payload) < _HEAD.size:
        raise WireError(f"netlink message of type {found.type} and {len(found.payload)} bytes tells of no unix socket")
    said = dict(attributes(found.payload, _HEAD.size))
    return UnixSocket(_HEAD.unpack_from(found.payload)[4], said.get(_NAME, b""))
