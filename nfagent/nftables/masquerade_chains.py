"""Masquerade in nftables' terms: a chain that translates what leaves the cluster, and one for what can't be.

A packet that conntrack calls invalid, a late RST or FIN of a connection that it has forgotten, is never translated: it
would leave with a Pod's address that nobody outside can answer, or should see (corner-cases.md 33).
"""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.egress.masquerade import MasqueradePlan
from nfagent.model.netaddr import FAMILIES, Family, Range
from nfagent.nftables import names
from nfagent.nftables.matches import AddressInSet, ConntrackState, IpAddress, Match
from nfagent.nftables.objects import Chain, Drop, Element, Hook, Masquerade, NamedSet, Rule

SRCNAT_PRIORITY = 100
_FILTER_PRIORITY = 0
MASQUERADE_CHAIN = "masquerade-pods"
UNTRANSLATED_CHAIN = "forward-untranslated"
UNTRANSLATED_COUNTER = "drop/untranslated"
OUTSIDE = "clusterpods"


def translation_chains(plan: MasqueradePlan) -> Iterator[tuple[str, Chain]]:
    """Write the chain that translates what leaves the cluster, and the one that stops what can't be translated."""
    families = [family for family in FAMILIES if any(item.family == family for item in plan.sources)]
    leaving = [_leaving(family, outside=family in plan.outside) for family in families]
    translate = tuple(Rule(matches, verdict=Masquerade(plan.random_fully)) for matches in leaving)
    stop = tuple(
        Rule(
            (ConntrackState(("invalid",)), *matches),
            counter=UNTRANSLATED_COUNTER,
            verdict=Drop(),
            comment="would leave with a Pod's address",
        )
        for matches in leaving
    )
    yield MASQUERADE_CHAIN, Chain(translate, Hook("nat", "postrouting", SRCNAT_PRIORITY))
    yield UNTRANSLATED_CHAIN, Chain(stop, Hook("filter", "forward", _FILTER_PRIORITY))


def _leaving(family: Family, *, outside: bool) -> tuple[Match, ...]:
    """Match what leaves the cluster. A set of Pods outside its ranges is asked only where there are such Pods."""
    pods = AddressInSet(IpAddress("daddr", family), names.set_name(OUTSIDE, family), negated=True)
    return (
        AddressInSet(IpAddress("saddr", family), names.set_name("pods", family)),
        AddressInSet(IpAddress("daddr", family), names.set_name("cluster", family), negated=True),
        *((pods,) if outside else ()),
        AddressInSet(IpAddress("daddr", family), names.set_name("nonmasq", family), negated=True),
    )


def outside_set(family: Family) -> NamedSet:
    """Give the set of the cluster's Pods outside its ranges, without elements.

    Addresses, not ranges: a hash of the kernel's, whose elements come and go one by one, at a cost that doesn't grow.
    """
    return NamedSet("address", family, frozenset(), "Pods outside the cluster's ranges: never translated")


def masquerade_sets(plan: MasqueradePlan) -> Iterator[tuple[str, NamedSet]]:
    """Give the sets that these chains name, with their ranges."""
    described: tuple[tuple[str, tuple[Range, ...], str], ...] = (
        ("pods", plan.sources, "Pods of this node"),
        ("cluster", plan.cluster, "Pods, nodes and Services: never translated"),
        ("nonmasq", plan.exempt, "destinations outside the cluster that see Pod addresses"),
    )
    for family in {item.family for item in plan.sources}:
        for word, ranges, comment in described:
            elements: frozenset[Element] = frozenset(item for item in ranges if item.family == family)
            yield names.set_name(word, family), NamedSet("range", family, elements, comment)
