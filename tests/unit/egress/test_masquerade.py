"""Masquerade: the plan, and its rules, interpreted."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from nfagent.desired.state import DesiredState
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.introspection.view_filter import ViewFilter
from nfagent.introspection.views import state_view
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import ObjectRef
from nfagent.nftables.masquerade_chains import PORTS_CHAIN
from nfagent.nftables.matches import L4Proto, RandomBelow
from nfagent.nftables.objects import Masquerade, Rule
from tests.support.nft_interpreter import later, run, stray
from tests.support.two_node_cluster import Document, TwoNodeCluster, pod, policy

WEB = pod("shop/web", "a", 10, app="web")
DB = pod("shop/db", "b", 10, app="db")
SERVICES = MasqueradeSettings(cluster_ranges=(parse_cidr("198.18.0.0/16"), parse_cidr("2001:db8:5::/48")))


def config(text: str) -> Document:
    return {
        "kind": "ConfigMap",
        "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
        "data": {"config": text},
    }


def egress(name: str, *cidrs: str, **spec: Any) -> Document:  # noqa: ANN401 - a document's own fields
    listed = [{"cidr": cidr} for cidr in cidrs]
    return {
        "kind": "EgressNATPolicy",
        "metadata": {"name": name},
        "spec": {"action": "NoSNAT", "destinations": listed, **spec},
    }


def services(name: str, *cidrs: str) -> Document:
    return {"kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}}


WEB_PODS = [{"podSelector": {"matchLabels": {"app": "web"}}}]
BY_SOURCE = egress("more", "203.0.113.0/24", "::/0", sources=WEB_PODS)
OUT_OF_RANGE = pod("shop/odd", "a", 11)
OUT_OF_RANGE["status"]["podIPs"] = [{"ip": "240.0.0.9"}]


@pytest.mark.parametrize(
    ("source", "destination", "family", "documents", "translated"),
    [
        pytest.param("shop/web", "outside", 4, (), True, id="a Pod that leaves the cluster is translated"),
        pytest.param("shop/web", "outside", 6, (), True, id="and so it is with IPv6"),
        pytest.param("shop/web", "shop/db", 4, (), False, id="[34] Pod to Pod is not"),
        pytest.param("shop/web", "shop/db", 6, (), False, id="[34] nor with IPv6"),
        pytest.param("shop/web", "b", 4, (), False, id="[34] Pod to node is not"),
        pytest.param("shop/web", "b", 6, (), False, id="[34] nor with IPv6"),
        pytest.param("shop/web", "172.20.0.1", 4, (), False, id="[34] a default non-masquerade CIDR is not"),
        pytest.param("shop/web", "169.254.169.254", 4, (), False, id="link-local is not"),
        pytest.param("shop/web", "fe80::1", 6, (), False, id="nor is link-local of IPv6"),
        pytest.param("shop/web", "198.18.0.10", 4, (), False, id="a Service is not"),
        pytest.param("shop/web", "2001:db8:5::1", 6, (), False, id="nor is a Service of IPv6"),
        pytest.param("outside", "shop/web", 4, (), False, id="who comes in is not"),
        pytest.param("a", "outside", 4, (), False, id="the node itself is not"),
        pytest.param(
            "shop/web",
            "172.20.0.1",
            4,
            (config("nonMasqueradeCIDRs: []"),),
            True,
            id="an empty list exempts no destination",
        ),
        pytest.param("shop/web", "shop/db", 4, (config("nonMasqueradeCIDRs: []"),), False, id="but the cluster's own"),
        pytest.param(
            "shop/web", "169.254.169.254", 4, (config("masqLinkLocal: true"),), True, id="link-local by choice"
        ),
        pytest.param(
            "shop/web",
            "203.0.113.7",
            4,
            (config("nonMasqueradeCIDRs: [203.0.113.7/32]"),),
            False,
            id="a CIDR of one address",
        ),
        pytest.param(
            "shop/web",
            "outside",
            4,
            (config("nonMasqueradeCIDRs: [0.0.0.0/0, 203.0.113.0/24]"),),
            False,
            id="[4] everything, overlapped",
        ),
        pytest.param(
            "shop/web",
            "outside",
            6,
            (config("nonMasqueradeCIDRs: [0.0.0.0/0]"),),
            True,
            id="everything of IPv4 is not IPv6",
        ),
        pytest.param("240.0.0.9", "outside", 4, (OUT_OF_RANGE,), True, id="a Pod outside its node's range, of class E"),
        pytest.param(
            "shop/web", "240.0.0.9", 4, (OUT_OF_RANGE,), False, id="and it is part of the cluster to its node"
        ),
        pytest.param(
            "shop/web",
            "172.20.0.1",
            4,
            (egress("default"),),
            True,
            id="an empty EgressNATPolicy `default` exempts no destination",
        ),
        pytest.param("shop/web", "shop/db", 4, (egress("default"),), False, id="but the cluster's own, there too"),
        pytest.param(
            "shop/web", "169.254.169.254", 4, (egress("default"),), False, id="nor link-local: the ConfigMap's switch"
        ),
        pytest.param(
            "shop/web",
            "172.20.0.1",
            4,
            (config("nonMasqueradeCIDRs: [172.16.0.0/12]"), egress("default", "9.0.0.0/8")),
            True,
            id="`default` stands in place of the ConfigMap's list",
        ),
        pytest.param(
            "shop/web", "outside", 4, (egress("more", "203.0.113.0/24"),), False, id="another policy's destinations"
        ),
        pytest.param(
            "shop/web", "172.20.0.1", 4, (egress("more", "203.0.113.0/24"),), False, id="which add to the list"
        ),
        pytest.param("shop/web", "outside", 6, (egress("more", "::/0"),), False, id="and with IPv6"),
        pytest.param(
            "shop/web",
            "outside",
            4,
            (BY_SOURCE,),
            False,
            id="a policy with sources, for a Pod that they select",
        ),
        pytest.param("shop/web", "outside", 6, (BY_SOURCE,), False, id="and with IPv6"),
        pytest.param("shop/db", "outside", 4, (BY_SOURCE,), True, id="not for another Pod"),
        pytest.param("shop/web", "172.20.0.1", 4, (BY_SOURCE,), False, id="the list decides beside it"),
        pytest.param("shop/web", "198.51.100.1", 4, (BY_SOURCE,), True, id="and the default after that"),
        pytest.param("shop/web", "shop/db", 4, (BY_SOURCE,), False, id="[34] the cluster's own, there too"),
        pytest.param(
            "shop/web",
            "10.9.9.9",
            4,
            (egress("more", "10.0.0.0/8", action="SNAT"),),
            True,
            id="SNAT to the node's address, before the list",
        ),
        pytest.param(
            "shop/web",
            "10.9.9.9",
            4,
            (egress("hide", "10.0.0.0/8", action="SNAT"), egress("keep", "10.9.0.0/16", sources=WEB_PODS)),
            False,
            id="the longer prefix of a policy with sources",
        ),
        pytest.param(
            "shop/db",
            "10.9.9.9",
            4,
            (egress("hide", "10.0.0.0/8", action="SNAT"), egress("keep", "10.9.0.0/16", sources=WEB_PODS)),
            True,
            id="which is not there for another Pod",
        ),
        pytest.param(
            "shop/web",
            "10.9.9.9",
            4,
            (egress("hide", "10.0.0.0/8", action="SNAT", sources=WEB_PODS), egress("keep", "10.0.0.0/8")),
            True,
            id="a tie of different actions is masqueraded",
        ),
        pytest.param(
            "shop/db",
            "10.9.9.9",
            4,
            (egress("hide", "10.0.0.0/8", action="SNAT", sources=WEB_PODS), egress("keep", "10.0.0.0/8")),
            False,
            id="where both policies apply",
        ),
        pytest.param(
            "shop/web",
            "203.0.113.9",
            4,
            (services("more", "203.0.113.8/29"),),
            False,
            id="a ServiceCIDR is the cluster's",
        ),
    ],
)
def test_translated(
    source: str,
    destination: str,
    family: int,
    documents: tuple[Document, ...],
    translated: bool,  # noqa: FBT001 - a table's column
) -> None:
    scene = TwoNodeCluster(WEB, DB, *documents, masquerade=SERVICES)
    assert scene.translates(source, destination, family=family) == translated


def test_only_a_first_packet_is_masqueraded_and_no_dropped_one() -> None:
    scene = TwoNodeCluster(WEB)
    flow = scene.flow("shop/web", "outside", "80/tcp")
    ruleset = scene.views["a"].ruleset()
    assert not run(ruleset, "forward", later(flow)).translated
    assert not run(ruleset, "forward", stray(flow, "untracked")).translated
    denied = TwoNodeCluster(WEB, policy("shop/p", types=["Egress"]))
    assert not denied.translates("shop/web", "outside")


def test_another_nodes_pods_are_that_nodes_to_translate() -> None:
    scene = TwoNodeCluster(WEB, DB)
    ruleset = scene.views["a"].ruleset()
    assert not scene.translates("shop/db", "shop/web")
    elsewhere = scene.flow("shop/db", "outside", "80/tcp")
    assert not run(ruleset, "forward", later(elsewhere)).translated
    assert scene.translates("shop/db", "outside")


def test_switched_off_there_is_neither_chain_nor_set() -> None:
    ruleset = TwoNodeCluster(WEB, masquerade=MasqueradeSettings(enabled=False)).views["a"].ruleset()
    assert "masquerade-pods" not in ruleset.chains
    assert not any(name.startswith(("cluster", "nonmasq", "pods", "masquerade")) for name in ruleset.sets)


@pytest.mark.parametrize(
    ("settings", "translated"),
    [
        pytest.param(MasqueradeSettings(), [4, 6], id="by default both families are translated"),
        pytest.param(MasqueradeSettings(ipv6=False), [4], id="IPv6 can be switched off alone"),
        pytest.param(MasqueradeSettings(ipv4=False), [6], id="and so can IPv4"),
        pytest.param(MasqueradeSettings(ipv4=False, ipv6=False), [], id="without a family it is off"),
        pytest.param(MasqueradeSettings(enabled=False, ipv6=True), [], id="off is off for every family"),
    ],
)
def test_families(settings: MasqueradeSettings, translated: list[int]) -> None:
    scene = TwoNodeCluster(WEB, masquerade=settings)
    assert [family for family in (4, 6) if scene.translates("shop/web", "outside", family=family)] == translated
    view = state_view(scene.views["a"], ViewFilter(), ())["masquerade"]
    assert (view["families"], view["enabled"]) == (translated, bool(translated))


@pytest.mark.parametrize("random_fully", [True, False])
def test_ports_are_chosen_as_configured(random_fully: bool) -> None:  # noqa: FBT001 - a table's column
    ruleset = TwoNodeCluster(WEB, masquerade=MasqueradeSettings(random_fully=random_fully)).views["a"].ruleset()
    verdicts = [rule.verdict for rule in ruleset.chains["masquerade-pods"].rules]
    assert verdicts == [Masquerade(random_fully), Masquerade(random_fully)]


def test_reserved_ranges_are_exempt_by_setting() -> None:
    assert TwoNodeCluster(WEB).translates("shop/web", "203.0.113.9")
    assert not TwoNodeCluster(WEB, masquerade=MasqueradeSettings(all_reserved_ranges=True)).translates(
        "shop/web", "203.0.113.9"
    )


def test_additions_and_removals_change_the_plan() -> None:
    scene = TwoNodeCluster(WEB)
    held = []
    for document in (egress("more", "203.0.113.0/24"), services("more", "203.0.113.0/24")):
        scene.put(document)
        held.append(scene.translates("shop/web", "outside"))
        for view in scene.views.values():
            view.remove(ObjectRef(document["kind"], "", "more"))
        held.append(scene.translates("shop/web", "outside"))
    assert held == [False, True, False, True]


def test_a_late_reset_of_a_selected_pod_is_dropped_unless_its_destination_sees_the_pods_address() -> None:
    scene = TwoNodeCluster(WEB, DB, BY_SOURCE)
    views = {"shop/web": scene.views["a"], "shop/db": scene.views["b"]}
    late = {
        (source, to): run(view.ruleset(), "forward", stray(scene.flow(source, to, "80/tcp"), "invalid"))
        for source, view in views.items()
        for to in ("203.0.113.9", "172.20.0.1", "198.51.100.1")
    }
    dropped = {key for key, result in late.items() if "drop/untranslated" in result.counters}
    assert dropped == {("shop/web", "198.51.100.1"), ("shop/db", "198.51.100.1"), ("shop/db", "203.0.113.9")}


def test_policies_with_sources_come_and_go_with_chain_sets_and_map() -> None:
    scene = TwoNodeCluster(WEB, DB)
    before = {name: view.ruleset() for name, view in scene.views.items()}
    scene.put(BY_SOURCE)
    there = scene.views["a"].ruleset()
    assert {"kept-destinations", "kept/more"} <= there.chains.keys()
    assert there.maps["natpods4"].elements == {"10.64.0.10": "kept/more"}
    assert scene.views["b"].ruleset() == before["b"]
    for view in scene.views.values():
        view.remove(ObjectRef("EgressNATPolicy", "", "more"))
    assert {name: view.ruleset() for name, view in scene.views.items()} == before


def test_sets_hold_disjoint_ranges_however_they_overlap() -> None:
    overlap = config("nonMasqueradeCIDRs: [10.0.0.0/8, 10.64.0.0/16, 10.64.0.0/24, 11.0.0.0/8]")
    sets = TwoNodeCluster(WEB, overlap).views["a"].ruleset().sets
    assert sets["nonmasq4"].elements == {parse_cidr("10.0.0.0/7"), parse_cidr("169.254.0.0/16")}


RANGES = ((1024, 29_999), (32_768, 65_535), (700, 700))
SIZES = {ports: ports[1] - ports[0] + 1 for ports in RANGES}


@pytest.mark.parametrize("ranges", [RANGES, RANGES[:1], RANGES[2:], RANGES[::-1]], ids=str)
def test_each_range_of_ports_has_a_part_in_proportion_to_its_size(ranges: tuple[tuple[int, int], ...]) -> None:
    chain = DesiredState("a", MasqueradeSettings(to_ports=ranges)).ruleset().chains[PORTS_CHAIN]
    *by_range, others = chain.rules
    assert others == Rule(verdict=Masquerade(random_fully=True))
    left, parts = Fraction(1), {}
    for rule in by_range:
        protocols, *drawn = rule.matches
        assert protocols == L4Proto(("tcp", "udp", "sctp"))
        [part] = [Fraction(item.below, item.modulus) for item in drawn if isinstance(item, RandomBelow)] or [
            Fraction(1)
        ]
        assert isinstance(rule.verdict, Masquerade)
        assert rule.verdict.ports is not None
        parts[rule.verdict.ports.first, rule.verdict.ports.last] = left * part
        left *= 1 - part
    assert parts == {ports: Fraction(SIZES[ports], sum(SIZES[one] for one in ranges)) for ports in ranges}
    assert left == 0


def test_without_ranges_of_ports_there_is_no_chain_for_them() -> None:
    assert PORTS_CHAIN not in DesiredState("a").ruleset().chains
