"""Pods outside the cluster's ranges are elements of a set of their own; Pods inside cost nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.egress.cluster_addresses import ClusterAddresses
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.model.gvk import Item
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import Node, ObjectRef, Pod, ServiceCIDR
from nfagent.nftables.matches import AddressInSet
from nfagent.nftables.transaction import ChangeElements
from nfagent.state.cluster import ClusterState
from tests.support.fake_nftables import FakeNftables


def node(name: str, *cidrs: str, labels: tuple[tuple[str, str], ...] = ()) -> Node:
    return Node(name, labels, tuple(map(parse_cidr, cidrs)))


def remote(name: str, *addresses: str, phase: str = "Running") -> Pod:
    return Pod("shop", name, node="b", addresses=addresses, phase=phase)


HERE = node("a", "10.64.0.0/24", "fd00:1::/64")
INSIDE = remote("inside", "10.64.1.5", "fd00:2::5")
FAR = remote("far", "100.70.0.9", "2001:db8:7::9")


def desired(*items: Item, settings: MasqueradeSettings | None = None) -> DesiredState:
    made = DesiredState("a", settings)
    for item in items:
        made.put(item)
    made.drain_changes()
    return made


def outside(made: DesiredState) -> set[str]:
    sets = made.ruleset().sets
    return {str(item) for family in (4, 6) for item in getattr(sets.get(f"clusterpods{family}"), "elements", ())}


def asked_sets(made: DesiredState) -> set[str]:
    rules = [rule for name in ("masquerade-pods", "forward-untranslated") for rule in made.ruleset().chains[name].rules]
    return {match.set for rule in rules for match in rule.matches if isinstance(match, AddressInSet)}


def test_a_node_whose_cluster_lies_within_ranges_has_the_table_that_it_had() -> None:
    made = desired(HERE, node("b", "10.64.1.0/24", "fd00:2::/64"), INSIDE)
    assert outside(made) == set()
    assert asked_sets(made) == {f"{word}{family}" for word in ("pods", "cluster", "nonmasq") for family in (4, 6)}
    assert not [name for name in made.ruleset().sets if name.startswith("clusterpods")]


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        pytest.param((), {"10.64.1.5", "fd00:2::5"}, id="a Node that names no ranges"),
        pytest.param(("10.64.1.0/24",), {"fd00:2::5"}, id="a Node that names one family"),
        pytest.param(("10.64.1.0/30", "fd00:2::/126"), {"10.64.1.5", "fd00:2::5"}, id="ranges that end before it"),
        pytest.param(("10.64.1.4/30", "fd00:2::4/126"), set(), id="ranges smaller than a block that hold it"),
        pytest.param(("10.64.0.0/10", "fd00::/16"), set(), id="ranges wider than a block"),
    ],
)
def test_whether_a_remote_pod_is_outside_depends_on_its_address_alone(
    ranges: tuple[str, ...], expected: set[str]
) -> None:
    assert outside(desired(HERE, node("b", *ranges), INSIDE)) == expected


def test_both_rules_ask_the_set_while_it_has_elements() -> None:
    made = desired(HERE, FAR)
    assert asked_sets(made) >= {"clusterpods4", "clusterpods6"}
    made.remove(FAR.ref)
    assert not {name for name in asked_sets(made) if name.startswith("clusterpods")}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        pytest.param(remote("new", "100.70.0.10"), {("add", "clusterpods4", "100.70.0.10")}, id="a Pod that comes"),
        pytest.param(remote("in", "10.64.0.77"), set[tuple[str, str, str]](), id="a Pod within a range"),
        pytest.param(
            remote("far", "100.70.0.11", "2001:db8:7::9"),
            {("add", "clusterpods4", "100.70.0.11"), ("delete", "clusterpods4", "100.70.0.9")},
            id="a Pod whose address changes",
        ),
        pytest.param(
            remote("far", "100.70.0.9", "2001:db8:7::9", phase="Succeeded"),
            {("delete", "clusterpods4", "100.70.0.9"), ("delete", "clusterpods6", "2001:db8:7::9")},
            id="a Pod that ends",
        ),
        pytest.param(
            ObjectRef("Pod", "shop", "far"),
            {("delete", "clusterpods4", "100.70.0.9"), ("delete", "clusterpods6", "2001:db8:7::9")},
            id="a Pod that goes",
        ),
    ],
)
def test_an_event_of_a_pod_is_its_own_elements(event: Item | ObjectRef, expected: set[tuple[str, str, str]]) -> None:
    made = desired(HERE, FAR, remote("stays", "100.70.0.2", "2001:db8:7::2"))
    made.remove(event) if isinstance(event, ObjectRef) else made.put(event)
    transaction = made.drain_changes()
    assert all(isinstance(command, ChangeElements) for command in transaction)
    told = [command for command in transaction if isinstance(command, ChangeElements)]
    assert {(one.verb, one.set, str(element)) for one in told for element in one.elements} == expected


def test_two_pods_of_one_address_are_one_element_until_both_are_gone() -> None:
    made = desired(HERE, FAR, remote("twin", "100.70.0.9"))
    made.remove(FAR.ref)
    assert outside(made) == {"100.70.0.9"}


@pytest.mark.parametrize(
    "range_of",
    [
        pytest.param(node("c", "100.70.0.0/16", "2001:db8:7::/48"), id="a Node"),
        pytest.param(ServiceCIDR("more", (parse_cidr("100.70.0.0/16"), parse_cidr("2001:db8:7::/48"))), id="Services"),
    ],
)
def test_an_added_range_includes_pods_and_a_removed_one_leaves_them_outside(range_of: Item) -> None:
    made = desired(HERE, FAR)
    made.put(range_of)
    assert outside(made) == set()
    made.remove(range_of.ref)
    assert outside(made) == set(FAR.addresses)


def test_the_settings_ranges_hold_pods_too() -> None:
    assert outside(desired(HERE, FAR, settings=MasqueradeSettings(cluster_ranges=(parse_cidr("100.70.0.0/16"),)))) == {
        "2001:db8:7::9"
    }


def test_without_masquerade_nothing_is_looked_at() -> None:
    assert outside(desired(HERE, FAR, settings=MasqueradeSettings(enabled=False))) == set()


ADDRESSES = [
    "10.0.0.1",
    "10.0.0.9",
    "10.0.1.1",
    "10.9.9.9",
    "fd00::1",
    "fd00:0:0:1::1",
    "fd00:1:2:3:4:5:6:7",
    "fd00:1::2:3",
]
CIDRS = [
    "10.0.0.0/24",
    "10.0.0.0/29",
    "10.0.0.0/16",
    "10.0.1.1/32",
    "fd00::/64",
    "fd00::/48",
    "fd00:1::/32",
    "fd00::1/128",
]
EVENTS = st.one_of(
    st.builds(
        lambda name, addresses: remote(name, *addresses),
        st.sampled_from("pqr"),
        st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True).map(tuple),
    ),
    st.builds(
        lambda name, cidrs: node(name, *cidrs), st.sampled_from("abc"), st.lists(st.sampled_from(CIDRS), max_size=2)
    ),
    st.builds(lambda name: ObjectRef("Pod", "shop", name), st.sampled_from("pqr")),
    st.builds(lambda name: ObjectRef("Node", "", name), st.sampled_from("abc")),
)


@given(st.lists(st.tuples(EVENTS, st.booleans()), max_size=20))
def test_what_is_outside_is_what_no_range_holds(history: list[tuple[Item | ObjectRef, bool]]) -> None:
    made, kernel = DesiredState("a"), FakeNftables()
    made.mark_synced()
    kernel = FakeNftables(made.ruleset())
    for event, taken in history:
        made.remove(event) if isinstance(event, ObjectRef) else made.put(event)
        if taken:
            kernel.apply(made.drain_changes())
            assert kernel.ruleset == made.ruleset()
    ranges = [item for known in made.cluster.nodes.values() for item in known.pod_cidrs]
    held = {address for pod in made.cluster.pods.values() for address in pod.addresses}
    assert outside(made) == {address for address in held if not any(item.contains(address) for item in ranges)}


def calls(work: Callable[[], object]) -> int:
    """Count the calls of Python functions that something makes."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def scattered(count: int) -> list[Pod]:
    return [remote(f"p{number}", f"100.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(count)]


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(remote("new", "101.0.0.1"), id="a Pod outside comes"),
        pytest.param(remote("p7", "101.0.0.1"), id="a Pod outside changes its address"),
        pytest.param(node("b", "10.64.1.0/24", labels=(("zone", "z"),)), id="a Node is labelled"),
    ],
)
def test_an_event_costs_the_same_however_many_pods_are_outside(event: Item) -> None:
    def cost(count: int) -> int:
        made = desired(HERE, node("b", "10.64.1.0/24"), *scattered(count))
        made.put(remote("first", "102.0.0.1"))
        made.drain_changes()
        return calls(lambda: (made.put(event), made.drain_changes()))

    assert cost(4000) <= cost(40) + 20


def test_a_step_looks_at_a_part_of_the_pods() -> None:
    cluster = ClusterState("a")
    for pod in scattered(5000):
        cluster.put(pod)
    addresses = ClusterAddresses(cluster, ())
    sizes = [len(moved) for moved in addresses.steps()]
    assert (sum(sizes), max(sizes)) == (5000, 1000)
