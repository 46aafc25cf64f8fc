"""The nftables chains of masquerade: one translates packets that leave the cluster, one drops those that can't be.

A packet in conntrack state invalid, such as a late RST or FIN of a connection without an entry, is never translated: it
would leave with a Pod's address, which hosts outside can't answer and shouldn't see (docs/semantics.md, edge case 33).
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
CLUSTER_PODS = "clusterpods"


def nat_chains(plan: MasqueradePlan) -> Iterator[tuple[str, Chain]]:
    """Yield the nat chain that masquerades packets, and the filter chain that drops packets NAT can't translate."""
    families = [family for family in FAMILIES if any(item.family == family for item in plan.sources)]
    leaving = [_leaves_cluster(family, outside=family in plan.outside) for family in families]
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


def _leaves_cluster(family: Family, *, outside: bool) -> tuple[Match, ...]:
    """Return the matches of a packet that leaves the cluster; `outside`: Pods have addresses outside its ranges."""
    pods = AddressInSet(IpAddress("daddr", family), names.set_name(CLUSTER_PODS, family), negated=True)
    return (
        AddressInSet(IpAddress("saddr", family), names.set_name("pods", family)),
        AddressInSet(IpAddress("daddr", family), names.set_name("cluster", family), negated=True),
        *((pods,) if outside else ()),
        AddressInSet(IpAddress("daddr", family), names.set_name("nonmasq", family), negated=True),
    )


def cluster_pods_set(family: Family) -> NamedSet:
    """Return the set of the cluster's Pods outside its ranges, without elements.

    Addresses, not ranges: the kernel keeps them in a hash, where the cost of a change doesn't grow with the size.
    """
    return NamedSet("address", family, frozenset(), "Pods outside the cluster's ranges: never translated")


def masquerade_sets(plan: MasqueradePlan) -> Iterator[tuple[str, NamedSet]]:
    """Yield the sets that these chains refer to, with their ranges."""
    described: tuple[tuple[str, tuple[Range, ...], str], ...] = (
        ("pods", plan.sources, "Pods of this node"),
        ("cluster", plan.cluster, "Pods, nodes and Services: never translated"),
        ("nonmasq", plan.exempt, "destinations outside the cluster that see Pod addresses"),
    )
    for family in {item.family for item in plan.sources}:
        for word, ranges, comment in described:
            elements: frozenset[Element] = frozenset(item for item in ranges if item.family == family)
            yield names.set_name(word, family), NamedSet("range", family, elements, comment)
