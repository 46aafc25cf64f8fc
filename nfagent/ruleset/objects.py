"""nftables' objects as values: sets, verdict maps, chains, rules, counters.

Only the forms that nfagent writes exist here. What the kernel holds beyond them, because somebody else put
it into our table, is `Foreign`: unequal to anything of ours, so that a comparison removes it.

Rules match the *connection*, not the packet: its client is `ct original saddr`, its server `ct reply saddr`,
the server's port `ct reply proto-src`. That holds after a Service's address was translated and before
masquerade, for both directions of packets alike. Packets without a conntrack entry have chains of their own,
whose rules match the packet's header.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.cluster.address import Family, Range
from nfagent.cluster.model import Protocol

FLOW_SECONDS = 300
FLOW_SET_SIZE = 65536
"""Ways that a set of flows has room for, where nothing else is said; no set of ours has less."""
TABLE_FAMILY = "inet"
TABLE = "nfagent"
TABLE_FLAGS = ("table", "flags")
"""Kind and name of what is foreign where the table itself has flags, such as `dormant`."""
TABLE_PERSISTS = ("table", "persist")
"""What is foreign besides, where one of these flags is `persist`, which stays for as long as the table does."""
FLAGGED = f"table {TABLE_FAMILY} {TABLE} has flags; a dormant one does nothing"
UNFLAGGED = f"a start of nfagent takes them away, and so does `nft add table {TABLE_FAMILY} {TABLE}`"

End: TypeAlias = Literal["client", "server"]
Way: TypeAlias = Literal["original", "reply"]
"""A packet's direction in its connection: from the client, or from the server."""


class Connection(msgspec.Struct, frozen=True):
    """`ct original ip saddr` (client) or `ct reply ip saddr` (server); breaks off without a conntrack entry."""

    end: End
    family: Family


class Packet(msgspec.Struct, frozen=True):
    """`ip saddr` or `ip daddr` of this very packet."""

    side: Literal["saddr", "daddr"]
    family: Family


class InSet(msgspec.Struct, frozen=True, tag=True):
    """The address is, or is not, an element of a set."""

    key: Connection | Packet
    set: str
    negated: bool = False


class PairInSet(msgspec.Struct, frozen=True, tag=True):
    """`ip saddr . ct original ip saddr`: the packet's source and another address are a pair of a set, or are not.

    Where the set holds each address with itself, the two are the same one. Matches never without the other address.
    """

    other: Connection | Packet
    set: str
    negated: bool = False


class Within(msgspec.Struct, frozen=True, tag=True):
    """`ip6 saddr { ::, fe80::/10 }`: the address is in one of these ranges, in ascending order."""

    key: Packet
    ranges: tuple[Range, ...]


class HopLimit(msgspec.Struct, frozen=True, tag=True):
    """`ip6 hoplimit`: the packet has so many hops left."""

    hops: int


class LongestPayload(msgspec.Struct, frozen=True, tag=True):
    """`ip6 length <=`: behind the IPv6 header come so many bytes at most, extension headers included."""

    size: int


class GroupFrame(msgspec.Struct, frozen=True, tag=True):
    """`meta pkttype { broadcast, multicast }`: the link delivered the packet to everybody, or to a group."""


class GroupAddress(msgspec.Struct, frozen=True, tag=True):
    """`fib daddr type { broadcast, multicast }`: the packet is for everybody on a link, or for a group."""


class ProtocolIs(msgspec.Struct, frozen=True, tag=True):
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
    server's depends on the packet's way, and a `WayIs` before this one says which way is meant.
    """

    family: Family
    set: str
    way: Way = "original"


class WayIs(msgspec.Struct, frozen=True, tag=True):
    """`ct direction`: the packet goes this way; breaks off without a conntrack entry."""

    way: Way


class FamilyInSet(msgspec.Struct, frozen=True, tag=True):
    """`meta nfproto`: the packet's family is, or is not, an element of a set."""

    set: str
    negated: bool = False


class FamilyIs(msgspec.Struct, frozen=True, tag=True):
    """`meta nfproto`: the packet is of this family."""

    family: Family


class LocalSource(msgspec.Struct, frozen=True, tag=True):
    """`fib saddr type local`: the packet says that this very machine has sent it."""


class NotLoopback(msgspec.Struct, frozen=True, tag=True):
    """`iifname != "lo"`: the packet came in by another interface than the loopback one."""


class FromLink(msgspec.Struct, frozen=True, tag=True):
    """`iifname @set`: the packet came in by one of these interfaces."""

    set: str


class Unrouted(msgspec.Struct, frozen=True, tag=True):
    """`fib saddr . iif oif missing`: what is for the packet's source wouldn't leave by the interface it came in by."""


class ToPort(msgspec.Struct, frozen=True, tag=True):
    """`meta l4proto . th dport` of this very packet is an element of a set."""

    set: str


class FlowInSet(msgspec.Struct, frozen=True, tag=True):
    """`ip saddr . meta l4proto . th sport . ip daddr . th dport`: this very packet's flow is an element of a set."""

    family: Family
    set: str


class Refresh(msgspec.Struct, frozen=True, tag=True):
    """`update @set { … }` with the same key: matches always, and begins the element's time anew."""

    family: Family
    set: str


class ConntrackState(msgspec.Struct, frozen=True, tag=True):
    """`ct state`: one of these."""

    states: tuple[str, ...]


class Unconfirmed(msgspec.Struct, frozen=True, tag=True):
    """`ct status ! confirmed`: the connection's first packet, before its entry is in the table."""


class Answered(msgspec.Struct, frozen=True, tag=True):
    """`ct status seen-reply`: the connection's server has sent something."""


class Icmpv6Type(msgspec.Struct, frozen=True, tag=True):
    """`icmpv6 type`: one of these, in nft's names."""

    names: tuple[str, ...]


class Icmpv6Code(msgspec.Struct, frozen=True, tag=True):
    """`icmpv6 code`: this number."""

    code: int


class Foreign(msgspec.Struct, frozen=True, tag=True):
    """An expression that nfagent doesn't write, as the kernel lists it."""

    expression: str


Match: TypeAlias = (
    InSet
    | PairInSet
    | Within
    | HopLimit
    | LongestPayload
    | GroupFrame
    | GroupAddress
    | ProtocolIs
    | ServerPort
    | ServerPortIn
    | NamedPort
    | PacketPort
    | PacketPortIn
    | PacketNamedPort
    | Fragment
    | WayIs
    | FamilyInSet
    | FamilyIs
    | FromLink
    | Unrouted
    | ToPort
    | FlowInSet
    | LocalSource
    | NotLoopback
    | Refresh
    | ConntrackState
    | Unconfirmed
    | Answered
    | Icmpv6Type
    | Icmpv6Code
    | Foreign
)


class Accept(msgspec.Struct, frozen=True, tag=True):
    """The packet passes this base chain; the next one sees it."""


class Drop(msgspec.Struct, frozen=True, tag=True):
    """The packet is gone."""


class Goto(msgspec.Struct, frozen=True, tag=True):
    """Go on in a chain, without coming back."""

    chain: str


class Jump(msgspec.Struct, frozen=True, tag=True):
    """Go on in a chain, and come back where nothing there decides."""

    chain: str


class Return(msgspec.Struct, frozen=True, tag=True):
    """Go back to where the last jump came from; where none did, the base chain's policy decides."""


class Dispatch(msgspec.Struct, frozen=True, tag=True):
    """`vmap`: the verdict that a map has for an address; goes on where it has none."""

    key: Connection | Packet
    map: str


class Masquerade(msgspec.Struct, frozen=True, tag=True):
    """Translate the source to the address of the interface that the packet leaves by."""

    random_fully: bool


Verdict: TypeAlias = Accept | Drop | Goto | Jump | Return | Dispatch | Masquerade


class Log(msgspec.Struct, frozen=True):
    """`log prefix … group …`: a copy of the packet's head goes to NFLOG; the rule goes on."""

    prefix: str
    group: int


class Rule(msgspec.Struct, frozen=True):
    """Matches, all of which must hold; then counter, log and verdict, in that order, where given."""

    matches: tuple[Match, ...] = ()
    counter: str = ""
    log: Log | None = None
    verdict: Verdict | None = None
    comment: str = ""


HookName: TypeAlias = Literal["forward", "input", "output", "postrouting"]


class Hook(msgspec.Struct, frozen=True):
    """Where a base chain is called: `type … hook … priority …; policy accept`."""

    type: Literal["filter", "nat"]
    name: HookName
    priority: int


class Chain(msgspec.Struct, frozen=True):
    """Rules in order; a base chain has a hook."""

    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None


class PortRange(msgspec.Struct, frozen=True, order=True):
    """Port numbers first..last."""

    first: int
    last: int

    def __str__(self) -> str:
        """Write it as nft does: `80`, `8000-8080`."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class LinkName(msgspec.Struct, frozen=True, order=True):
    """Name of a network interface."""

    name: str


class ServicePort(msgspec.Struct, frozen=True, order=True):
    """A port of a protocol, whatever the address."""

    protocol: Protocol
    port: int


SetKind: TypeAlias = Literal["address", "range", "port", "ports", "family", "flow", "pair", "link", "service"]
PortElement: TypeAlias = tuple[str, Protocol, int]
FlowElement: TypeAlias = tuple[str, Protocol, int, str, int]
"""Source, protocol, source port, destination, destination port of a packet."""
PairElement: TypeAlias = tuple[str, str]
Element: TypeAlias = str | Range | PortElement | PortRange | Family | FlowElement | PairElement | LinkName | ServicePort


class NamedSet(msgspec.Struct, frozen=True):
    """A set and its elements.

    kind: 'address' holds canonical addresses, 'range' disjoint Ranges, 'port' (address, protocol, port), 'pair' two
          addresses, 'ports' disjoint PortRanges, 'family' the families 4 and 6, 'link' LinkNames, 'service'
          ServicePorts: of the last four their own `family` says nothing, and is 4. 'flow' is the kernel's memory:
          packets' flows, each for FLOW_SECONDS after the last packet; it is no part of what is wanted, and never
          compared
    size: how many elements there is room for in a set of flows; says nothing of other kinds
    """

    kind: SetKind
    family: Family
    elements: frozenset[Element] = frozenset()
    comment: str = ""
    size: int = FLOW_SET_SIZE


class VerdictMap(msgspec.Struct, frozen=True):
    """Address -> name of the chain that the packet goes to."""

    family: Family
    elements: dict[str, str]


class Ruleset(msgspec.Struct, frozen=True):
    """The whole table, by name.

    foreign: (kind, name) of objects in the table that nfagent never makes, as the kernel lists them
    """

    sets: dict[str, NamedSet] = msgspec.field(default_factory=dict)
    maps: dict[str, VerdictMap] = msgspec.field(default_factory=dict)
    chains: dict[str, Chain] = msgspec.field(default_factory=dict)
    counters: frozenset[str] = frozenset()
    foreign: frozenset[tuple[str, str]] = frozenset()
    exists: bool = True


ABSENT = Ruleset(exists=False)
"""What the kernel holds before nfagent ever ran: not even the table."""
