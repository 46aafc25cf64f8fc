"""nftables' objects as values: sets, verdict maps, chains, rules, counters.

Only the forms that nfagent writes exist here. Other expressions in the kernel's table, which another program added, are
`UnknownExpr`: unequal to every expression of nfagent, so that a comparison removes them.

Rules match the *connection*, not the packet: its client is `ct original saddr`, its server `ct reply saddr`,
the server's port `ct reply proto-src`. These are the addresses after DNAT of a Service's address and before
masquerade, and the same in both directions. Untracked packets have chains of their own,
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
"""Default capacity of a set of reply tuples, and its minimum."""
MARK_BITS = 0xFFFF_FFFF
"""Every bit of the packet mark."""
TABLE_FAMILY = "inet"
TABLE = "nfagent"
TABLE_FLAGS = ("table", "flags")
"""The entry of `Ruleset.foreign` for a table that has flags, such as `dormant`."""
TABLE_PERSISTS = ("table", "persist")
"""The further entry if one of these flags is `persist`, which no command clears."""
FLAGGED = f"table {TABLE_FAMILY} {TABLE} has flags; a dormant one does nothing"
UNFLAGGED = f"a start of nfagent takes them away, and so does `nft add table {TABLE_FAMILY} {TABLE}`"


class Accept(msgspec.Struct, frozen=True, tag=True):
    """The packet passes this base chain; the next one sees it."""


class Drop(msgspec.Struct, frozen=True, tag=True):
    """The packet is dropped."""


class Goto(msgspec.Struct, frozen=True, tag=True):
    """Continue in another chain, without return."""

    chain: str


class Jump(msgspec.Struct, frozen=True, tag=True):
    """Continue in another chain, and return from it if no rule there gives a verdict."""

    chain: str


class Return(msgspec.Struct, frozen=True, tag=True):
    """Return to the chain of the last jump; without a jump, the base chain's policy applies."""


class VmapLookup(msgspec.Struct, frozen=True, tag=True):
    """`vmap`: the verdict that a map has for an address; without one, the next rule is evaluated."""

    key: CtAddress | IpAddress
    map: str


class PortRange(msgspec.Struct, frozen=True, order=True):
    """Port numbers first..last."""

    first: int
    last: int

    def __str__(self) -> str:
        """Return it in nft syntax: `80`, `8000-8080`."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class Masquerade(msgspec.Struct, frozen=True, tag=True):
    """Translate the source to the address of the outgoing interface.

    ports: the range of source ports; None leaves the choice to the kernel. nft takes it only behind a match of a
           protocol that has ports.
    """

    random_fully: bool
    ports: PortRange | None = None


class SourceNat(msgspec.Struct, frozen=True, tag=True):
    """`snat ip to`: translate the source to this address, and keep the port where it is free.

    address: canonical. A packet of the other family goes on with the next rule.
    """

    address: str


Verdict: TypeAlias = Accept | Drop | Goto | Jump | Return | VmapLookup | Masquerade | SourceNat


class Log(msgspec.Struct, frozen=True):
    """`log prefix … group …`: copies the head of the packet to NFLOG; the rule continues."""

    prefix: str
    group: int


class MarkSet(msgspec.Struct, frozen=True):
    """`meta mark set`: give those bits of the packet mark that `mask` has a value; the others stay.

    mask, value: 32 bits, in host byte order; `value` has no bits but those of `mask`, which has some
    """

    mask: int
    value: int


class Rule(msgspec.Struct, frozen=True):
    """Matches, all of which must hold; then optional statements: counter, log, mark and verdict, in that order."""

    matches: tuple[Match, ...] = ()
    counter: str = ""
    log: Log | None = None
    verdict: Verdict | None = None
    comment: str = ""
    mark: MarkSet | None = None


HookName: TypeAlias = Literal["prerouting", "forward", "input", "output", "postrouting"]


class Hook(msgspec.Struct, frozen=True):
    """The hook of a base chain: `type … hook … priority …; policy accept`."""

    type: Literal["filter", "nat"]
    name: HookName
    priority: int


class Chain(msgspec.Struct, frozen=True):
    """Rules in order; only a base chain has a hook."""

    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None


class LinkName(msgspec.Struct, frozen=True, order=True):
    """The name of a network interface."""

    name: str


class ProtocolPort(msgspec.Struct, frozen=True, order=True):
    """A port of a protocol, at any address."""

    protocol: Protocol
    port: int


SetKind: TypeAlias = Literal[
    "address", "range", "port", "ports", "family", "flow", "pair", "link", "service", "counted"
]
INTERVAL_KINDS: frozenset[SetKind] = frozenset({"range", "ports"})
PortElement: TypeAlias = tuple[str, Protocol, int]
FlowElement: TypeAlias = tuple[str, Protocol, int, str, int]
"""Source, protocol, source port, destination, destination port of a packet."""
PairElement: TypeAlias = tuple[str, str]
Element: TypeAlias = (
    str | Range | PortElement | PortRange | Family | FlowElement | PairElement | LinkName | ProtocolPort
)


def address_of(element: Element) -> str:
    """Return the first address in an element; '' for a range, and for an element without an address."""
    if isinstance(element, Range | PortRange | int | LinkName | ProtocolPort):
        return ""
    return element if isinstance(element, str) else element[0]


class NamedSet(msgspec.Struct, frozen=True):
    """A set and its elements.

    kind: 'address' holds canonical addresses, 'counted' too, each with a counter of the packets that were looked up;
          the counts are not part of the desired ruleset. 'range' disjoint Ranges, 'port' (address, protocol, port),
          'pair' two addresses, 'ports' disjoint PortRanges, 'family' the families 4 and 6, 'link' LinkNames, 'service'
          ServicePorts; the last four have no family of their own: `family` is 4. 'flow' is a dynamic set, which the
          kernel fills: reply tuples, each for FLOW_SECONDS after its last packet; its elements are not part of the
          desired ruleset, and never compared
    size: maximum number of elements of a dynamic set; unused by other kinds
    """

    kind: SetKind
    family: Family
    elements: frozenset[Element] = frozenset()
    comment: str = ""
    size: int = FLOW_SET_SIZE


class VerdictMap(msgspec.Struct, frozen=True):
    """A verdict map: address -> name of the chain that `goto` continues in."""

    family: Family
    elements: dict[str, str]


class Ruleset(msgspec.Struct, frozen=True):
    """All objects of the table, by name.

    foreign: (kind, name) of objects in the table that nfagent never makes, as the kernel lists them
    """

    sets: dict[str, NamedSet] = msgspec.field(default_factory=dict)
    maps: dict[str, VerdictMap] = msgspec.field(default_factory=dict)
    chains: dict[str, Chain] = msgspec.field(default_factory=dict)
    counters: frozenset[str] = frozenset()
    foreign: frozenset[tuple[str, str]] = frozenset()
    exists: bool = True


ABSENT = Ruleset(exists=False)
"""The kernel without the table, as before the first start of nfagent."""
