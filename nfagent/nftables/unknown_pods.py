"""Rules that drop forwarded packets of addresses in this node's Pod ranges that no known Pod has.

A Pod sends and receives from its first moment; its address is in its status, and so in the rules, only some time later.
With `unknown_pods = "held"` its packets are dropped until then: to and from other Pods, other nodes and hosts outside.
What it exchanges with its own node passes the input and output hooks, so probes work.

The rules come after the accept of established connections. A new connection pays one look-up for each of its ends that
is in the ranges, and none for an end outside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from nfagent.model.netaddr import FAMILIES, Family, Range
from nfagent.nftables import names
from nfagent.nftables.link_scope import discovery
from nfagent.nftables.matches import AddressInSet, IpAddress, Within
from nfagent.nftables.objects import Chain, Drop, Goto, Jump, NamedSet, Rule, Ruleset

UNKNOWN_PODS_CHAIN = "unknown-pods"
UNKNOWN_POD_COUNTER = "drop/unknown-pod"
_DROP_CHAIN = "unknown-pods-drop"
_SIDES: tuple[Literal["saddr", "daddr"], ...] = ("saddr", "daddr")


def known_pods_set(family: Family) -> str:
    """Return the name of the set of Pod addresses in this node's ranges: `knownpods4`."""
    return names.set_name("knownpods", family)


def unknown_pods_rule() -> Rule:
    """Return the rule of the forward hook that leads to the chain."""
    return Rule(verdict=Jump(UNKNOWN_PODS_CHAIN))


def known_pods_sets() -> Iterator[tuple[str, NamedSet]]:
    """Yield the sets of known addresses, without elements."""
    for family in FAMILIES:
        yield known_pods_set(family), NamedSet("address", family, comment="Pods in this node's Pod ranges")


def unknown_pods_chain(ranges: Iterable[Range]) -> Chain:
    """Return the chain that finds packets with an unknown address at either end; without ranges it finds none."""
    return Chain(tuple(_unknown(side, item) for item in ranges for side in _SIDES))


def unknown_pods_drop() -> tuple[str, Chain]:
    """Return name and chain of the drop. IPv6 neighbour discovery passes: a bridge carries that of its ports."""
    drop = Rule(counter=UNKNOWN_POD_COUNTER, verdict=Drop(), comment="in this node's Pod ranges, and no known Pod's")
    return _DROP_CHAIN, Chain((*discovery(), drop))


def holds_unknown_pods(ruleset: Ruleset) -> bool:
    """Return whether a ruleset drops packets of unknown addresses: it has a range for it."""
    chain = ruleset.chains.get(UNKNOWN_PODS_CHAIN)
    return chain is not None and bool(chain.rules)


def _unknown(side: Literal["saddr", "daddr"], item: Range) -> Rule:
    address = IpAddress(side, item.family)
    unknown = AddressInSet(address, known_pods_set(item.family), negated=True)
    return Rule((Within(address, (item,)), unknown), verdict=Goto(_DROP_CHAIN))
