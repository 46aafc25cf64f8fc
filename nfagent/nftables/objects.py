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

from nfagent.model.netaddr import Family, Range
from nfagent.model.objects import Protocol
from nfagent.nftables.matches import CtAddress, IpAddress, Match

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


class VmapLookup(msgspec.Struct, frozen=True, tag=True):
    """`vmap`: the verdict that a map has for an address; goes on where it has none."""

    key: CtAddress | IpAddress
    map: str


class Masquerade(msgspec.Struct, frozen=True, tag=True):
    """Translate the source to the address of the interface that the packet leaves by."""

    random_fully: bool


Verdict: TypeAlias = Accept | Drop | Goto | Jump | Return | VmapLookup | Masquerade


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


HookName: TypeAlias = Literal["prerouting", "forward", "input", "output", "postrouting"]


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


def address_of(element: Element) -> str:
    """Give the address that an element is of; '' where it is of several, or of none."""
    if isinstance(element, Range | PortRange | int | LinkName | ServicePort):
        return ""
    return element if isinstance(element, str) else element[0]


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
