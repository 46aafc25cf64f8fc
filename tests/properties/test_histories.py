"""Long histories of a cluster: the changes add up to the whole ruleset, and each costs its own delta only."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import NodePeer, TierPolicy
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.gvk import Item
from nfagent.model.netaddr import Range, family_of
from nfagent.model.networkpolicy import PodPeer
from nfagent.model.objects import DIRECTIONS, Node, ObjectRef, Pod
from nfagent.nftables.matches import AddressInSet, NamedPort
from nfagent.nftables.names import content_name
from nfagent.nftables.objects import Element, Goto, Return, Ruleset
from nfagent.nftables.render import table_text
from nfagent.nftables.transaction import ChangeElements, ChangeMapElements, Transaction
from nfagent.policy.evaluator import evaluate
from nfagent.policy.merged_peers import any_of
from tests.properties.objects import LOGGING, MASQUERADE, namespaces, nodes, pods, policies
from tests.properties.strategies import IN_NO_RANGE, PROTOCOLS, RANDOM, RECHECK_SETS, catch_up, desired, flows, worlds
from tests.properties.tier_strategies import tier_policies
from tests.support.fake_nftables import FakeNftables
from tests.support.nft_interpreter import opening, run, seen_at
from tests.support.two_node_cluster import (
    Document,
    decoded,
    hops,
    labelled,
    namespace,
    node,
    pod,
    policy,
    port,
    tier_policy,
)

Event = Item | ObjectRef
_LONG = 60
_FLOWS = 40

EVENTS: st.SearchStrategy[Item] = st.one_of(
    *(pods(), pods(), pods(), pods()),
    *(policies(), policies(), tier_policies(), tier_policies()),
    *(namespaces(), nodes(), LOGGING, MASQUERADE),
)


@st.composite
def long_histories(draw: st.DrawFn) -> list[tuple[Event, str]]:
    """Draw a world and its churn: each event with what follows it ('take', 'wait', 'clear', 'restart')."""
    first = draw(worlds())
    # Names are few, so most events change an object, often back to a previous version; a third of them remove one.
    drawn = draw(st.lists(EVENTS, min_size=_LONG // 4, max_size=_LONG // 2))
    random = draw(RANDOM)
    present = {item.ref: item for item in first}
    churn: list[Event] = []
    for item in (*drawn, *random.choices([*drawn, *first], k=len(drawn))):
        churn.append(item)
        present[item.ref] = item
        if random.random() < 0.4:
            gone = random.choice(sorted(present))
            churn.append(gone)
            del present[gone]
    fates = random.choices(["take", "wait", "clear", "restart"], weights=[6, 4, 2, 1], k=len(first) + len(churn))
    return list(zip([*first, *churn], fates, strict=True))


def happen(view: DesiredState, event: Event) -> None:
    if isinstance(event, ObjectRef):
        view.remove(event)
    else:
        view.put(event)


def left_over(events: Iterable[Event]) -> list[Item]:
    """Return the objects that are there in the end; a subject that can't be read is the last good one, as in force."""
    left: dict[ObjectRef, Item] = {}
    for event in events:
        if isinstance(event, ObjectRef):
            left.pop(event, None)
        else:
            before = left.get(event.ref)
            left[event.ref] = event
            if isinstance(event, TierPolicy) and isinstance(before, TierPolicy):
                left[event.ref] = event.with_last_good(before)
    return list(left.values())


def started(objects: Iterable[Item], kernel: FakeNftables) -> DesiredState:
    """Restart from the cluster's objects, with the table that the previous agent left."""
    view = desired("a", objects)
    catch_up(view, kernel)
    return view


def clear_recheck(view: DesiredState, kernel: FakeNftables, random: Random) -> None:
    """Clear some of the addresses to re-check, while others wait."""
    judged = {address: change for address, change in view.recheck_addresses.items() if random.random() < 0.7}
    view.clear_recheck(judged)
    assert view.recheck_addresses.keys().isdisjoint(judged)
    kernel.apply(view.drain_changes())


def under_re_check(ruleset: Ruleset) -> set[Element]:
    """Return the addresses to re-check; their families must be in the set."""
    found = ruleset.sets["recheck4"].elements | ruleset.sets["recheck6"].elements
    assert ruleset.sets["rechecking"].elements == {family_of(str(address)) for address in found}
    return set(found)


GATEWAYS = NetworkGatewayGroup(
    namespace="kube-system", name="gw", addresses=("2001:db8:0:a::3", "192.0.2.11", "192.0.2.10")
)
MOVED_ADDRESSES: list[tuple[Event, str]] = [
    # Floating addresses that move to another node keep their numbers; from the objects alone they get others.
    (Node("b", addresses=("192.168.0.2", "fd00::2"), ready=True), "take"),
    (Node("a", addresses=("192.168.0.1", "fd00::1"), ready=True), "take"),
    (
        EgressNATPolicy(
            name="out", action="SNAT", destinations=(Range(4, 0x0A000000, 0x0AFFFFFF),), gateway=GATEWAYS.ref
        ),
        "take",
    ),
    (GATEWAYS, "take"),
    (ObjectRef("Node", "", "b"), "take"),
]


@settings(max_examples=2 * settings().max_examples)
@example(MOVED_ADDRESSES, ("tcp", 80), Random(0))  # noqa: S311 - not for secrets
@given(long_histories(), PROTOCOLS, RANDOM)
def test_a_long_history_with_restarts_leads_to_what_a_full_compile_gives(
    history: list[tuple[Event, str]], protocol: tuple[str, int | None], random: Random
) -> None:
    kernel, seen = FakeNftables(), list[Event]()
    view = started([], kernel)
    for event, fate in history:
        happen(view, event)
        seen.append(event)
        if fate == "restart":
            objects = left_over(seen)
            random.shuffle(objects)
            view = started(objects, kernel)
        elif fate != "wait":
            kernel.apply(view.drain_changes())
        if fate == "clear":
            clear_recheck(view, kernel, random)
        if fate != "wait":
            assert kernel.ruleset == view.ruleset()
            assert under_re_check(kernel.ruleset) == view.recheck_addresses.keys()
    kernel.apply(view.drain_changes())
    view.clear_recheck(view.recheck_addresses)
    kernel.apply(view.drain_changes())
    fresh = desired("a", left_over(seen))
    fresh.gateways.copy_numbers(view.gateways)
    assert kernel.ruleset == view.ruleset() == fresh.ruleset() == view.rebuilt().ruleset()
    assert table_text(kernel.ruleset) == table_text(fresh.ruleset())
    assert (view.drain_changes(), view.dirty) == ((), False)
    assert_both_readings_agree(view, kernel.ruleset, left_over(seen), protocol, random)


def assert_both_readings_agree(
    view: DesiredState, there: Ruleset, objects: list[Item], protocol: tuple[str, int | None], random: Random
) -> None:
    rulesets = {"a": there, "b": desired("b", objects).ruleset()}
    judged = list(flows(view.cluster.by_address, *protocol))
    for flow in random.sample(judged, min(_FLOWS, len(judged))):
        packet = opening(flow)
        passes = all(
            run(rulesets[name], hook, seen_at(hook, packet)).accepted for name, hook in hops(flow, view.cluster)
        )
        assert evaluate(view.cluster, view.index.policies.values(), flow).allowed == passes, flow


# Deltas: what an event must not change, and how much it may.


def from_pods(**labels: str) -> list[Document]:
    return [{"podSelector": labelled(**labels)}]


def in_tiers(**labels: str) -> Document:
    return {"pods": {"namespaceSelector": {}, "podSelector": labelled(**labels)}}


def labelled_node(**labels: str) -> Document:
    made = node("b")
    return made | {"metadata": made["metadata"] | {"labels": labels}}


SCENE = [
    node("a"),
    node("b"),
    namespace("shop", team="red"),
    namespace("ops", team="blue"),
    pod("shop/web", "a", 1, (port(80, "http"),), app="web"),
    pod("shop/api", "a", 2, app="api"),
    pod("shop/free", "a", 3, app="free"),
    pod("shop/db", "b", 1, (port(5432, "sql"),), app="db"),
    pod("ops/scrape", "b", 2, (port(9100, "metrics"),), app="scrape"),
    policy("shop/web", labelled(app="web"), ingress=[{"from": from_pods(app="db"), "ports": [{"port": "http"}]}]),
    policy("shop/api", labelled(app="api"), ingress=[{"from": from_pods(app="db")}, {"from": from_pods(tier="x")}]),
    policy("shop/out", labelled(app="api"), types=["Egress"], egress=[{"to": from_pods(app="db")}]),
    policy("shop/sql", labelled(app="api"), egress=[{"to": from_pods(app="db"), "ports": [{"port": "sql"}]}]),
    policy(
        "shop/gold",
        labelled(app="api"),
        egress=[{"to": [{"namespaceSelector": labelled(team="gold")}], "ports": [{"port": "metrics"}]}],
        types=["Egress"],
    ),
    policy("shop/blue", labelled(app="web"), ingress=[{"from": [{"namespaceSelector": labelled(team="blue")}]}]),
    policy("shop/far", labelled(app="db"), ingress=[{"from": from_pods(app="lonely")}]),
    tier_policy(
        "AdminNetworkPolicy",
        "guard",
        in_tiers(app="api"),
        priority=1,
        ingress=[
            {"action": "Deny", "from": [in_tiers(app="bad")]},
            {"action": "Allow", "from": [in_tiers(app="good")]},
        ],
        egress=[{"action": "Deny", "to": [{"nodes": labelled(role="edge")}]}],
    ),
]


def scene() -> DesiredState:
    view = desired("a", map(decoded, SCENE))
    view.mark_synced()
    return view


FAR = pod("shop/other", "b", 9, (port(9, "none"),), app="other")
FREE_HERE = pod("shop/free2", "a", 9, app="free")
DENY_ALL = [{"action": "Deny", "from": [{"namespaces": {}}]}]
SELECTS_NO_POD = policy("shop/none", labelled(app="none"), ingress=[{"from": from_pods(app="db")}])

NOTHING: dict[str, list[Event]] = {
    "a Pod of no peer set comes on another node": [decoded(FAR)],
    "a Pod of no peer set goes on another node": [decoded(FAR), decoded(FAR).ref],
    "a Pod that only a policy of another node names comes": [decoded(pod("shop/x", "b", 9, app="lonely"))],
    "a Pod of no peer set changes its labels on another node": [
        decoded(FAR),
        decoded(pod("shop/other", "b", 9, app="another")),
    ],
    "a Pod of a peer set gets a label that no rule selects": [
        decoded(pod("shop/db", "b", 1, (port(5432, "sql"),), app="db", x="y"))
    ],
    "a Pod of a peer set gets a port that no rule names": [
        decoded(pod("shop/db", "b", 1, (port(5432, "sql"), port(9, "none")), app="db"))
    ],
    "a local Pod comes that has no address yet": [decoded(FREE_HERE | {"status": {}})],
    "a Pod of the host network comes, with a peer's labels": [
        msgspec.structs.replace(decoded(FAR), labels=(("app", "db"),), host_network=True)
    ],
    "a Pod of a peer set that has no address yet comes": [
        msgspec.structs.replace(decoded(FAR), labels=(("app", "db"),), addresses=())
    ],
    "a Pod of a peer set that has ended comes": [
        msgspec.structs.replace(decoded(FAR), labels=(("app", "db"),), phase="Succeeded")
    ],
    "a Pod of a peer set becomes ready": [msgspec.structs.replace(decoded(SCENE[7]), phase="Pending")],
    "a policy that selects no local Pod comes": [decoded(SELECTS_NO_POD)],
    "a policy that selects no local Pod changes": [
        decoded(SELECTS_NO_POD),
        decoded(policy("shop/none", labelled(app="none"))),
    ],
    "a policy that selects no local Pod goes": [ObjectRef("NetworkPolicy", "shop", "far")],
    "a policy of a namespace without local Pods comes": [
        decoded(policy("ops/all", ingress=[{"from": [{"podSelector": {}}]}]))
    ],
    "a namespace that no peer asks for is relabelled": [decoded(namespace("shop", team="green"))],
    "a namespace without Pods comes": [decoded(namespace("new", team="blue"))],
    "a policy of a tier with no local Pod as its subject comes": [
        decoded(tier_policy("AdminNetworkPolicy", "far", in_tiers(app="db"), priority=0, ingress=DENY_ALL))
    ],
    "a policy of a tier without rules comes": [
        decoded(tier_policy("AdminNetworkPolicy", "idle", {"namespaces": {}}, priority=0))
    ],
    "a policy of the baseline tier comes that NetworkPolicies keep from being asked": [
        decoded(tier_policy("BaselineAdminNetworkPolicy", "default", in_tiers(app="web"), ingress=DENY_ALL))
    ],
    "a policy of a tier gets another priority, and keeps its place": [
        decoded(SCENE[-1] | {"spec": SCENE[-1]["spec"] | {"priority": 2}})
    ],
    "a node gets a label that no rule selects": [decoded(labelled_node(role="work"))],
    "a node tells what it told before": [decoded(node("b"))],
    "a Pod is told again": [decoded(SCENE[7])],
    "a policy is told again": [decoded(SCENE[9])],
    "a peer's Pod goes and comes back between two drains": [ObjectRef("Pod", "shop", "db"), decoded(SCENE[7])],
    "a policy set goes and comes back between two drains": [
        ObjectRef("Pod", "shop", "web"),
        decoded(SCENE[4]),
    ],
    "a policy goes and comes back between two drains": [
        ObjectRef("NetworkPolicy", "shop", "web"),
        decoded(SCENE[9]),
    ],
    "logging is switched on and off between two drains": [
        decoded(
            {"kind": "NetworkLogging", "metadata": {"name": "default"}, "spec": {"cluster": {"deny": {"log": True}}}}
        ),
        ObjectRef("NetworkLogging", "", "default"),
    ],
}


@pytest.mark.parametrize("events", NOTHING.values(), ids=NOTHING)
def test_an_event_that_concerns_no_local_pod_is_no_transaction(events: list[Event]) -> None:
    view = scene()
    before = view.ruleset()
    for event in events:
        happen(view, event)
    assert view.drain_changes() == ()
    assert view.ruleset() == before == view.rebuilt().ruleset()


# What returns to its previous state, or is rewritten unchanged, counts as changed.
UNTOUCHED = [name for name in NOTHING if "between two drains" not in name]


@pytest.mark.parametrize("events", [NOTHING[name] for name in UNTOUCHED], ids=UNTOUCHED)
def test_an_event_that_concerns_no_local_pod_touches_nothing(events: list[Event]) -> None:
    view = scene()
    for event in events:
        happen(view, event)
        assert not view.dirty


def elements_of(transaction: Transaction) -> list[tuple[str, object]]:
    """Return every element that a transaction changes, except those of re-check; it must change nothing else."""
    found: list[tuple[str, object]] = []
    for command in transaction:
        assert isinstance(command, ChangeElements | ChangeMapElements), command.text()
        name = command.set if isinstance(command, ChangeElements) else command.map
        found += [(name, element) for element in command.elements if name not in RECHECK_SETS]
    return found


ELEMENTS: dict[str, tuple[Event, int, int]] = {
    # The event, and the number of elements added and removed: addresses of the Pod times sets that select it.
    # An address that is removed or mapped to another chain is also re-checked: once, for any number of sets.
    "a Pod joins the one set that means it": (decoded(pod("ops/s2", "b", 9, app="x")), 2, 0),
    "a Pod joins two sets": (decoded(pod("shop/db2", "b", 9, app="db", tier="x")), 4, 0),
    "a Pod joins two peers' sets, and a port's": (
        decoded(pod("shop/db2", "b", 9, (port(5432, "sql"),), app="db", tier="x")),
        6,
        0,
    ),
    "a Pod with one address joins one set": (
        msgspec.structs.replace(decoded(pod("shop/db2", "b", 9, app="db")), addresses=("10.64.1.9",)),
        1,
        0,
    ),
    "a Pod leaves one set, and a port's": (ObjectRef("Pod", "shop", "db"), 0, 4),
    "a Pod ends: as if it went": (msgspec.structs.replace(decoded(SCENE[7]), phase="Failed"), 0, 4),
    "a Pod gets another address": (
        msgspec.structs.replace(decoded(SCENE[8]), addresses=("10.64.1.7", "2001:db8:0:b::2")),
        1,
        1,
    ),
    "a Pod moves from one set to another": (decoded(pod("shop/db", "b", 1, app="x", tier="x")), 2, 4),
    "a Pod's named port gets another number": (decoded(pod("shop/db", "b", 1, (port(1, "sql"),), app="db")), 2, 2),
    "a Namespace is relabelled out of a peer": (decoded(namespace("ops", team="red")), 0, 2),
    "a Namespace is relabelled into a peer: three Pods here, one there": (
        decoded(namespace("shop", team="blue")),
        8,
        0,
    ),
    "a Namespace is relabelled out of a peer, and into one with a named port": (
        decoded(namespace("ops", team="gold")),
        2,
        2,
    ),
    "a local Pod that nothing selects comes: by its addresses alone": (decoded(FREE_HERE), 2 + 12, 0),
    "a local Pod that nothing selects goes": (ObjectRef("Pod", "shop", "free"), 0, 2 + 12),
    # Twelve elements are of the sets that count by Pod, two of the local Pods' sets, two of the maps, two of the
    # policy set's named port.
    "a local Pod joins a class that is there": (
        decoded(pod("shop/web2", "a", 9, (port(80, "http"),), app="web")),
        6 + 12,
        0,
    ),
    "a local Pod without the port joins a class": (decoded(pod("shop/web2", "a", 9, app="web")), 4 + 12, 0),
    "a local Pod joins a class with a tier, in both directions": (
        decoded(pod("shop/api2", "a", 9, app="api")),
        6 + 12,
        0,
    ),
    "a Pod joins whom a tier allows": (decoded(pod("shop/s2", "b", 9, app="good")), 2, 0),
    "a Pod joins whom a tier denies: he is judged again": (decoded(pod("shop/s2", "b", 9, app="bad")), 2, 0),
    "a Node joins those that a tier denies: it is judged again": (decoded(labelled_node(role="edge")), 2, 0),
}


@pytest.mark.parametrize(("event", "added", "deleted"), ELEMENTS.values(), ids=ELEMENTS)
def test_a_pod_among_peers_is_its_addresses_times_the_sets_that_mean_it(event: Event, added: int, deleted: int) -> None:
    view = scene()
    kernel = FakeNftables(view.ruleset())
    happen(view, event)
    transaction = view.drain_changes()
    counted = {"add": 0, "delete": 0}
    concerned = set[object]()
    for command in transaction:
        elements = elements_of((command,))
        concerned |= closing_in(view, elements)
        counted[getattr(command, "verb", "")] += len(elements)
        if getattr(command, "verb", "") == "delete" or isinstance(command, ChangeMapElements):
            meant = [element for name, element in elements if not name.startswith(("podpairs", "counted"))]
            concerned |= {element[0] if isinstance(element, tuple) else element for element in meant}
    assert counted == {"add": added, "delete": deleted}
    assert view.recheck_addresses.keys() == concerned
    kernel.apply(transaction)
    assert under_re_check(kernel.ruleset) == concerned
    view.clear_recheck(view.recheck_addresses)
    kernel.apply(view.drain_changes())
    assert kernel.ruleset == view.ruleset() == view.rebuilt().ruleset()


@settings(max_examples=4 * settings().max_examples)
@given(worlds(), pods())
def test_a_pod_that_comes_elsewhere_brings_its_own_elements_and_no_more(world: list[Item], newcomer: Pod) -> None:
    # A Pod of a gateway has a chain on every node: tests/unit/desired/test_gateway_rules.py counts its commands.
    known = [item for item in world if not (isinstance(item, EgressNATPolicy) and item.gateway is not None)]
    view = desired("a", [IN_NO_RANGE, *known])
    view.remove(newcomer.ref)
    newcomer = msgspec.structs.replace(newcomer, node="b")
    before = view.ruleset()
    view.mark_synced()
    view.put(newcomer)
    found = elements_of(view.drain_changes())
    assert view.recheck_addresses.keys() <= closing_in(view, found)
    assert all(
        element in after_set(view, name) and element not in before.sets[name].elements for name, element in found
    )
    expected = new_addresses(view, before, newcomer) | newly_outside(view, before, newcomer)
    assert {pair for pair in found if isinstance(pair[1], str)} == expected
    assert all(element[0] in newcomer.addresses for _, element in found if isinstance(element, tuple))
    assert len(found) == len(set(found))


def closing_in(view: DesiredState, found: list[tuple[str, object]]) -> set[object]:
    """Return the addresses that were added to deny sets."""
    closing = {
        match.set
        for name, chain in view.ruleset().chains.items()
        if name.startswith(("admin/", "baseline/", "audit/", *DIRECTIONS))
        for rule in chain.rules
        if rule.verdict == Return() or (isinstance(rule.verdict, Goto) and not rule.verdict.chain.startswith("allow/"))
        for match in rule.matches
        if isinstance(match, AddressInSet | NamedPort)
    }
    return {element[0] if isinstance(element, tuple) else element for name, element in found if name in closing}


def after_set(view: DesiredState, name: str) -> frozenset[object]:
    return frozenset(view.ruleset().sets[name].elements)


def newly_outside(view: DesiredState, before: Ruleset, newcomer: Pod) -> set[tuple[str, object]]:
    """Return a Pod's addresses outside the ranges of Nodes and Services, unless another Pod had them already."""
    ranges = [item for node in view.cluster.nodes.values() for item in node.pod_cidrs]
    ranges += [item for known in view.cluster.service_ranges.values() for item in known.cidrs]
    nodes = {address for node in view.cluster.nodes.values() for address in node.addresses}
    return {
        (name, address)
        for address in (newcomer.addresses if newcomer.holds_addresses else ())
        for name in [f"clusterpods{family_of(address)}"]
        if not any(item.contains(address) for item in ranges)
        and address not in nodes
        and (name not in before.sets or address not in before.sets[name].elements)
    }


def new_addresses(view: DesiredState, before: Ruleset, newcomer: Pod) -> set[tuple[str, object]]:
    """Return the addresses of a Pod that are new to the set of a peer that selects it, over all active policies."""
    found: set[tuple[str, object]] = set()
    labels = dict(newcomer.labels)
    around = dict(view.cluster.namespace_labels(newcomer.namespace))
    for ref in view.index.active:
        policy = view.index.policies[ref]
        for rule in (*policy.rules("ingress"), *policy.rules("egress")):
            named = [peer for peer in rule.peers if isinstance(peer, PodPeer | NodePeer)]
            if not (newcomer.holds_addresses and any(_means(peer, newcomer, labels, around) for peer in named)):
                continue
            for address in newcomer.addresses:
                name = content_name(any_of(tuple(named)), family_of(address))
                held = before.sets.get(name)
                if held is not None and address not in held.elements:
                    found.add((name, address))
    return found


def _means(peer: PodPeer | NodePeer, pod: Pod, labels: dict[str, str], around: dict[str, str]) -> bool:
    if isinstance(peer, NodePeer):
        return False
    inside = peer.namespace == pod.namespace if peer.namespaces is None else peer.namespaces.matches(around)
    return inside and peer.pods.matches(labels)
