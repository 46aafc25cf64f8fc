"""The nftables chains of masquerade: one translates packets that leave the cluster, one drops those that can't be.

A packet in conntrack state invalid, such as a late RST or FIN of a connection without an entry, is never translated: it
would leave with a Pod's address, which hosts outside can't answer and shouldn't see (docs/semantics.md, edge case 33).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nfagent.egress.masquerade import MasqueradePlan
from nfagent.model.netaddr import FAMILIES, Family, Range
from nfagent.nftables import names
from nfagent.nftables.matches import AddressInSet, ConntrackState, IpAddress, L4Proto, Match, RandomBelow
from nfagent.nftables.objects import (
    Accept,
    Chain,
    Drop,
    Element,
    Goto,
    Hook,
    Jump,
    Masquerade,
    NamedSet,
    PortRange,
    Rule,
    VmapLookup,
)

SRCNAT_PRIORITY = 100
_FILTER_PRIORITY = 0
MASQUERADE_CHAIN = "masquerade-pods"
KEPT_CHAIN = "kept-destinations"
PORTS_CHAIN = "masquerade-to-ports"
UNTRANSLATED_CHAIN = "forward-untranslated"
UNTRANSLATED_COUNTER = "drop/untranslated"
CLUSTER_PODS = "clusterpods"


def nat_chains(
    plan: MasqueradePlan, *, by_source: bool = False, gateways: tuple[Rule, ...] = ()
) -> Iterator[tuple[str, Chain]]:
    """Yield the nat chain that masquerades packets, and the filter chain that drops packets NAT can't translate.

    by_source: EgressNATPolicies with sources select Pods of this node. Then a further chain, which both jump to,
               accepts packets to the destinations that see the Pod's address.
    gateways:  the first rules of the nat chain, those of packets for a floating address
    """
    families = [family for family in FAMILIES if any(item.family == family for item in plan.sources)]
    translate: list[Rule] = list(gateways)
    stop: list[Rule] = []
    for family in families:
        leaving = _leaves_cluster(family, outside=family in plan.outside)
        invalid = (ConntrackState(("invalid",)), *leaving)
        if by_source:
            translate.append(Rule(leaving, verdict=Jump(KEPT_CHAIN)))
            stop.append(Rule(invalid, verdict=Jump(KEPT_CHAIN)))
        else:
            elsewhere = AddressInSet(IpAddress("daddr", family), names.set_name("nonmasq", family), negated=True)
            leaving, invalid = (*leaving, elsewhere), (*invalid, elsewhere)
        verdict = Goto(PORTS_CHAIN) if plan.to_ports else Masquerade(plan.random_fully)
        translate.append(Rule(leaving, verdict=verdict))
        stop.append(
            Rule(invalid, counter=UNTRANSLATED_COUNTER, verdict=Drop(), comment="would leave with a Pod's address")
        )
    yield MASQUERADE_CHAIN, Chain(tuple(translate), Hook("nat", "postrouting", SRCNAT_PRIORITY))
    yield UNTRANSLATED_CHAIN, Chain(tuple(stop), Hook("filter", "forward", _FILTER_PRIORITY))
    if plan.to_ports:
        yield PORTS_CHAIN, _ports_chain(plan)
    if by_source:
        yield KEPT_CHAIN, _kept_chain(families)


def _ports_chain(plan: MasqueradePlan) -> Chain:
    """Return the chain that masquerades to ports of ranges, each with a probability in proportion to its size.

    Each rule draws anew, so it draws from the ports of its own range and of those behind it.
    """
    with_ports = L4Proto(("tcp", "udp", "sctp"))
    left = sum(last - first + 1 for first, last in plan.to_ports)
    rules: list[Rule] = []
    for first, last in plan.to_ports:
        size = last - first + 1
        drawn = (RandomBelow(left, size),) if size < left else ()
        rules.append(Rule((with_ports, *drawn), verdict=Masquerade(plan.random_fully, PortRange(first, last))))
        left -= size
    return Chain((*rules, Rule(verdict=Masquerade(plan.random_fully))))


def _kept_chain(families: Iterable[Family]) -> Chain:
    """Return the chain that accepts packets whose destination sees the Pod's address.

    The chain of a Pod's policies replaces the list for all others: it is entered by goto, and returns to the caller.
    """
    by_source = [
        Rule(verdict=VmapLookup(IpAddress("saddr", family), names.egress_nat_map(family))) for family in families
    ]
    others = [_accept_kept(family, names.set_name("nonmasq", family)) for family in families]
    return Chain((*by_source, *others))


def policies_chain(policies: tuple[str, ...], families: Iterable[Family]) -> Chain:
    """Return the chain of Pods that these EgressNATPolicies with sources select."""
    return Chain(tuple(_accept_kept(family, names.egress_nat_set(policies, family)) for family in families))


def policies_set(policies: tuple[str, ...], family: Family, ranges: Iterable[Range]) -> NamedSet:
    """Return the set of destinations of a family that see the addresses of these Pods."""
    elements: frozenset[Element] = frozenset(item for item in ranges if item.family == family)
    words = f"destinations that see Pods of EgressNATPolicies {', '.join(policies)}"
    return NamedSet("range", family, elements, names.comment(words))


def _accept_kept(family: Family, name: str) -> Rule:
    return Rule((AddressInSet(IpAddress("daddr", family), name),), verdict=Accept())


def _leaves_cluster(family: Family, *, outside: bool) -> tuple[Match, ...]:
    """Return the matches of a packet that leaves the cluster; `outside`: Pods have addresses outside its ranges."""
    pods = AddressInSet(IpAddress("daddr", family), names.set_name(CLUSTER_PODS, family), negated=True)
    return (
        AddressInSet(IpAddress("saddr", family), names.set_name("pods", family)),
        AddressInSet(IpAddress("daddr", family), names.set_name("cluster", family), negated=True),
        *((pods,) if outside else ()),
    )


def cluster_pods_set(family: Family) -> NamedSet:
    """Return the set of the cluster's Pods outside its ranges, without elements.

    Addresses, not ranges: the kernel keeps them in a hash, where the cost of a change doesn't grow with the size.
    """
    return NamedSet("address", family, frozenset(), "Pods outside the cluster's ranges: never translated")


def masquerade_sets(plan: MasqueradePlan, gateways: Iterable[Family] = ()) -> Iterator[tuple[str, NamedSet]]:
    """Yield the sets that these chains refer to, with their ranges.

    gateways: families with chains of floating addresses, which refer to the sets also without Pods of this node
    """
    described: tuple[tuple[str, tuple[Range, ...], str], ...] = (
        ("pods", plan.sources, "Pods of this node"),
        ("cluster", plan.cluster, "Pods, nodes and Services: never translated"),
        ("nonmasq", plan.exempt, "destinations outside the cluster that see Pod addresses"),
    )
    for family in {item.family for item in plan.sources}.union(gateways):
        for word, ranges, comment in described:
            elements: frozenset[Element] = frozenset(item for item in ranges if item.family == family)
            yield names.set_name(word, family), NamedSet("range", family, elements, comment)
