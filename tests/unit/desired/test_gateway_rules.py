"""Floating addresses in the ruleset: chains, sets and maps follow every change, also one between two steps."""

from __future__ import annotations

from itertools import islice

import msgspec
import pytest

from nfagent.desired.state import DesiredState
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.model.egress_nat import EgressNATPolicy, EgressSource, NetworkGatewayGroup
from nfagent.model.gvk import Item
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import Namespace, Node, ObjectRef, Pod
from nfagent.model.selectors import Requirement, Selector
from nfagent.nftables.transaction import ChangeElements, ChangeMapElements
from nfagent.policy.evaluator import Flow
from tests.support.nft_interpreter import opening, run


def group(name: str, *addresses: str, role: str = "") -> NetworkGatewayGroup:
    selector = Selector((Requirement("role", "In", (role,)),)) if role else Selector()
    return NetworkGatewayGroup("kube-system", name, addresses, selector)


def pod(number: int, app: str = "web") -> Pod:
    address = f"10.{64 + number % 2}.{number // 200}.{number % 200 + 1}"
    labels, node = (("app", app),), ("n1", "n2")[number % 2]
    return Pod(namespace="shop", name=f"p{number}", labels=labels, node=node, addresses=(address,), phase="Running")


GW, OTHER = group("gw", "192.0.2.10", role="edge"), group("other", "192.0.2.20")
WEB = EgressSource(Selector((Requirement("app", "In", ("web",)),)))
OUT = EgressNATPolicy(
    name="out", action="SNAT", destinations=(parse_cidr("203.0.113.0/24"),), sources=(WEB,), gateway=GW.ref
)
N1 = Node("n1", (("role", "edge"),), (parse_cidr("10.64.0.0/16"),), ("172.16.0.1",))
N2 = Node("n2", (), (parse_cidr("10.65.0.0/16"),), ("172.16.0.2",))
SHOP = Namespace("shop", ())


def state(*items: Item, pods: int = 4) -> DesiredState:
    """Return the state of n1, with Pods on both nodes, of which the last one isn't selected."""
    view = DesiredState("n1")
    for item in (N1, N2, SHOP, *map(pod, range(pods - 1)), pod(pods - 1, "db"), *items):
        view.put(item)
    view.drain_changes()
    return view


def gateways(view: DesiredState) -> dict[str, str]:
    return dict(view.ruleset().maps["gateways4"].elements)


def traces(view: DesiredState) -> list[str]:
    """Return the names of everything in the ruleset that exists for floating addresses alone."""
    whole = view.ruleset()
    found = (*whole.chains, *whole.sets, *whole.maps, *whole.counters)
    return [name for name in found if "gateway" in name or "floating" in name or "holder" in name]


def test_the_pods_of_every_node_have_the_chain_of_their_policies_and_address() -> None:
    chain = "gateway4/out/192.0.2.10"
    assert gateways(state(GW, OUT)) == {"10.64.0.1": chain, "10.65.0.2": chain, "10.64.0.3": chain}


NO_PLAN = ((), ())


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        pytest.param((GW, OUT), (("192.0.2.10",), ()), id="this node matches the group: it holds the address"),
        pytest.param((group("gw", "192.0.2.10", role="none"), OUT), NO_PLAN, id="no Node matches: no holder, no route"),
        pytest.param((msgspec.structs.replace(N1, ready=False), GW, OUT), NO_PLAN, id="the only one isn't Ready"),
        pytest.param(
            (msgspec.structs.replace(N1, labels=()), msgspec.structs.replace(N2, labels=N1.labels), GW, OUT),
            ((), ("172.16.0.2",)),
            id="another node holds it: a route there",
        ),
        pytest.param((GW,), NO_PLAN, id="no policy names the group"),
        pytest.param((OUT,), NO_PLAN, id="the group doesn't exist"),
    ],
)
def test_the_plan_of_a_node(items: tuple[Item, ...], expected: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    plan = state(*items).gateway_plan
    assert (plan.held, tuple(via for route in plan.routes for via in route.via)) == expected


def test_addresses_of_a_family_that_is_off_are_not_held_and_have_no_route() -> None:
    """No rule would keep services of this node off them, nor translate packets."""
    view = DesiredState("n1", MasqueradeSettings(ipv4=False))
    for item in (N1, group("gw", "192.0.2.10", "2001:db8::10", role="edge"), OUT):
        view.put(item)
    view.drain_changes()
    assert view.gateways.addresses.keys() == {"192.0.2.10", "2001:db8::10"}
    assert "192.0.2.10" not in view.gateway_plan.held


def test_nothing_is_in_the_ruleset_without_a_policy_that_names_a_group() -> None:
    view = state(GW, msgspec.structs.replace(OUT, gateway=None))
    assert traces(view) == []
    view.put(OUT)
    view.drain_changes()
    assert "drop/not-holder" in traces(view)
    view.remove(OUT.ref)
    view.drain_changes()
    assert traces(view) == []


CHANGES: list[object] = [
    pytest.param(pod(0, "db"), id="a Pod of this node loses the label"),
    pytest.param(pod(3, "web"), id="one of another node gets it"),
    pytest.param(ObjectRef("Pod", "shop", "p1"), id="a Pod goes"),
    pytest.param(msgspec.structs.replace(N1, ready=False), id="the holder isn't Ready"),
    pytest.param(msgspec.structs.replace(N2, labels=N1.labels), id="a further Node matches"),
    pytest.param(msgspec.structs.replace(N2, addresses=("172.16.0.9",)), id="a Node has another address"),
    pytest.param(N1.ref, id="this Node is deleted"),
    pytest.param(group("gw", "192.0.2.11", "192.0.2.12"), id="the group has other addresses"),
    pytest.param(group("gw", "10.64.0.1"), id="its address is a Pod's"),
    pytest.param(GW.ref, id="the group is deleted"),
    pytest.param(msgspec.structs.replace(OUT, gateway=OTHER.ref), id="the policy names another group"),
    pytest.param(msgspec.structs.replace(OUT, gateway=None), id="it names none"),
    pytest.param(msgspec.structs.replace(OUT, sources=()), id="it selects every Pod"),
    pytest.param(msgspec.structs.replace(OUT, destinations=(parse_cidr("9.0.0.0/8"),)), id="other destinations"),
    pytest.param(OUT.ref, id="the policy is deleted"),
    pytest.param(
        EgressNATPolicy(name="keep", action="NoSNAT", destinations=(parse_cidr("203.0.113.8/29"),)),
        id="another policy has a longer prefix",
    ),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_and_its_return_end_in_what_the_objects_alone_make(change: Item | ObjectRef) -> None:
    view = state(GW, OTHER, OUT)
    before = view.ruleset()
    take(view, change)
    view.drain_changes()
    assert view.ruleset() == view.rebuilt().ruleset() != before
    returned: tuple[Item, ...] = (N1, N2, GW, OUT, *map(pod, range(3)), pod(3, "db"))
    for item in returned:
        view.put(item)
    view.remove(ObjectRef("EgressNATPolicy", "", "keep"))
    view.drain_changes()
    assert view.ruleset() == before


def test_a_policy_that_moves_from_a_missing_group_to_another_keeps_the_chain_of_its_pods() -> None:
    view = state(OUT)
    view.put(msgspec.structs.replace(OUT, gateway=OTHER.ref))
    view.drain_changes()
    assert set(gateways(view).values()) == {"gateway4/out/none"} < view.ruleset().chains.keys()
    assert view.ruleset() == view.rebuilt().ruleset()


def take(view: DesiredState, change: Item | ObjectRef) -> None:
    if isinstance(change, ObjectRef):
        view.remove(change)
    else:
        view.put(change)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_any_two_steps_ends_in_what_the_objects_alone_make(change: Item | ObjectRef) -> None:
    pods = 300
    count = sum(1 for _ in pending(pods).prepare())
    assert count > 4
    for stop in range(count):
        view = pending(pods)
        steps = view.prepare()
        for _ in islice(steps, stop):
            pass
        take(view, change)
        for _ in steps:
            pass
        view.drain_changes()
        assert view.ruleset() == view.rebuilt().ruleset(), stop


def pending(pods: int) -> DesiredState:
    """Return a state in which the policy isn't processed yet."""
    view = state(GW, OTHER, pods=pods)
    view.put(OUT)
    return view


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        pytest.param(pod(1, "db"), ["gateways4"], id="a Pod of another node that loses the label: one entry"),
        pytest.param(pod(5, "db"), [], id="one that isn't selected"),
        pytest.param(
            msgspec.structs.replace(OUT, destinations=(*OUT.destinations, parse_cidr("20.0.0.0/8"))),
            ["gateway4/out/kube-system/gw"],
            id="a destination: one element of the set",
        ),
    ],
)
def test_a_change_costs_its_own_commands_alone(item: Item, expected: list[str]) -> None:
    view = state(GW, OUT)
    view.put(item)
    changed = view.drain_changes()
    found = [
        command.set if isinstance(command, ChangeElements) else command.map
        for command in changed
        if isinstance(command, ChangeElements | ChangeMapElements) and not command_is_of_pods(command)
    ]
    assert found == expected


def command_is_of_pods(command: ChangeElements | ChangeMapElements) -> bool:
    return isinstance(command, ChangeElements) and command.set.startswith(("pods", "cluster"))


def test_many_floating_addresses_make_more_steps_and_not_longer_ones() -> None:
    few, many = (
        sum(1 for _ in steps_of(group("gw", *(f"192.0.2.{number}" for number in range(1, last))))) for last in (2, 65)
    )
    assert many > few + 20


def steps_of(gateway: NetworkGatewayGroup) -> list[None]:
    view = state(gateway, pods=2_000)
    view.put(OUT)
    return list(view.prepare())


WIDER = msgspec.structs.replace(OUT, destinations=(parse_cidr("203.0.112.0/23"),))


@pytest.mark.parametrize(
    ("item", "told"),
    [
        pytest.param(pod(6), False, id="a new Pod has no connections"),
        pytest.param(pod(5, "web"), False, id="a new Pod of another node"),
        pytest.param(
            msgspec.structs.replace(pod(2), labels=(("app", "db"),)), False, id="a Pod that leaves the policy"
        ),
        pytest.param(
            msgspec.structs.replace(pod(4, "db"), labels=(("app", "web"),)), True, id="a Pod that gets the label"
        ),
        pytest.param(WIDER, True, id="a policy that gets destinations"),
    ],
)
def test_pods_whose_connections_may_have_to_begin_anew_are_told(item: Item, *, told: bool) -> None:
    view = state(GW, OUT)
    view.put(pod(4, "db"))
    view.drain_changes()
    before = view.gateway_plan.reselected
    view.put(item)
    view.drain_changes()
    assert (view.gateway_plan.reselected != before) == told


def elsewhere(policy: EgressNATPolicy = OUT, pods: int = 4) -> DesiredState:
    """Return a state in which n2 holds the address of a group, and the policy isn't processed yet."""
    plain = msgspec.structs.replace(N1, labels=())
    view = state(plain, msgspec.structs.replace(N2, labels=N1.labels), GW, pods=pods)
    view.put(policy)
    return view


def test_a_holder_that_is_deleted_between_any_two_steps_loses_its_addresses() -> None:
    count = sum(1 for _ in elsewhere(pods=300).prepare())
    for stop in range(count + 1):
        view = elsewhere(pods=300)
        steps = view.prepare()
        for _ in islice(steps, stop):
            pass
        view.remove(N2.ref)
        for _ in steps:
            pass
        view.drain_changes()
        assert (view.gateway_plan.routes, view.ruleset()) == ((), view.rebuilt().ruleset()), stop


def test_a_policy_that_goes_before_its_chains_are_committed_leaves_no_command() -> None:
    for stop in range(1, sum(1 for _ in elsewhere().prepare()) + 1):
        view = elsewhere()
        for _ in islice(view.prepare(), stop):
            pass
        view.remove(OUT.ref)
        assert view.drain_changes() == (), stop


@pytest.mark.parametrize("later", [False, True], ids=["a Node that was there", "a Node that comes later"])
def test_a_holder_without_tunnels_routes_for_other_nodes(*, later: bool) -> None:
    """A Node's own address is in the cluster, and no Pod's."""
    view = state(GW, OUT)
    assert view.gateway_plan.held
    source = "172.16.0.2"
    if later:
        source = "172.16.0.3"
        view.put(msgspec.structs.replace(N2, name="n3", pod_cidrs=(), addresses=(source,)))
    packet = opening(Flow(source, "198.51.100.1", "tcp", 443))
    assert run(view.ruleset(), "forward", packet).accepted
    assert view.ruleset() == view.rebuilt().ruleset()
    view.remove(OUT.ref)
    assert not view.ruleset().sets["nodes4"].elements
