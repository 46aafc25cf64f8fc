"""Matches of rules as values: addresses, ports, sets, conntrack state, incoming interface."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.model.netaddr import Family, Range
from nfagent.model.objects import Protocol

CtEnd: TypeAlias = Literal["client", "server"]

CtDirection: TypeAlias = Literal["original", "reply"]
"""The direction of a packet in its connection: from the client, or from the server."""


class CtAddress(msgspec.Struct, frozen=True):
    """`ct original ip saddr` (client) or `ct reply ip saddr` (server); no match for untracked packets."""

    end: CtEnd
    family: Family


class IpAddress(msgspec.Struct, frozen=True):
    """`ip saddr` or `ip daddr` of the packet."""

    side: Literal["saddr", "daddr"]
    family: Family


class AddressInSet(msgspec.Struct, frozen=True, tag=True):
    """The address is, or is not, an element of a set."""

    key: CtAddress | IpAddress
    set: str
    negated: bool = False


class PairInSet(msgspec.Struct, frozen=True, tag=True):
    """`ip saddr . ct original ip saddr`: the packet's source and another address are a pair of a set, or are not.

    In a set of addresses paired with themselves, a match means that both are equal. No match without the other address.
    """

    other: CtAddress | IpAddress
    set: str
    negated: bool = False


class Within(msgspec.Struct, frozen=True, tag=True):
    """`ip6 saddr { ::, fe80::/10 }`: the address is in one of these ranges, in ascending order."""

    key: IpAddress
    ranges: tuple[Range, ...]


class HopLimit(msgspec.Struct, frozen=True, tag=True):
    """`ip6 hoplimit`: the hop limit of the packet."""

    hop_limit: int


class MaxPayload(msgspec.Struct, frozen=True, tag="LongestPayload"):
    """`ip6 length <=`: the maximum number of bytes after the IPv6 header, extension headers included."""

    size: int


class MulticastFrame(msgspec.Struct, frozen=True, tag=True):
    """`meta pkttype { broadcast, multicast }`: the packet came in a broadcast or multicast frame."""


class FromBridge(msgspec.Struct, frozen=True, tag=True):
    """`meta iifkind "bridge"`: the packet came in by a bridge, or passes between two of its ports."""


class FromVeth(msgspec.Struct, frozen=True, tag=True):
    """`meta iifkind "veth"`: the frame came in by a veth link, as Pods have."""


class EtherType(msgspec.Struct, frozen=True, tag=True):
    """`ether type`: one of these EtherTypes, in ascending order."""

    numbers: tuple[int, ...]


class MulticastAddress(msgspec.Struct, frozen=True, tag=True):
    """`fib daddr type { broadcast, multicast }`: the destination is a broadcast or multicast address."""


class UnicastDestination(msgspec.Struct, frozen=True, tag="OnesAddress"):
    """`fib daddr type { unicast, local }`: the destination is one host, which may be this node."""


class L4Proto(msgspec.Struct, frozen=True, tag=True):
    """`meta l4proto`: one of these protocols, by the names of nft's grammar: `icmpv6`, never `ipv6-icmp`.

    nft looks any other name up in /etc/protocols, which a small container image doesn't have.
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
    """`tcp dport`: the packet has this protocol, and its destination port is in first..last."""

    protocol: Protocol
    first: int
    last: int


class PacketPortIn(msgspec.Struct, frozen=True, tag=True):
    """`tcp dport @…`: the packet has this protocol, and its destination port is in a set of ports."""

    protocol: Protocol
    set: str


class PacketNamedPort(msgspec.Struct, frozen=True, tag=True):
    """`ip daddr . meta l4proto . th dport` of the packet is an element of a set."""

    family: Family
    set: str


class Fragment(msgspec.Struct, frozen=True, tag=True):
    """`ip frag-off & 0x1fff != 0`, `exthdr frag exists`: a fragment that may lack the ports; any fragment of IPv6."""

    family: Family


class NamedPort(msgspec.Struct, frozen=True, tag=True):
    """`ct reply ip saddr . meta l4proto . th dport` is an element of a set; `th sport` in packets of a reply.

    nft 1.0.6 can't concatenate `ct reply proto-src`, so a port of the packet is looked up. Which of the two is the
    server's depends on the packet's direction: a `CtDirectionIs` for this direction comes before this match.
    """

    family: Family
    set: str
    direction: CtDirection = "original"


class CtDirectionIs(msgspec.Struct, frozen=True, tag=True):
    """`ct direction`: the packet has this direction; no match for untracked packets."""

    direction: CtDirection


class FamilyInSet(msgspec.Struct, frozen=True, tag=True):
    """`meta nfproto`: the packet's family is, or is not, an element of a set."""

    set: str
    negated: bool = False


class FamilyIs(msgspec.Struct, frozen=True, tag=True):
    """`meta nfproto`: the packet is of this family."""

    family: Family


class FibLocalSource(msgspec.Struct, frozen=True, tag=True):
    """`fib saddr type local`: the source is an address of this machine."""


class NotLoopback(msgspec.Struct, frozen=True, tag=True):
    """`iifname != "lo"`: the packet came in by another interface than the loopback one."""


class FromInterface(msgspec.Struct, frozen=True, tag=True):
    """`iifname @set`: the packet came in by one of these interfaces."""

    set: str
    negated: bool = False


class ToInterface(msgspec.Struct, frozen=True, tag=True):
    """`oifname "name"`: the packet leaves by this interface."""

    name: str


class NextHopInSet(msgspec.Struct, frozen=True, tag=True):
    """`rt ip nexthop @set`: the next hop of the packet's route is an element of a set. No match in another family."""

    family: Family
    set: str


class FibUnrouted(msgspec.Struct, frozen=True, tag=True):
    """`fib saddr . iif oif missing`: the route to the source doesn't use the incoming interface."""


class ToPort(msgspec.Struct, frozen=True, tag=True):
    """`meta l4proto . th dport` of the packet is an element of a set."""

    set: str


class CtFlowInSet(msgspec.Struct, frozen=True, tag=True):
    """`ip saddr . meta l4proto . th sport . ip daddr . th dport`: the packet's flow is an element of a set."""

    family: Family
    set: str


class SetUpdate(msgspec.Struct, frozen=True, tag=True):
    """`update @set { … }` with the same key: matches always, adds the element, and resets its timeout.

    replies: the flow of replies to the packet: source and destination are exchanged
    """

    family: Family
    set: str
    replies: bool = False


class TcpReset(msgspec.Struct, frozen=True, tag=True):
    """`tcp flags rst`: a TCP segment that resets its connection."""


class ConntrackState(msgspec.Struct, frozen=True, tag=True):
    """`ct state`: one of these states."""

    states: tuple[str, ...]


class CtUnconfirmed(msgspec.Struct, frozen=True, tag=True):
    """`ct status ! confirmed`: the connection's first packet, before its entry is in the table."""


class CtSeenReply(msgspec.Struct, frozen=True, tag=True):
    """`ct status seen-reply`: conntrack has seen a packet in reply direction."""


class CtTranslated(msgspec.Struct, frozen=True, tag=True):
    """`ct status snat`: the source of the connection is translated on this machine."""


class Icmpv6Type(msgspec.Struct, frozen=True, tag=True):
    """`icmpv6 type`: one of these types, by nft's names."""

    names: tuple[str, ...]


class Icmpv6Code(msgspec.Struct, frozen=True, tag=True):
    """`icmpv6 code`: this code."""

    code: int


class RandomBelow(msgspec.Struct, frozen=True, tag=True):
    """`numgen random mod`: a number drawn from 0..modulus-1 for each packet is less than `below`."""

    modulus: int
    below: int


class MarkIs(msgspec.Struct, frozen=True, tag=True):
    """`meta mark & mask == value`: these bits of the packet mark have, or don't have, a value.

    mask, value: in host byte order; `value` has no bits but those of `mask`
    """

    mask: int
    value: int
    negated: bool = False


class UnknownExpr(msgspec.Struct, frozen=True, tag=True):
    """An expression that nfagent doesn't write, as JSON of the listing."""

    expression: str


Match: TypeAlias = (
    AddressInSet
    | PairInSet
    | Within
    | HopLimit
    | MaxPayload
    | MulticastFrame
    | FromBridge
    | FromVeth
    | EtherType
    | MulticastAddress
    | UnicastDestination
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
    | ToInterface
    | NextHopInSet
    | FibUnrouted
    | ToPort
    | CtFlowInSet
    | FibLocalSource
    | NotLoopback
    | SetUpdate
    | TcpReset
    | ConntrackState
    | CtUnconfirmed
    | CtSeenReply
    | CtTranslated
    | Icmpv6Type
    | Icmpv6Code
    | RandomBelow
    | MarkIs
    | UnknownExpr
)
