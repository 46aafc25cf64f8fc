"""Unix sockets in sock_diag(7): struct unix_diag_req and unix_diag_msg (linux/unix_diag.h).

/proc/net/unix isn't read: it has names unescaped, so a name with a newline can forge further rows.
"""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.netlink.codec import NLM_F_DUMP, NLM_F_REQUEST, Message, attributes, message

NETLINK_SOCK_DIAG = 4  # the protocol of a netlink socket, linux/netlink.h
SOCK_DIAG_BY_FAMILY = 20

_AF_UNIX = 1
_REQUEST = struct.Struct("=BBHIIIII")  # family, protocol, padding, states, inode, show flags, cookie
_HEAD = struct.Struct("=BBBBIII")  # family, type, state, padding, inode, cookie
_USER = struct.Struct("=I")
_ALL_STATES = 0xFFFFFFFF
_SHOW_NAME, _SHOW_UID = 0x01, 0x40  # UDIAG_SHOW_NAME, UDIAG_SHOW_UID (Linux 5.3)
_NAME, _UID = 0, 7  # UNIX_DIAG_NAME, UNIX_DIAG_UID


class UnixSocket(msgspec.Struct, frozen=True, gc=False):
    """One socket.

    inode: its number
    name:  the name that it is bound to: an abstract name begins with NUL; empty if unbound
    user:  the id of the user who created it; None where the kernel doesn't say
    """

    inode: int
    name: bytes = b""
    user: int | None = None


def encode_socket_dump(sequence: int) -> bytes:
    """Encode a dump request for all unix sockets of the network namespace."""
    wanted = _REQUEST.pack(_AF_UNIX, 0, 0, _ALL_STATES, 0, _SHOW_NAME | _SHOW_UID, 0, 0)
    return message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, sequence, wanted)


def decode_socket(found: Message) -> UnixSocket:
    """Decode one message of the dump. Raises WireError."""
    if found.type != SOCK_DIAG_BY_FAMILY or len(found.payload) < _HEAD.size:
        raise WireError(f"netlink message of type {found.type} and {len(found.payload)} bytes is not a unix_diag_msg")
    found_attributes = dict(attributes(found.payload, _HEAD.size))
    user = found_attributes.get(_UID, b"")
    return UnixSocket(
        _HEAD.unpack_from(found.payload)[4],
        found_attributes.get(_NAME, b""),
        _USER.unpack(user)[0] if len(user) == _USER.size else None,
    )
