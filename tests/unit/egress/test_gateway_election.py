"""Who holds which floating address: by the Ready Nodes alone, also after changes between any two steps."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.egress.cluster_addresses import ClusterAddresses
from nfagent.egress.gateway_election import GatewayElection, chosen, may_hold
from nfagent.egress.gateways import MOST_NUMBERS, FloatingAddress
from nfagent.egress.rendezvous import winner
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.gvk import ClusterObject, Item
from nfagent.model.netaddr import family_of, parse_cidr
from nfagent.model.objects import Namespace, Node, ObjectRef, Pod, ServiceCIDR
from nfagent.model.selectors import Requirement, Selector
from nfagent.state.cluster import ClusterState
from nfagent.state.egress import EgressState

EGRESS_KINDS = ("EgressNATPolicy", "NetworkGatewayGroup")
EDGE = (("role", "edge"),)
OUT = parse_cidr("203.0.113.0/24")


class Cluster:
    """A cluster that changes, with the election that follows it."""

    def __init__(self, *items: Item) -> None:
        self.state = ClusterState("n1")
        self.egress = EgressState()
        self.known = ClusterAddresses(self.state, ())
        self.election = GatewayElection(self.state, self.egress, self.known)
        for item in items:
            self.take(item)
        self.settle()

    def take(self, change: Item | ObjectRef) -> None:
        """Put an object, or remove one."""
        kind = change.kind if isinstance(change, ObjectRef) else change.ref.kind
        if kind in EGRESS_KINDS:
            if isinstance(change, ObjectRef):
                self.egress.remove(change)
            else:
                assert isinstance(change, EgressNATPolicy | NetworkGatewayGroup)
                self.egress.put(change)
            self.election.invalidate()
            return
        if isinstance(change, ObjectRef):
            delta = self.state.remove(change)
        else:
            assert isinstance(change, Pod | Node | Namespace | ServiceCIDR)
            delta = self.state.put(change)
        self.election.follow(delta)
        self.known.apply(delta)

    def settle(self) -> None:
        for _ in self.known.steps():
            pass
        for _ in self.election.steps():
            pass

    @property
    def holders(self) -> dict[str, str]:
        return {address: item.holder for address, item in self.election.addresses.items()}

    @property
    def reasons(self) -> list[tuple[str, str, str]]:
        return [(item.group.name, item.address, item.reason) for item in self.election.problems]

    def fresh(self) -> GatewayElection:
        """Return an election of the present objects that has no history, with the numbers of this one."""
        found = GatewayElection(self.state, self.egress, self.known)
        found.copy_numbers(self.election)
        found.invalidate()
        for _ in found.steps():
            pass
        return found


def group(name: str, *addresses: str, labels: Iterable[tuple[str, str]] = ()) -> NetworkGatewayGroup:
    selector = Selector(tuple(Requirement(key, "In", (value,)) for key, value in labels))
    return NetworkGatewayGroup("kube-system", name, addresses, selector)


def policy(name: str, gateway: str = "") -> EgressNATPolicy:
    return EgressNATPolicy(
        name=name,
        action="SNAT",
        destinations=(OUT,),
        gateway=ObjectRef("NetworkGatewayGroup", "kube-system", gateway) if gateway else None,
    )


def node(number: int, **fields: object) -> Node:
    both = (f"172.16.{number // 200}.{number % 200 + 1}", f"fd00:16::{number + 1:x}")
    return msgspec.structs.replace(Node(f"n{number}", EDGE, (), both), **fields)


def elected(nodes: Iterable[Node], one: NetworkGatewayGroup) -> dict[str, str]:
    """Return what the election must find, of the whole state at once."""
    nodes = tuple(nodes)
    return {
        address: winner(address, (item.name for item in nodes if may_hold(item, one, family_of(address))))
        for address in one.addresses
    }


NODES = tuple(map(node, range(1, 6)))
MANY = tuple(f"192.0.2.{last}" for last in range(1, 41)) + tuple(f"2001:db8:f::{last}" for last in range(1, 21))


def test_addresses_are_spread_over_the_nodes_as_the_hash_says() -> None:
    gw = group("gw", *MANY)
    cluster = Cluster(*NODES, gw, policy("out", "gw"))
    assert cluster.holders == elected(NODES, gw)
    assert set(cluster.holders.values()) == {item.name for item in NODES}


@pytest.mark.parametrize(
    ("changed", "stays"),
    [
        pytest.param({"ready": False}, False, id="isn't Ready"),
        pytest.param({"labels": ()}, False, id="has no such label"),
        pytest.param({"labels": (*EDGE, ("zone", "a"))}, True, id="has another label too"),
        pytest.param({"addresses": ()}, False, id="has no address"),
    ],
)
def test_only_the_addresses_of_a_node_that_can_t_hold_them_move(changed: dict[str, object], *, stays: bool) -> None:
    cluster = Cluster(*NODES, group("gw", *MANY, labels=EDGE), policy("out", "gw"))
    before = cluster.holders
    cluster.take(msgspec.structs.replace(NODES[2], **changed))
    cluster.settle()
    moved = {address for address, holder in cluster.holders.items() if holder != before[address]}
    lost = {address for address, holder in before.items() if holder == NODES[2].name}
    assert lost
    assert moved == (set() if stays else lost)
    cluster.take(NODES[2])
    cluster.settle()
    assert cluster.holders == before


def test_a_node_that_comes_takes_only_the_addresses_that_it_wins() -> None:
    cluster = Cluster(*NODES[:4], group("gw", *MANY), policy("out", "gw"))
    before = cluster.holders
    cluster.take(NODES[4])
    cluster.settle()
    moved = {address: holder for address, holder in cluster.holders.items() if holder != before[address]}
    assert moved
    assert set(moved.values()) == {NODES[4].name}


def test_a_node_without_an_address_of_the_family_holds_none_of_it() -> None:
    only4 = node(1, addresses=("172.16.0.1",))
    cluster = Cluster(only4, group("gw", "192.0.2.10", "2001:db8:f::1"), policy("out", "gw"))
    assert cluster.holders == {"192.0.2.10": "n1", "2001:db8:f::1": ""}


def test_a_node_event_that_moves_nothing_leaves_the_version() -> None:
    cluster = Cluster(*NODES, group("gw", *MANY, labels=EDGE), policy("out", "gw"))
    version = cluster.election.version
    cluster.take(msgspec.structs.replace(NODES[0], labels=(*EDGE, ("zone", "b"))))
    assert list(cluster.election.steps()) == []
    assert cluster.election.version == version
    cluster.take(msgspec.structs.replace(NODES[0], ready=False))
    cluster.settle()
    assert cluster.election.version == version + 1


def test_only_groups_that_a_policy_names_count() -> None:
    cluster = Cluster(node(1), group("gw", "192.0.2.10"), group("idle", "192.0.2.20"), policy("out", "gw"))
    assert cluster.holders == {"192.0.2.10": "n1"}
    cluster.take(policy("out"))
    cluster.settle()
    assert cluster.holders == {}


POD = Pod("shop", "web", node="n2", addresses=("192.0.2.10",), phase="Running")


@pytest.mark.parametrize(
    ("holder", "gone", "reason"),
    [
        pytest.param(POD, POD.ref, "Pod shop/web has it; write an address that nothing else has", id="a Pod"),
        pytest.param(
            node(2, addresses=("192.0.2.10",)),
            node(2).ref,
            "Node n2 has it; write an address that nothing else has",
            id="a Node",
        ),
        pytest.param(
            node(2, pod_cidrs=(parse_cidr("192.0.2.0/28"),)),
            node(2).ref,
            "it is in a range of Pods or Services; write an address that nothing else has",
            id="a Node's range of Pods",
        ),
        pytest.param(
            ServiceCIDR("x", (parse_cidr("192.0.2.0/24"),)),
            ObjectRef("ServiceCIDR", "", "x"),
            "it is in a range of Pods or Services; write an address that nothing else has",
            id="a range of Services",
        ),
    ],
)
def test_an_address_that_the_cluster_has_is_not_used_until_it_is_free(
    holder: ClusterObject, gone: ObjectRef, reason: str
) -> None:
    gw = group("gw", "192.0.2.10", "198.51.100.1")
    cluster = Cluster(node(1), gw, policy("out", "gw"))
    cluster.take(holder)
    cluster.settle()
    assert cluster.holders.keys() == {"198.51.100.1"}
    assert cluster.reasons == [("gw", "192.0.2.10", reason)]
    cluster.take(gone)
    cluster.settle()
    assert cluster.holders == elected([node(1)], gw)
    assert cluster.reasons == []


def test_an_address_of_two_groups_is_that_of_the_first_by_namespace_and_name() -> None:
    first, second = group("a", "192.0.2.10"), group("b", "192.0.2.10", "192.0.2.11")
    cluster = Cluster(node(1), second, policy("y", "b"), policy("x", "a"), first)
    assert [item.address for item in cluster.election.of_group(first.ref)] == ["192.0.2.10"]
    assert [item.address for item in cluster.election.of_group(second.ref)] == ["192.0.2.11"]
    told = "NetworkGatewayGroup kube-system/a has it too; write it in one group only"
    assert cluster.reasons == [("b", "192.0.2.10", told)]
    cluster.take(policy("x"))
    cluster.settle()
    assert [item.address for item in cluster.election.of_group(second.ref)] == ["192.0.2.10", "192.0.2.11"]


# Numbers


def numbers(cluster: Cluster) -> dict[tuple[bool, str], int]:
    addresses = cluster.election.addresses.values()
    return {(item.holder == "n1", item.address): item.number for item in addresses}


def test_numbers_stay_while_other_addresses_come_and_go() -> None:
    cluster = Cluster(*NODES, group("gw", *MANY[:20]), group("more", *MANY[20:]), policy("out", "gw"))
    before = numbers(cluster)
    cluster.take(policy("again", "more"))
    cluster.settle()
    assert before.items() <= numbers(cluster).items()
    cluster.take(ObjectRef("EgressNATPolicy", "", "out"))
    cluster.settle()
    cluster.take(policy("out", "gw"))
    cluster.settle()
    assert len(set(numbers(cluster).values())) <= MOST_NUMBERS
    assert all(numbers(cluster).values())


def test_addresses_beyond_the_numbers_have_none() -> None:
    groups = [group(f"g{one}", *(f"198.51.{one}.{last}" for last in range(1, 61))) for one in range(3)]
    cluster = Cluster(node(1), *groups, *(policy(f"p{one}", f"g{one}") for one in range(3)))
    given = sorted(item.number for item in cluster.election.addresses.values())
    assert given == [*[0] * (180 - MOST_NUMBERS), *range(1, MOST_NUMBERS + 1)]


# Which address a Pod uses

USABLE = [FloatingAddress(address, family_of(address), group("gw").ref) for address in MANY]


def test_pods_use_addresses_of_their_own_family_and_keep_them_in_any_order() -> None:
    for pod_address in ("10.64.0.1", "2001:db8:0:a::1"):
        found = chosen(USABLE, pod_address)
        assert found is not None
        assert found.family == family_of(pod_address)
        assert chosen(reversed(USABLE), pod_address) == found
        assert chosen([item for item in USABLE if item.family != found.family], pod_address) is None


def test_pods_of_an_address_that_goes_are_the_only_ones_that_use_another() -> None:
    pods = [f"10.64.1.{last}" for last in range(1, 200)]
    before = {pod: chosen(USABLE, pod) for pod in pods}
    gone = before[pods[0]]
    left = [item for item in USABLE if item != gone]
    assert {pod for pod in pods if chosen(left, pod) != before[pod]} == {pod for pod in pods if before[pod] == gone}


# Changes between two steps


def test_a_holder_that_left_loses_its_addresses_though_a_policy_changes_between_the_steps() -> None:
    gw = group("gw", *MANY)
    cluster = Cluster(*NODES, gw, policy("out", "gw"))
    cluster.take(msgspec.structs.replace(NODES[0], ready=False))
    for _ in cluster.election.steps():
        cluster.take(policy("again", "gw"))
        break
    cluster.settle()
    assert cluster.holders == elected(NODES[1:], gw)


def test_a_call_that_was_left_is_taken_over_and_finds_nothing_of_its_own_later() -> None:
    gw = group("gw", *MANY)
    cluster = Cluster(*NODES, gw, policy("out", "gw"))
    cluster.take(msgspec.structs.replace(NODES[0], ready=False))
    left = cluster.election.steps()
    next(left)
    cluster.settle()
    assert cluster.holders == elected(NODES[1:], gw)
    cluster.take(NODES[0])
    assert list(left) == []
    cluster.settle()
    assert cluster.holders == elected(NODES, gw)


def test_a_step_compares_a_limited_number_of_nodes() -> None:
    nodes = [node(number) for number in range(1, 2_501)]
    gw = group("gw", *MANY)
    cluster = Cluster(*nodes)
    cluster.take(gw)
    cluster.take(policy("out", "gw"))
    assert len(list(cluster.election.steps())) >= 4 + 5 * len(MANY)
    assert cluster.holders == elected(nodes, gw)


NAMES = st.integers(1, 4)
SELECTED = st.sampled_from([EDGE, EDGE, (("role", "db"),)])
ADDRESSES = ["192.0.2.10", "192.0.2.11", "192.0.2.12", "2001:db8:f::1", "2001:db8:f::2"]
NODE_STATES = st.builds(
    lambda number, ready, labels, families, extra: node(
        number, ready=ready, labels=labels, addresses=(*node(number).addresses[families], *extra)
    ),
    NAMES,
    st.booleans(),
    SELECTED,
    st.sampled_from([slice(2), slice(2), slice(1), slice(1, 2)]),
    st.sampled_from([(), (), (), ("192.0.2.10",)]),
)
GROUPS = st.builds(
    lambda name, addresses, labels: group(name, *addresses, labels=labels),
    st.sampled_from("ab"),
    st.lists(st.sampled_from(ADDRESSES), min_size=1, unique=True),
    st.sampled_from([(), EDGE]),
)
POLICIES = st.builds(policy, st.sampled_from(["x", "y"]), st.sampled_from(["a", "a", "b", "missing", ""]))
PODS = st.builds(
    lambda number, address: msgspec.structs.replace(POD, name=f"p{number}", addresses=(address,)),
    NAMES,
    st.sampled_from(["10.64.0.1", *ADDRESSES]),
)
RANGES = st.builds(
    ServiceCIDR,
    st.just("x"),
    st.sampled_from(["192.0.2.0/29", "192.0.2.8/29"]).map(parse_cidr).map(lambda item: (item,)),
)
PUT = st.one_of(NODE_STATES, NODE_STATES, GROUPS, POLICIES, PODS, RANGES)
CHANGES = st.lists(
    st.tuples(PUT | PUT.map(lambda item: item.ref), st.sampled_from(["settle", "suspend", "resume", "none"])),
    max_size=24,
)


@given(CHANGES)
def test_any_history_ends_as_the_present_objects_alone(changes: list[tuple[Item | ObjectRef, str]]) -> None:
    cluster = Cluster(*map(node, (1, 2)), group("a", *ADDRESSES), policy("x", "a"))
    suspended = cluster.election.steps()
    for change, then in changes:
        cluster.take(change)
        if then == "settle":
            cluster.settle()
        elif then == "suspend":
            for _ in cluster.known.steps():
                pass
            suspended = cluster.election.steps()
            next(suspended, None)
        elif then == "resume":
            list(islice(suspended, 2))
    cluster.settle()
    fresh = cluster.fresh()
    assert cluster.election.addresses == fresh.addresses
    assert cluster.election.problems == fresh.problems
    for ref, address in product(cluster.egress.gateways, ADDRESSES):
        found = [item for item in cluster.election.of_group(ref) if item.address == address]
        if found:
            assert found[0].holder == elected(cluster.state.nodes.values(), cluster.egress.gateways[ref])[address]
    given = [key for key in numbers(cluster).items() if key[1]]
    assert len({(held, value) for (held, _), value in given}) == len(given)
    assert len(given) == sum(1 for holder in cluster.holders.values() if holder)
