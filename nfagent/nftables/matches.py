"""What rules match, as values: addresses, ports and sets; conntrack's state; how a packet came."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.model.netaddr import Family, Range
from nfagent.model.objects import Protocol

CtEnd: TypeAlias = Literal["client", "server"]


CtDirection: TypeAlias = Literal["original", "reply"]
"""A packet's direction in its connection: from the client, or from the server."""


class CtAddress(msgspec.Struct, frozen=True):
    """`ct original ip saddr` (client) or `ct reply ip saddr` (server); breaks off without a conntrack entry."""

    end: CtEnd
    family: Family


class IpAddress(msgspec.Struct, frozen=True):
    """`ip saddr` or `ip daddr` of this very packet."""

    side: Literal["saddr", "daddr"]
    family: Family


class AddressInSet(msgspec.Struct, frozen=True, tag=True):
    """The address is, or is not, an element of a set."""

    key: CtAddress | IpAddress
    set: str
    negated: bool = False


class PairInSet(msgspec.Struct, frozen=True, tag=True):
    """`ip saddr . ct original ip saddr`: the packet's source and another address are a pair of a set, or are not.

    Where the set holds each address with itself, the two are the same one. Matches never without the other address.
    """

    other: CtAddress | IpAddress
    set: str
    negated: bool = False


class Within(msgspec.Struct, frozen=True, tag=True):
    """`ip6 saddr { ::, fe80::/10 }`: the address is in one of these ranges, in ascending order."""

    key: IpAddress
    ranges: tuple[Range, ...]


class HopLimit(msgspec.Struct, frozen=True, tag=True):
    """`ip6 hoplimit`: the packet has so many hops left."""

    hops: int


class LongestPayload(msgspec.Struct, frozen=True, tag=True):
    """`ip6 length <=`: behind the IPv6 header come so many bytes at most, extension headers included."""

    size: int


class MulticastFrame(msgspec.Struct, frozen=True, tag=True):
    """`meta pkttype { broadcast, multicast }`: the link delivered the packet to everybody, or to a group."""


class FromBridge(msgspec.Struct, frozen=True, tag=True):
    """`meta iifkind "bridge"`: the packet came in by a bridge, or passes between two of its ports."""


class MulticastAddress(msgspec.Struct, frozen=True, tag=True):
    """`fib daddr type { broadcast, multicast }`: the packet is for everybody on a link, or for a group."""


class OnesAddress(msgspec.Struct, frozen=True, tag=True):
    """`fib daddr type { unicast, local }`: the packet is for one host, which may be this node."""


class L4Proto(msgspec.Struct, frozen=True, tag=True):
    """`meta l4proto`: one of these protocols, by the words that nft's own grammar has: `icmpv6`, and never `ipv6-icmp`.

    nft looks every other name up in /etc/protocols, which a small image doesn't have.
    """

    names: tuple[str, ...]


class ServerPort(msgspec.Struct, frozen=True, tag=True):
    """`ct reply proto-src`: the server's port is in first..last."""

    first: int
    last: int


class ServerPortIn(msgspec.Struct, frozen=True, tag=True):
    """`ct reply proto-src @…`: the server's port is in a set of ports."""

    set: str


class PacketPort(msgspec.Struct, frozen=True, tag=True):
    """`tcp dport`: the packet has this protocol, and its own destination port is in first..last."""

    protocol: Protocol
    first: int
    last: int


class PacketPortIn(msgspec.Struct, frozen=True, tag=True):
    """`tcp dport @…`: the packet has this protocol, and its own destination port is in a set of ports."""

    protocol: Protocol
    set: str


class PacketNamedPort(msgspec.Struct, frozen=True, tag=True):
    """`ip daddr . meta l4proto . th dport` of this very packet is an element of a set."""

    family: Family
    set: str


class Fragment(msgspec.Struct, frozen=True, tag=True):
    """`ip frag-off & 0x1fff != 0`, `exthdr frag exists`: a fragment that may lack the ports; any fragment of IPv6."""

    family: Family


class NamedPort(msgspec.Struct, frozen=True, tag=True):
    """`ct reply ip saddr . meta l4proto . th dport` is an element of a set; `th sport` in packets of a reply.

    nft 1.0.6 can't concatenate `ct reply proto-src`, so the packet's own port is looked up: which of the two is the
    server's depends on the packet's way, and a `CtDirectionIs` before this one says which way is meant.
    """

    family: Family
    set: str
    way: CtDirection = "original"


class CtDirectionIs(msgspec.Struct, frozen=True, tag=True):
    """`ct direction`: the packet goes this way; breaks off without a conntrack entry."""

    way: CtDirection


class FamilyInSet(msgspec.Struct, frozen=True, tag=True):
    """`meta nfproto`: the packet's family is, or is not, an element of a set."""

    set: str
    negated: bool = False


class FamilyIs(msgspec.Struct, frozen=True, tag=True):
    """`meta nfproto`: the packet is of this family."""

    family: Family


class FibLocalSource(msgspec.Struct, frozen=True, tag=True):
    """`fib saddr type local`: the packet says that this very machine has sent it."""


class NotLoopback(msgspec.Struct, frozen=True, tag=True):
    """`iifname != "lo"`: the packet came in by another interface than the loopback one."""


class FromInterface(msgspec.Struct, frozen=True, tag=True):
    """`iifname @set`: the packet came in by one of these interfaces."""

    set: str
    negated: bool = False


class FibUnrouted(msgspec.Struct, frozen=True, tag=True):
    """`fib saddr . iif oif missing`: what is for the packet's source wouldn't leave by the interface it came in by."""


class ToPort(msgspec.Struct, frozen=True, tag=True):
    """`meta l4proto . th dport` of this very packet is an element of a set."""

    set: str


class CtFlowInSet(msgspec.Struct, frozen=True, tag=True):
    """`ip saddr . meta l4proto . th sport . ip daddr . th dport`: this very packet's flow is an element of a set."""

    family: Family
    set: str


class SetUpdate(msgspec.Struct, frozen=True, tag=True):
    """`update @set { … }` with the same key: matches always, and begins the element's time anew."""

    family: Family
    set: str


class ConntrackState(msgspec.Struct, frozen=True, tag=True):
    """`ct state`: one of these."""

    states: tuple[str, ...]


class CtUnconfirmed(msgspec.Struct, frozen=True, tag=True):
    """`ct status ! confirmed`: the connection's first packet, before its entry is in the table."""


class CtSeenReply(msgspec.Struct, frozen=True, tag=True):
    """`ct status seen-reply`: the connection's server has sent something."""


class Icmpv6Type(msgspec.Struct, frozen=True, tag=True):
    """`icmpv6 type`: one of these, in nft's names."""

    names: tuple[str, ...]


class Icmpv6Code(msgspec.Struct, frozen=True, tag=True):
    """`icmpv6 code`: this number."""

    code: int


class UnknownExpr(msgspec.Struct, frozen=True, tag=True):
    """An expression that nfagent doesn't write, as the kernel lists it."""

    expression: str


Match: TypeAlias = (
    AddressInSet
    | PairInSet
    | Within
    | HopLimit
    | LongestPayload
    | MulticastFrame
    | FromBridge
    | MulticastAddress
    | OnesAddress
    | L4Proto
    | ServerPort
    | ServerPortIn
    | NamedPort
    | PacketPort
    | PacketPortIn
    | PacketNamedPort
    | Fragment
    | CtDirectionIs
    | FamilyInSet
    | FamilyIs
    | FromInterface
    | FibUnrouted
    | ToPort
    | CtFlowInSet
    | FibLocalSource
    | NotLoopback
    | SetUpdate
    | ConntrackState
    | CtUnconfirmed
    | CtSeenReply
    | Icmpv6Type
    | Icmpv6Code
    | UnknownExpr
)
