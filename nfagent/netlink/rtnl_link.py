"""Network interfaces in rtnetlink: RTM_GETLINK and RTM_NEWLINK (linux/rtnetlink.h, linux/if_link.h)."""

from __future__ import annotations

import struct

import msgspec

from nfagent.errors import WireError
from nfagent.model.netaddr import Family
from nfagent.netlink.codec import NLM_F_DUMP, NLM_F_REQUEST, Message, attribute, attributes, message, nested

NETLINK_ROUTE = 0  # the protocol of a netlink socket, linux/netlink.h
RTM_NEWLINK = 16
"""Flag of dump messages: interfaces changed during the dump, so it may be incomplete."""

_RTM_GETLINK = 18
_HEAD = struct.Struct("=BxHiII")  # struct ifinfomsg: family, hardware type, index, flags, change
_NAME, _MASTER, _LINKINFO, _EXT_MASK = 3, 10, 18, 29  # IFLA_*
_KIND, _DATA = 1, 2  # IFLA_INFO_*
_SKIP_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_UP = 1  # IFF_UP
_PORTS = {"vxlan": 15, "geneve": 5, "bareudp": 1}  # IFLA_VXLAN_PORT, IFLA_GENEVE_PORT, IFLA_BAREUDP_PORT
_NF_CALL: dict[int, Family] = {36: 4, 37: 6}  # IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES
_INDEX = struct.Struct("=i")


class Interface(msgspec.Struct, frozen=True, gc=False):
    """A network interface.

    kind:    IFLA_INFO_KIND: 'bridge', 'veth' and so on; '' for an interface without one
    master:  index of the bridge (or bond, or VRF) that it is a port of; 0 without one
    nf_call: families whose frames a bridge passes to netfilter by its own option, independent of sysctls
    up:      IFF_UP is set
    port:    UDP port of a tunnel (vxlan, geneve, bareudp); 0 for any other interface
    """

    index: int
    name: str
    kind: str = ""
    master: int = 0
    nf_call: tuple[Family, ...] = ()
    up: bool = False
    port: int = 0


def encode_link_dump(sequence: int, kind: str = "", master: int = 0) -> bytes:
    """Encode a dump request for all interfaces, those of a kind, or the ports of the bridge with index `master`.

    A kernel that doesn't know the kind returns interfaces of all kinds.
    """
    wanted = attribute(_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS))
    if kind:
        wanted += nested(_LINKINFO, attribute(_KIND, kind.encode("ascii")))
    if master:
        wanted += attribute(_MASTER, _INDEX.pack(master))
    return message(_RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sequence, _HEAD.pack(0, 0, 0, 0, 0) + wanted)


def decode_link(found: Message) -> Interface:
    """Decode one RTM_NEWLINK message. Raises WireError."""
    if found.type != RTM_NEWLINK or len(found.payload) < _HEAD.size:
        raise WireError(f"netlink message of type {found.type} and {len(found.payload)} bytes is not an RTM_NEWLINK")
    _, _, index, flags, _ = _HEAD.unpack_from(found.payload)
    found_attributes = dict(attributes(found.payload, _HEAD.size))
    info = dict(attributes(found_attributes.get(_LINKINFO, b"")))
    kind = _text(info.get(_KIND, b""))
    options = dict(attributes(info.get(_DATA, b""))) if kind == "bridge" or kind in _PORTS else {}
    return Interface(
        index=index,
        name=_text(found_attributes.get(_NAME, b"")),
        kind=kind,
        master=_number(found_attributes[_MASTER]) if _MASTER in found_attributes else 0,
        nf_call=tuple(family for option, family in _NF_CALL.items() if any(options.get(option, b"")))
        if kind == "bridge"
        else (),
        up=bool(flags & _UP),
        port=int.from_bytes(options.get(_PORTS[kind], b"")[:2], "big") if kind in _PORTS else 0,
    )


def _text(value: bytes) -> str:
    # The name of an interface may have any bytes but '/' and whitespace, so it may be invalid UTF-8.
    return value.rstrip(b"\0").decode("utf-8", "replace")


def _number(value: bytes) -> int:
    if len(value) != _INDEX.size:
        raise WireError(f"interface index of {len(value)} bytes, not 4")
    return int(_INDEX.unpack(value)[0])
