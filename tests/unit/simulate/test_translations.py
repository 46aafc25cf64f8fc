"""The Pods that outside hosts would see under another address after a change of egress objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.decode.egress_nat import decode_egress_policy, decode_gateway_group
from nfagent.decode.ip_masq import decode_ip_masq
from nfagent.desired.state import DesiredState
from nfagent.egress.translation import Translation
from nfagent.errors import UsageError
from nfagent.model.gvk import EgressObject
from nfagent.model.netaddr import Range, canonical, parse_cidr
from nfagent.simulate import translations
from nfagent.simulate.translations import (
    EgressInputs,
    TranslationChanges,
    TranslationComparison,
    removed_refs,
)
from tests.support.two_node_cluster import Document, TwoNodeCluster, namespace, pod

PODS = (
    namespace("shop", team="shop"),
    pod("shop/web", "a", 10, app="web"),
    pod("shop/api", "b", 11, app="api"),
    pod("guest/far", "b", 20),
)
WEB = {"podSelector": {"matchLabels": {"app": "web"}}}
SHOP = {"namespaceSelector": {"matchLabels": {"team": "shop"}}}


def nat_policy(name: str, action: str, *cidrs: str, sources: Document | None = None, gateway: str = "") -> EgressObject:
    spec: dict[str, Any] = {"action": action, "destinations": [{"cidr": cidr} for cidr in cidrs]}
    if gateway:
        spec["gatewayRef"] = {"namespace": "ops", "name": gateway}
    if sources is not None:
        spec["sources"] = [sources]
    return decode_egress_policy({"kind": "EgressNATPolicy", "metadata": {"name": name}, "spec": spec})


def group(name: str, *addresses: str, nodes: dict[str, str] | None = None) -> EgressObject:
    spec = {"floatingIPs": list(addresses), "nodeSelector": nodes or {}}
    return decode_gateway_group({"metadata": {"namespace": "ops", "name": name}, "spec": spec})


def ip_masq(text: str) -> EgressObject:
    found = decode_ip_masq(
        {"metadata": {"namespace": "kube-system", "name": "ip-masq-agent"}, "data": {"config": text}}
    )
    assert found is not None
    return found


def cluster(*present: EgressObject) -> DesiredState:
    view = TwoNodeCluster(*PODS).views["a"]
    for item in present:
        view.put(item)
    return view


def inputs(view: DesiredState) -> EgressInputs:
    return EgressInputs(view.egress, view.masquerade_settings, view.cluster_ranges)


def compared(
    view: DesiredState, put: Iterable[EgressObject] = (), removed: Iterable[EgressObject] = (), namespace: str = ""
) -> TranslationChanges:
    found = TranslationComparison(view.cluster, inputs(view), tuple(put), removed_refs(view.egress, removed))
    for _ in found.plan(namespace):
        pass
    for _ in found.compare():
        pass
    return found.result


def rows(found: TranslationChanges) -> list[tuple[str, str, str]]:
    return sorted(
        (" ".join(change.names), " ".join(change.destinations), f"{change.before} to {change.after}")
        for change in found.changes
    )


ALL = "guest/far shop/api shop/web"
ROWS = [
    pytest.param(
        (), (nat_policy("one", "NoSNAT", "203.0.113.0/24"),), [(ALL, "203.0.113.0/24", "node to kept")], id="added"
    ),
    pytest.param(
        (),
        (nat_policy("one", "NoSNAT", "203.0.113.0/24", sources=WEB),),
        [("shop/web", "203.0.113.0/24", "node to kept")],
        id="for the Pods that its sources select",
    ),
    pytest.param((), (nat_policy("one", "NoSNAT", "10.8.0.0/16"),), [], id="kept already by the built-in list"),
    pytest.param((), (nat_policy("one", "SNAT", "10.64.0.0/23"),), [], id="the cluster's own ranges"),
    pytest.param(
        (nat_policy("one", "NoSNAT", "10.8.0.0/16"),),
        (nat_policy("two", "SNAT", "10.0.0.0/12", sources=SHOP),),
        [("shop/api shop/web", "10.0.0.0/13 10.9.0.0-10.15.255.255", "kept to node")],
        id="but for what a longer prefix keeps",
    ),
    pytest.param(
        (),
        (ip_masq("nonMasqueradeCIDRs: [172.16.0.0/12, 192.168.0.0/16, 'fd00::/8']"),),
        [(ALL, "10.0.0.0/8", "kept to node"), (ALL, "fd00::/8", "node to kept")],
        id="another ip-masq-agent list",
    ),
    pytest.param(
        (),
        (nat_policy("one", "NoSNAT", "203.0.112.0/23", "203.0.112.0/25"),),
        [(ALL, "203.0.112.0/23", "node to kept")],
        id="one prefix inside another as a whole",
    ),
    pytest.param(
        (nat_policy("one", "NoSNAT", "203.0.113.0/24"),),
        (nat_policy("two", "SNAT", "203.0.113.0/24"),),
        [(ALL, "203.0.113.0/24", "kept to node")],
        id="a tie",
    ),
]


@pytest.mark.parametrize(("present", "put", "expected"), ROWS)
def test_a_change_turns(
    present: tuple[EgressObject, ...], put: tuple[EgressObject, ...], expected: list[tuple[str, str, str]]
) -> None:
    found = compared(cluster(*present), put)
    assert rows(found) == expected
    assert found.pods == len({name for names, _, _ in expected for name in names.split()})


BY_GATEWAY = nat_policy("one", "SNAT", "203.0.113.0/24", sources=WEB, gateway="gw")
GATEWAYS = [
    pytest.param(
        (group("gw", "192.0.2.10"),), [BY_GATEWAY], [], [("node", "", "gateway", "192.0.2.10")], 0, id="a new policy"
    ),
    pytest.param(
        (group("gw", "192.0.2.10"), BY_GATEWAY),
        [],
        [BY_GATEWAY],
        [("gateway", "192.0.2.10", "node", "")],
        0,
        id="a policy that goes",
    ),
    pytest.param((), [BY_GATEWAY], [], [("node", "", "gateway", "")], 1, id="a policy without its group"),
    pytest.param(
        (group("gw", "192.0.2.10"), BY_GATEWAY),
        [group("gw", "192.0.2.11")],
        [],
        [("gateway", "192.0.2.10", "gateway", "192.0.2.11")],
        0,
        id="another address",
    ),
    pytest.param(
        (group("gw", "192.0.2.10"), BY_GATEWAY),
        [],
        [group("gw", "192.0.2.10")],
        [("gateway", "192.0.2.10", "gateway", "")],
        1,
        id="a group that goes",
    ),
    pytest.param(
        (group("gw", "192.0.2.10"), BY_GATEWAY),
        [group("gw", "192.0.2.10", nodes={"egress": "none"})],
        [],
        [("gateway", "192.0.2.10", "gateway", "")],
        1,
        id="a selector that no Node matches",
    ),
    pytest.param((BY_GATEWAY,), [group("gw", "192.168.0.1")], [], [], 0, id="an address of a Node isn't used"),
    pytest.param((), [group("gw", "192.0.2.10")], [], [], 0, id="a group that no policy names"),
]


@pytest.mark.parametrize(("present", "put", "removed", "turns", "dropped"), GATEWAYS)
def test_a_change_of_gateways_turns(
    present: tuple[EgressObject, ...],
    put: list[EgressObject],
    removed: list[EgressObject],
    turns: list[tuple[str, str, str, str]],
    dropped: int,
) -> None:
    found = compared(cluster(*present), put, removed)
    told = [(one.before, one.floating_before, one.after, one.floating) for one in found.changes]
    assert (told, found.dropped) == (turns, dropped)
    assert [(one.names, one.destinations) for one in found.changes] == [(("shop/web",), ("203.0.113.0/24",))] * len(
        turns
    )


TIES = [
    pytest.param((), [nat_policy("two", "SNAT", "203.0.113.0/24")], [], [("one two", "203.0.113.0/24")], [], id="new"),
    pytest.param(
        (nat_policy("two", "SNAT", "203.0.113.0/24"),),
        [nat_policy("two", "SNAT", "203.0.113.0/25")],
        [],
        [],
        [("one two", "203.0.113.0/24")],
        id="ended by a longer prefix",
    ),
    pytest.param(
        (nat_policy("two", "SNAT", "203.0.113.0/24"),),
        [nat_policy("two", "SNAT", "203.0.113.0/24", "198.51.100.0/24")],
        [],
        [("one two", "198.51.100.0/24")],
        [],
        id="at one more prefix",
    ),
    pytest.param(
        (nat_policy("two", "SNAT", "203.0.113.0/24"),),
        [],
        [nat_policy("two", "SNAT")],
        [],
        [("one two", "203.0.113.0/24")],
        id="ended with its policy",
    ),
    pytest.param(
        (),
        [nat_policy("two", "SNAT", "203.0.113.0/24", sources={"podSelector": {"matchLabels": {"app": "none"}}})],
        [],
        [],
        [],
        id="none where no Pod has both",
    ),
    pytest.param(
        (nat_policy("two", "SNAT", "203.0.113.0/24"),),
        [nat_policy("three", "SNAT", "10.8.0.0/16")],
        [],
        [],
        [],
        id="none that stays as it is",
    ),
]


@pytest.mark.parametrize(("present", "put", "removed", "created", "ended"), TIES)
def test_ties_that_a_change_creates_or_removes(
    present: tuple[EgressObject, ...],
    put: list[EgressObject],
    removed: list[EgressObject],
    created: list[tuple[str, str]],
    ended: list[tuple[str, str]],
) -> None:
    keeping = nat_policy("one", "NoSNAT", "203.0.113.0/24", "198.51.100.0/24", sources=WEB)
    found = compared(cluster(keeping, *present), put, removed).ties
    told = [
        [(" ".join(tie.policies), " ".join(tie.destinations)) for tie in ties]
        for ties in (found.created, found.removed)
    ]
    assert told == [created, ended]


def test_a_removed_policy_gives_its_destinations_back() -> None:
    policy = nat_policy("one", "NoSNAT", "203.0.113.0/24")
    assert rows(compared(cluster(policy), removed=[policy])) == [(ALL, "203.0.113.0/24", "kept to node")]


def test_one_that_doesn_t_exist_can_t_be_removed() -> None:
    with pytest.raises(UsageError, match="there is no EgressNATPolicy one to remove"):
        compared(cluster(), removed=[nat_policy("one", "NoSNAT")])


def test_a_namespace_limits_it_to_its_pods() -> None:
    found = compared(cluster(), [nat_policy("one", "NoSNAT", "203.0.113.0/24")], namespace="guest")
    assert (rows(found), found.pods) == ([("guest/far", "203.0.113.0/24", "node to kept")], 1)


def test_nothing_is_applied() -> None:
    view = cluster()
    compared(view, [nat_policy("one", "NoSNAT", "203.0.113.0/24")])
    assert view.egress.objects == {}


def test_what_decides_is_named() -> None:
    [change] = compared(cluster(), [nat_policy("one", "SNAT", "10.8.0.0/16")]).changes
    assert (change.decided, change.decided_before) == ("EgressNATPolicy one", "the built-in list")


def test_too_much_is_refused_before_anything_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translations, "MOST_COMPARISONS", 1)
    with pytest.raises(UsageError, match="too many to compare"):
        compared(cluster(), [nat_policy("one", "NoSNAT", "203.0.113.0/24", "198.51.100.0/24")])


PREFIXES = ("0.0.0.0/0", "10.0.0.0/8", "10.64.0.0/16", "203.0.112.0/23", "203.0.113.0/24", "203.0.113.128/25", "::/0")
PLACES = ("10.1.2.3", "10.64.0.99", "10.64.9.9", "203.0.112.1", "203.0.113.1", "203.0.113.200", "8.8.8.8", "2600::1")
policies = st.builds(
    lambda name, action, cidrs, sources, gateway: nat_policy(
        name, action, *cidrs, sources=sources, gateway=gateway if action == "SNAT" else ""
    ),
    st.sampled_from(["default", "one", "two"]),
    st.sampled_from(["NoSNAT", "SNAT"]),
    st.lists(st.sampled_from(PREFIXES), max_size=4),
    st.sampled_from([None, WEB, SHOP]),
    st.sampled_from(["", "gw"]),
)
groups = st.builds(
    lambda addresses, nodes: group("gw", *addresses, nodes=nodes),
    st.lists(st.sampled_from(["192.0.2.10", "192.0.2.11", "2600::10"]), min_size=1, unique=True),
    st.sampled_from([None, {"egress": "none"}]),
)


@given(
    present=st.lists(policies | groups, max_size=4),
    put=st.lists(policies | groups, min_size=1, max_size=2, unique_by=lambda item: item.ref),
)
def test_a_place_is_in_a_change_exactly_where_the_translation_differs(
    present: list[EgressObject], put: list[EgressObject]
) -> None:
    view = cluster(*present)
    later = cluster(*present, *put)
    changes = compared(view, put).changes
    view.drain_changes()
    later.drain_changes()
    for holder in view.cluster.pods.values():
        for place in map(canonical, PLACES):
            kinds = [_seen(state.translation(holder, place)) for state in (view, later)]
            listed = [
                [(change.before, change.floating_before), (change.after, change.floating)]
                for change in changes
                if holder.ref.path in change.names and any(_range(text).contains(place) for text in change.destinations)
            ]
            assert listed == ([kinds] if kinds[0] != kinds[1] else []) or kinds == [("cluster", "")] * 2


def _seen(found: Translation) -> tuple[str, str]:
    return found.kind, "" if found.dropped else found.floating


def _range(text: str) -> Range:
    first, _, last = text.partition("-")
    parsed = parse_cidr(first if "/" in first else f"{first}/{128 if ':' in first else 32}")
    if not last:
        return parsed
    end = parse_cidr(f"{last}/{128 if ':' in last else 32}")
    return Range(parsed.family, parsed.first, end.last)
