"""Edge cases 22 to 26 and 38 of docs/semantics.md: forms that no set and no rule has, with any policies."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given

from nfagent.model.gvk import Item
from nfagent.model.netaddr import Family, Range, family_of
from nfagent.nftables.objects import (
    Accept,
    Element,
    Goto,
    Jump,
    LinkName,
    Masquerade,
    PortRange,
    ProtocolPort,
    Ruleset,
    SourceNat,
    VmapLookup,
)
from nfagent.nftables.render import set_properties, table_text
from tests.properties.strategies import desired, worlds
from tests.support.edge_cases import BOTH, CLUSTER, blocks, cidrs
from tests.support.two_node_cluster import NODES, Document, TwoNodeCluster, policy


def rulesets(world: list[Item]) -> list[Ruleset]:
    return [desired(node, world).ruleset() for node in NODES]


@given(worlds())
def test_22_ranges_of_one_set_neither_overlap_nor_touch(world: list[Item]) -> None:
    for ruleset in rulesets(world):
        for item in ruleset.sets.values():
            ranges = sorted(element for element in item.elements if isinstance(element, Range))
            assert all(before.last + 1 < after.first for before, after in pairwise(ranges))
            ports = sorted(element for element in item.elements if isinstance(element, PortRange))
            assert all(before.last + 1 < after.first for before, after in pairwise(ports))


@given(worlds())
def test_23_no_set_is_left_to_merge_by_itself(world: list[Item]) -> None:
    for ruleset in rulesets(world):
        assert "auto-merge" not in table_text(ruleset)


@given(worlds())
def test_24_no_set_of_several_fields_has_intervals(world: list[Item]) -> None:
    for ruleset in rulesets(world):
        for item in ruleset.sets.values():
            properties = list(set_properties(item))
            assert not (" . " in properties[0] and "flags interval" in properties), properties


def isolating(*peers: Document) -> Ruleset:
    return TwoNodeCluster(*CLUSTER, policy("shop/p", types=BOTH, ingress=[{"from": list(peers)}])).views["a"].ruleset()


@pytest.mark.parametrize(
    ("spelt", "plain"),
    [
        pytest.param(cidrs("10.1.2.3/8"), cidrs("10.0.0.0/8"), id="[25] of IPv4"),
        pytest.param(cidrs("2001:db8::5/32"), cidrs("2001:db8::/32"), id="[25] of IPv6"),
        pytest.param(cidrs("203.0.113.7/0"), cidrs("0.0.0.0/0"), id="[25] all of them"),
        pytest.param(
            blocks({"cidr": "10.0.0.0/8", "except": ["10.1.2.3/16"]}),
            blocks({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}),
            id="[25] of an except",
        ),
    ],
)
def test_host_bits_make_no_other_set(spelt: list[Document], plain: list[Document]) -> None:
    assert isolating(*spelt) == isolating(*plain)


@pytest.mark.parametrize(
    "cidr",
    [
        pytest.param("::ffff:10.64.0.0/112", id="[26] a prefix of mapped addresses"),
        pytest.param("::ffff:10.64.1.20/128", id="[26] one mapped address"),
    ],
)
def test_a_mapped_cidr_is_refused_with_what_to_write_instead(cidr: str) -> None:
    scene = TwoNodeCluster(*CLUSTER, policy("shop/p", types=["Ingress"], ingress=[{"from": cidrs(cidr)}]))
    [found] = scene.views["a"].index.policies.values()
    assert f"cidr '{cidr}': is an IPv4-mapped IPv6 CIDR; write it as an IPv4 CIDR" in str(found.problem)
    assert not scene.passes("ops/spy", "shop/web", "80/tcp")


def family(element: Element) -> Family:
    assert not isinstance(element, int | PortRange)
    if isinstance(element, Range):
        return element.family
    assert not isinstance(element, LinkName | ProtocolPort)
    return family_of(element if isinstance(element, str) else element[0])


@given(worlds())
def test_26_every_element_is_of_its_sets_family(world: list[Item]) -> None:
    for ruleset in rulesets(world):
        for item in ruleset.sets.values():
            if item.kind not in {"family", "ports"}:
                assert {family(element) for element in item.elements} <= {item.family}


def reached(ruleset: Ruleset, chains: set[str]) -> set[str]:
    """Return these chains and all that packets get to from them."""
    found, left = set[str](), set(chains)
    while left:
        name = left.pop()
        found.add(name)
        for rule in ruleset.chains[name].rules:
            if isinstance(rule.verdict, Jump | Goto):
                left.add(rule.verdict.chain)
            elif isinstance(rule.verdict, VmapLookup):
                left.update(ruleset.maps[rule.verdict.map].elements.values())
        left -= found
    return found


@given(worlds())
def test_38_no_rule_rejects_and_postrouting_only_translates(world: list[Item]) -> None:
    for ruleset in rulesets(world):
        assert "reject" not in table_text(ruleset).split()
        after = {name for name, chain in ruleset.chains.items() if chain.hook and chain.hook.name == "postrouting"}
        verdicts = {type(rule.verdict) for name in reached(ruleset, after) for rule in ruleset.chains[name].rules}
        assert verdicts <= {Masquerade, SourceNat, Accept, Jump, VmapLookup}
