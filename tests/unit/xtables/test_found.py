"""Which ruleset the sets and chains in the kernel stand for, where members are missing or are in sets too many."""

from __future__ import annotations

import msgspec
import pytest

from nfagent.nftables.objects import Chain, Drop, Rule, Ruleset, VerdictMap
from nfagent.xtables.dispatch import all_set, group_of, group_set, target_set
from nfagent.xtables.found import found_ruleset
from nfagent.xtables.lowering import lower, lower_map
from nfagent.xtables.objects import XtRuleset
from nfagent.xtables.options import LoweringOptions

OPTIONS = LoweringOptions()
ADDRESS, OTHER = "10.64.0.10", "10.64.0.11"
KNOWN = Ruleset(
    maps={"ingress4": VerdictMap(4, {ADDRESS: "policies/a", OTHER: "policies/b"})},
    chains={name: Chain((Rule(verdict=Drop()),)) for name in ("policies/a", "policies/b")},
)
LOWERED = lower(KNOWN, OPTIONS)[0]
LISTED = XtRuleset(LOWERED.sets, lower_map("ingress4", KNOWN.maps["ingress4"], OPTIONS).chains)
"""Without a base chain, the lowered ruleset has no chains."""
GROUP = group_set("ingress4", 4, group_of(ADDRESS))


def elements(without: str = "", into: str = "") -> dict[str, str]:
    """Return the elements of the map that is found, where an address is missing from a set, or is in another too."""
    sets = dict(LOWERED.sets)
    for name, change in ((without, frozenset.difference), (into, frozenset.union)):
        if name:
            item = sets.get(name, sets[GROUP])
            sets[name] = msgspec.structs.replace(item, members=change(item.members, {ADDRESS}))
    listed = msgspec.structs.replace(LISTED, sets=sets)
    return found_ruleset(listed, KNOWN, LOWERED, OPTIONS).maps["ingress4"].elements


def test_an_address_that_is_in_all_its_sets_leads_to_its_chain() -> None:
    assert elements() == {ADDRESS: "policies/a", OTHER: "policies/b"}


@pytest.mark.parametrize(
    "name",
    [all_set("ingress4", 4), GROUP, target_set("ingress4", 4, "policies/a")],
    ids=["of all addresses", "of its group", "of its chain"],
)
def test_an_address_that_a_set_on_its_way_lacks_leads_nowhere(name: str) -> None:
    assert elements(without=name) == {OTHER: "policies/b"}


def test_an_address_that_another_group_comes_first_for_leads_nowhere() -> None:
    assert group_of(ADDRESS) > 0
    assert elements(into=group_set("ingress4", 4, 0)) == {OTHER: "policies/b"}


def test_an_address_that_is_in_the_set_of_a_chain_that_its_group_does_not_lead_to_keeps_its_own() -> None:
    assert group_of(ADDRESS) != group_of(OTHER)
    assert elements(into=target_set("ingress4", 4, "policies/b")) == KNOWN.maps["ingress4"].elements


def test_a_chain_that_is_not_known_has_no_name() -> None:
    fewer = VerdictMap(4, {OTHER: "policies/b"})
    known = msgspec.structs.replace(KNOWN, maps={"ingress4": fewer})
    found = found_ruleset(LISTED, known, lower(known, OPTIONS)[0], OPTIONS)
    assert found.maps["ingress4"].elements == {ADDRESS: "", OTHER: "policies/b"}
