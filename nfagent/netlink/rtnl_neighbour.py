"""Neighbour entries in rtnetlink: RTM_DELNEIGH (linux/neighbour.h)."""

from __future__ import annotations

import ipaddress
import struct

from nfagent.model.netaddr import family_of
from nfagent.netlink.codec import NLM_F_ACK, NLM_F_REQUEST, attribute, message

_RTM_DELNEIGH = 29
_HEAD = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, interface, state, flags, type
_DST = 1  # NDA_DST
_DOMAINS = {4: 2, 6: 10}  # AF_INET, AF_INET6


def encode_delete_neighbour(sequence: int, address: str, link: int) -> bytes:
    """Encode the request to forget the link-layer address of a neighbour; ENOENT where none is known."""
    head = _HEAD.pack(_DOMAINS[family_of(address)], link, 0, 0, 0)
    payload = head + attribute(_DST, ipaddress.ip_address(address).packed)
    return message(_RTM_DELNEIGH, NLM_F_REQUEST | NLM_F_ACK, sequence, payload)
