"""Masquerade in nftables' terms: a chain that translates what leaves the cluster, and one for what can't be.

A packet that conntrack calls invalid, a late RST or FIN of a connection that it has forgotten, is never translated: it
would leave with a Pod's address that nobody outside can answer, or should see (corner-cases.md 33).
"""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.cluster.address import FAMILIES, Family, Range
from nfagent.egress.plan import MasqueradePlan
from nfagent.ruleset import names
from nfagent.ruleset.objects import (
    Chain,
    ConntrackState,
    Drop,
    Element,
    Hook,
    InSet,
    Masquerade,
    Match,
    NamedSet,
    Packet,
    Rule,
)

SRCNAT_PRIORITY = 100
_FILTER_PRIORITY = 0
MASQUERADE_CHAIN = "masquerade-pods"
UNTRANSLATED_CHAIN = "forward-untranslated"
UNTRANSLATED_COUNTER = "drop/untranslated"


def translation_chains(plan: MasqueradePlan) -> Iterator[tuple[str, Chain]]:
    """Write the chain that translates what leaves the cluster, and the one that stops what can't be translated."""
    leaving = [_leaving(family) for family in FAMILIES if any(item.family == family for item in plan.sources)]
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


def _leaving(family: Family) -> tuple[Match, ...]:
    return (
        InSet(Packet("saddr", family), names.set_name("pods", family)),
        InSet(Packet("daddr", family), names.set_name("cluster", family), negated=True),
        InSet(Packet("daddr", family), names.set_name("nonmasq", family), negated=True),
    )


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
