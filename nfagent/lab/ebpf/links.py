"""Finds the links of Pods on their node: veth devices whose other end, in another namespace, has a Pod's address.

The kernel lists addresses of another namespace by its id (IFA_TARGET_NETNSID, Linux 4.20), which a veth device names.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping

import msgspec

from nfagent.errors import KernelError, WireError
from nfagent.kernel.rtnetlink import raise_refusal
from nfagent.kernel.sockets import SOL_NETLINK, dump_replies, netlink_socket
from nfagent.netlink.codec import (
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    Message,
    attribute,
    attributes,
    message,
)
from nfagent.netlink.rtnl_address import RTM_NEWADDR, decode_address
from nfagent.netlink.rtnl_link import NETLINK_ROUTE, RTM_NEWLINK, encode_link_dump

_RTM_GETADDR = 22
_LINK_HEAD, _ADDRESS_HEAD = 16, struct.Struct("=4BI")  # struct ifinfomsg, struct ifaddrmsg
_INDEX = struct.Struct("=i")
_IFLA_LINK, _IFLA_LINK_NETNSID = 5, 37
_IFA_TARGET_NETNSID = 10
_STRICT_CHECK = 12  # NETLINK_GET_STRICT_CHK: without it the kernel ignores the attributes of a dump request


class VethLink(msgspec.Struct, frozen=True, gc=False):
    """A veth device: its interface index, that of its other end, and the id of the namespace where that one is."""

    index: int
    peer: int
    netns: int


def pod_links() -> dict[str, int]:
    """Return the interface index of the link of every address at the other ends of veth devices. Raises KernelError.

    Of the calling thread's network namespace. Addresses of one link only, where two have the same: the later link's.
    """
    try:
        with netlink_socket(NETLINK_ROUTE, blocking=True) as opened:
            opened.connect((0, 0))
            opened.send(encode_link_dump(1, "veth"))
            by_netns: dict[int, dict[int, int]] = {}
            for link in (link for part in dump_replies(opened, 1) for link in _veths(part)):
                by_netns.setdefault(link.netns, {})[link.peer] = link.index
            opened.setsockopt(SOL_NETLINK, _STRICT_CHECK, 1)
            found: dict[str, int] = {}
            for sequence, (netns, there) in enumerate(sorted(by_netns.items()), 2):
                found.update(_addresses(opened, sequence, netns, there))
    except (OSError, WireError) as error:
        raise KernelError(f"cannot list the Pods' links: {error}") from error
    return found


def _addresses(opened: socket.socket, sequence: int, netns: int, links: Mapping[int, int]) -> Iterator[tuple[str, int]]:
    """Yield the addresses of another namespace, each with the index of its link here. Raises OSError, WireError.

    links: the other ends of veth devices there, with the index of the end that is here
    """
    opened.send(_encode_address_dump(sequence, netns))
    for part in dump_replies(opened, sequence):
        raise_refusal(part)
        held = decode_address(part) if part.type == RTM_NEWADDR else None
        if held and held.link in links:
            yield held.address, links[held.link]


def _veths(part: Message) -> Iterator[VethLink]:
    """Yield the veth device of a message, if its other end is in another namespace. Raises OSError, WireError."""
    if part.type == NLMSG_DONE:
        return
    raise_refusal(part)
    if part.type != RTM_NEWLINK or len(part.payload) < _LINK_HEAD:
        return
    listed = dict(attributes(part.payload, _LINK_HEAD))
    peer, netns = listed.get(_IFLA_LINK, b""), listed.get(_IFLA_LINK_NETNSID, b"")
    if len(peer) == len(netns) == _INDEX.size:
        (index,) = _INDEX.unpack_from(part.payload, 4)
        yield VethLink(index, *_INDEX.unpack(peer), *_INDEX.unpack(netns))


def _encode_address_dump(sequence: int, netns: int) -> bytes:
    wanted = _ADDRESS_HEAD.pack(0, 0, 0, 0, 0) + attribute(_IFA_TARGET_NETNSID, _INDEX.pack(netns))
    return message(_RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, sequence, wanted)
