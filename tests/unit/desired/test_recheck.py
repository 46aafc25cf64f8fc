"""Which addresses a change adds to the re-check sets, and when they are cleared."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nfagent.desired.state import DesiredState
from nfagent.model.netaddr import family_of
from nfagent.model.objects import ObjectRef
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Element
from nfagent.nftables.transaction import ChangeElements, Transaction
from tests.support.fake_nftables import FakeNftables
from tests.support.nft_interpreter import later, opening, reply, run
from tests.support.two_node_cluster import (
    DECODERS,
    Document,
    TwoNodeCluster,
    labelled,
    namespace,
    node,
    pod,
    policy,
    port,
    tier_policy,
)

HTTP = port(80, "http")
WEB = pod("shop/web", "a", 10, (HTTP,), app="web")
DB = pod("shop/db", "a", 11, (port(5432, "sql"),), app="db")
FREE = pod("shop/free", "a", 12, app="free")
CACHE = pod("shop/cache", "b", 20, (port(6379, "redis"),), app="cache")
MON = pod("ops/mon", "b", 21, app="mon")
BAD = pod("ops/bad", "b", 22, app="bad")
CLUSTER = (namespace("shop", team="blue"), namespace("ops", team="red"), WEB, DB, FREE, CACHE, MON, BAD)

ANY: Document = {"namespaces": {}}


def pods(**labels: str) -> Document:
    return {"pods": {"namespaceSelector": {}, "podSelector": labelled(**labels)}}


def team(name: str) -> Document:
    return {"namespaces": labelled(team=name)}


def rule(action: str, *peers: Document, **more: object) -> Document:
    return {"action": action, "from": list(peers or (ANY,)), **more}


def to(action: str, *peers: Document, **more: object) -> Document:
    return {"action": action, "to": list(peers or (ANY,)), **more}


def guard(*ingress: Document, name: str = "guard", priority: int = 5, subject: Document | None = None) -> Document:
    about = subject or pods(app="web")
    return tier_policy("AdminNetworkPolicy", name, about, priority=priority, ingress=list(ingress))


def outward(*egress: Document) -> Document:
    return tier_policy("AdminNetworkPolicy", "outward", pods(app="web"), priority=6, egress=list(egress))


def floor(*ingress: Document, subject: Document | None = None) -> Document:
    return tier_policy("BaselineAdminNetworkPolicy", "default", subject or pods(app="web"), ingress=list(ingress))


def from_pods(**labels: str) -> Document:
    return {"podSelector": labelled(**labels), "namespaceSelector": {}}


def web(*ingress: Document, **more: object) -> Document:
    return policy("shop/p", labelled(app="web"), types=["Ingress"], ingress=list(ingress), **more)


def numbers(*ports: int) -> list[Document]:
    return [{"port": number} for number in ports]


CLOSED = web()
OPEN_TO_CACHE = web({"from": [from_pods(app="cache")]})
LOGGED: Document = {
    "kind": "NetworkLogging",
    "metadata": {"name": "default"},
    "spec": {"cluster": {"allow": {"log": True}, "deny": {"log": True}}},
}
Change = Callable[[TwoNodeCluster], object]


def come(*documents: Document) -> Change:
    """Return the event of a new or changed object."""

    def change(scene: TwoNodeCluster) -> None:
        for document in documents:
            scene.put(document)

    return change


def go(*refs: tuple[str, str, str]) -> Change:
    """Return the removal of an object by kind, namespace and name."""
    return lambda scene: [view.remove(ObjectRef(*ref)) for view in scene.views.values() for ref in refs]


def both(*changes: Change) -> Change:
    return lambda scene: [change(scene) for change in changes]


NETWORK_POLICY = ("NetworkPolicy", "shop", "p")
GUARD = ("AdminNetworkPolicy", "", "guard")
FLOOR = ("BaselineAdminNetworkPolicy", "", "default")


def moved_node(name: str, address: str) -> Document:
    found = node(name)
    return found | {"status": {"addresses": [{"type": "InternalIP", "address": address}]}}


def settled(scene: TwoNodeCluster) -> DesiredState:
    """Commit everything, and clear the addresses to re-check."""
    view = scene.views["a"]
    view.drain_changes()
    view.clear_recheck(view.recheck_addresses)
    view.drain_changes()
    assert (view.recheck_addresses, view.dirty) == ({}, False)
    return view


# What was there, what happens, and whose connections are judged again.
POLICIES: dict[str, tuple[list[Document], Change, str]] = {
    "a NetworkPolicy comes: its Pods": ([], come(CLOSED), "web"),
    "one that selects no Pod here comes: no address": ([], come(policy("shop/p", labelled(app="cache"))), ""),
    "one goes, and no other tier decides: no address": ([CLOSED], go(NETWORK_POLICY), ""),
    "one goes, and the baseline tier is asked instead": ([CLOSED, floor(rule("Deny"))], go(NETWORK_POLICY), "web"),
    "one goes that was one of two": ([OPEN_TO_CACHE, policy("shop/q", types=["Ingress"])], go(NETWORK_POLICY), "web"),
    "a second one comes: more may be allowed, and the class is another": (
        [CLOSED],
        come(policy("shop/q", labelled(app="web"), ingress=[{}])),
        "web",
    ),
    "its rules allow more, behind those that were there: no address": (
        [OPEN_TO_CACHE],
        come(web({"from": [from_pods(app="cache")]}, {"from": [from_pods(app="mon")]})),
        "",
    ),
    "its rules allow more, before those that were there: no address": (
        [OPEN_TO_CACHE],
        come(web({"ports": [{"port": 80}]}, {"from": [from_pods(app="cache")]})),
        "",
    ),
    "a rule allows one peer more: no address": (
        [OPEN_TO_CACHE],
        come(web({"from": [from_pods(app="cache"), from_pods(app="mon")]})),
        "",
    ),
    "a rule allows one peer less": (
        [web({"from": [from_pods(app="cache"), from_pods(app="mon")]})],
        come(OPEN_TO_CACHE),
        "web",
    ),
    "a rule allows another peer": ([OPEN_TO_CACHE], come(web({"from": [from_pods(app="mon")]})), "web"),
    "a rule denies one peer more": (
        [guard(rule("Deny", pods(app="bad")))],
        come(guard(rule("Deny", pods(app="bad"), pods(app="mon")))),
        "web",
    ),
    "a rule denies one peer less, and a later one may deny it too": (
        [guard(rule("Deny", pods(app="bad"), pods(app="mon")))],
        come(guard(rule("Deny", pods(app="bad")))),
        "web",
    ),
    "a rule gets one port more, and they become a set: no address": (
        [web({"ports": numbers(1, 3, 5)})],
        come(web({"ports": numbers(1, 3, 5, 7)})),
        "",
    ),
    "a rule of many ports gets a range around some of them: no address": (
        [web({"ports": numbers(1, 3, 5, 7, 9)})],
        come(web({"ports": [*numbers(1, 3, 9), {"port": 5, "endPort": 7}]})),
        "",
    ),
    "a rule of many ports has one less": (
        [web({"ports": numbers(1, 3, 5, 7, 9)})],
        come(web({"ports": numbers(1, 3, 5, 7)})),
        "web",
    ),
    "the first rule comes: no address": ([CLOSED], come(OPEN_TO_CACHE), ""),
    "a rule goes": ([OPEN_TO_CACHE], come(CLOSED), "web"),
    "a rule is about another port": (
        [web({"ports": [{"port": 80}]})],
        come(web({"ports": [{"port": 81}]})),
        "web",
    ),
    "a rule is about a narrower range": (
        [web({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]})],
        come(web({"from": [{"ipBlock": {"cidr": "10.0.0.0/9"}}]})),
        "web",
    ),
    "it selects others: those who are judged now": (
        [OPEN_TO_CACHE],
        come(policy("shop/p", labelled(app="db"), types=["Ingress"])),
        "db",
    ),
    "it is about the other direction": (
        [policy("shop/p", labelled(app="web"), types=["Ingress"])],
        come(policy("shop/p", labelled(app="web"), types=["Egress"])),
        "web",
    ),
    "it can't be read any more, and fails closed": (
        [web({"ports": [{"port": 80}]})],
        come(web({"ports": [{"port": 80, "endPort": 79}]})),
        "web",
    ),
    "a policy of the admin tier comes": ([], come(guard(rule("Deny", team("red")))), "web"),
    "one comes that only allows: the class is another": ([CLOSED], come(guard(rule("Allow"))), "web"),
    "one goes that denied, and no other tier decides: no address": ([guard(rule("Deny"))], go(GUARD), ""),
    "one goes that allowed, and a NetworkPolicy is asked instead": ([guard(rule("Allow")), CLOSED], go(GUARD), "web"),
    "a rule that allows comes first: no address": (
        [guard(rule("Deny"))],
        come(guard(rule("Allow", team("red")), rule("Deny"))),
        "",
    ),
    "a rule that denies comes": ([guard(rule("Allow"))], come(guard(rule("Deny", team("red")), rule("Allow"))), "web"),
    "one more rule that denies comes": (
        [guard(rule("Deny", pods(app="bad")))],
        come(guard(rule("Deny", pods(app="bad")), rule("Deny", team("red")))),
        "web",
    ),
    "a rule that allowed before one that denies goes": (
        [guard(rule("Allow", pods(app="mon")), rule("Deny", team("red")))],
        come(guard(rule("Deny", team("red")))),
        "web",
    ),
    "a rule that passes comes, for the baseline may deny": (
        [guard(rule("Allow")), floor(rule("Deny"))],
        come(guard(rule("Pass", team("red")), rule("Allow"))),
        "web",
    ),
    "a rule that passed goes": (
        [guard(rule("Pass", team("red")), rule("Deny"))],
        come(guard(rule("Deny"))),
        "web",
    ),
    "a rule that denied goes, for one of another tier may deny": (
        [guard(rule("Deny", team("red")), rule("Allow", team("red"))), CLOSED],
        come(guard(rule("Allow", team("red")))),
        "web",
    ),
    "two rules change places": (
        [guard(rule("Allow", team("red")), rule("Deny"))],
        come(guard(rule("Deny"), rule("Allow", team("red")))),
        "web",
    ),
    "a rule gets another name: no address": (
        [guard(rule("Deny", name="one"))],
        come(guard(rule("Deny", name="two"))),
        "",
    ),
    "two policies of a tier change places": (
        [guard(rule("Deny")), guard(rule("Allow"), name="last", priority=9)],
        come(guard(rule("Deny"), priority=10)),
        "web",
    ),
    "a policy of a tier gets another priority and keeps its place: no address": (
        [guard(rule("Deny")), guard(rule("Allow"), name="last", priority=9)],
        come(guard(rule("Deny"), priority=8)),
        "",
    ),
    "a policy of the baseline tier changes under a NetworkPolicy: no address": (
        [CLOSED, floor(rule("Allow"))],
        come(floor(rule("Deny"))),
        "",
    ),
    "a policy of the baseline tier changes: those whom it judges": (
        [policy("shop/p", labelled(app="db")), floor(rule("Deny", team("red")), subject=ANY)],
        come(floor(rule("Deny"), subject=ANY)),
        "web free",
    ),
    "the log is switched on: no address": ([CLOSED, guard(rule("Deny", team("red")))], come(LOGGED), ""),
    "the log is switched off: no address": ([CLOSED, LOGGED], go(("NetworkLogging", "", "default")), ""),
}

PEERS: dict[str, tuple[list[Document], Change, str]] = {
    "a Pod joins whom a rule allows: no address": (
        [OPEN_TO_CACHE],
        come(pod("ops/mon", "b", 21, app="cache")),
        "",
    ),
    "a Pod leaves whom a rule allows": ([OPEN_TO_CACHE], come(pod("shop/cache", "b", 20, app="none")), "cache"),
    "a Pod that a rule allows goes": ([OPEN_TO_CACHE], go(("Pod", "shop", "cache")), "10.64.1.20 2001:db8:0:b::20"),
    "a Pod that a rule allows ends": (
        [OPEN_TO_CACHE],
        come(CACHE | {"status": CACHE["status"] | {"phase": "Failed"}}),
        "10.64.1.20 2001:db8:0:b::20",
    ),
    "a Pod that a rule allows gets another address: the old one": (
        [OPEN_TO_CACHE],
        come(pod("shop/cache", "b", 29, app="cache")),
        "10.64.1.20 2001:db8:0:b::20",
    ),
    "a Pod joins whom a rule denies": (
        [guard(rule("Deny", pods(app="bad")))],
        come(pod("ops/mon", "b", 21, app="bad")),
        "mon",
    ),
    "a Pod joins whom a rule passes on": (
        [guard(rule("Pass", pods(app="bad")), rule("Allow")), floor(rule("Deny"))],
        come(pod("ops/mon", "b", 21, app="bad")),
        "mon",
    ),
    "a Pod leaves whom a rule denies, for the next may deny too": (
        [guard(rule("Deny", pods(app="bad")))],
        come(pod("ops/bad", "b", 22, app="none")),
        "bad",
    ),
    "a Pod joins whom one rule allows and another denies": (
        [
            guard(rule("Deny", pods(app="cache"))),
            policy("shop/p", labelled(app="db"), ingress=[{"from": [from_pods(app="cache")]}]),
        ],
        come(pod("ops/mon", "b", 21, app="cache")),
        "mon",
    ),
    "a Pod joins whom a rule denied that is gone: no address": (
        [OPEN_TO_CACHE, guard(rule("Deny", pods(app="cache")))],
        both(go(GUARD), settled, come(pod("ops/mon", "b", 21, app="cache"))),
        "",
    ),
    "a Pod's named port that a rule allows gets another number": (
        [policy("shop/p", labelled(app="web"), types=["Egress"], egress=[{"ports": [{"port": "redis"}]}])],
        come(pod("shop/cache", "b", 20, (port(6380, "redis"),), app="cache")),
        "cache",
    ),
    "a Pod brings a named port that a rule denies": (
        [outward(to("Deny", ANY, ports=[{"namedPort": "redis"}]))],
        come(pod("ops/mon", "b", 21, (port(6379, "redis"),), app="mon")),
        "mon",
    ),
    "a Pod brings a named port that a rule allows: no address": (
        [outward(to("Allow", ANY, ports=[{"namedPort": "redis"}]), to("Deny"))],
        come(pod("ops/mon", "b", 21, (port(6379, "redis"),), app="mon")),
        "",
    ),
    "a Namespace is relabelled out of what a rule allows": (
        [web({"from": [{"namespaceSelector": labelled(team="red")}]})],
        come(namespace("ops", team="green")),
        "mon bad",
    ),
    "a Namespace is relabelled into what a rule allows: no address": (
        [web({"from": [{"namespaceSelector": labelled(team="green")}]})],
        come(namespace("ops", team="green")),
        "",
    ),
    "a Namespace is relabelled into what a rule denies": (
        [guard(rule("Deny", team("green")))],
        come(namespace("ops", team="green")),
        "mon bad",
    ),
    "a Namespace is relabelled into a subject: its Pods here": (
        [guard(rule("Deny"), subject=team("green"))],
        come(namespace("shop", team="green")),
        "web db free",
    ),
    "a Namespace is relabelled out of a subject, and no other tier decides: no address": (
        [guard(rule("Deny"), subject=team("blue"))],
        come(namespace("shop", team="green")),
        "",
    ),
    "a Pod here is relabelled into a policy": ([CLOSED], come(pod("shop/free", "a", 12, app="web")), "free"),
    "a Pod here is relabelled out of every policy: no address": (
        [CLOSED],
        come(pod("shop/web", "a", 10, app="none")),
        "",
    ),
    "a Pod here comes that a policy selects": ([CLOSED], come(pod("shop/web2", "a", 13, app="web")), "web2"),
    "a Pod here goes: no address": ([CLOSED], go(("Pod", "shop", "web")), ""),
    "another Pod takes over an address here, under another policy": (
        [CLOSED, policy("shop/q", labelled(app="db"))],
        both(go(("Pod", "shop", "web")), come(pod("shop/db2", "a", 10, app="db"))),
        "db2",
    ),
    "another Pod takes over an address here, under the same policy: no address": (
        [CLOSED],
        both(go(("Pod", "shop", "web")), come(pod("shop/web2", "a", 10, (HTTP,), app="web"))),
        "",
    ),
    "another Pod takes over an address here, which nothing judged before": (
        [CLOSED],
        both(go(("Pod", "shop", "free")), come(pod("shop/web2", "a", 12, app="web"))),
        "web2",
    ),
    "another Pod takes over an address that a rule allows": (
        [OPEN_TO_CACHE],
        both(go(("Pod", "shop", "cache")), come(pod("shop/x", "b", 20, app="none"))),
        "x",
    ),
    "a Node gets an address that a rule denies: both, the old one for a later rule": (
        [outward(to("Deny", {"nodes": {}}))],
        come(moved_node("b", "192.168.0.9")),
        "192.168.0.9 192.168.0.2 fd00::2",
    ),
    "a Node gets an address that a rule allows: the old ones": (
        [outward(to("Allow", {"nodes": {}}), to("Deny"))],
        come(moved_node("b", "192.168.0.9")),
        "192.168.0.2 fd00::2",
    ),
    "a Node changes that no rule names: no address": ([CLOSED], come(moved_node("b", "192.168.0.9")), ""),
    "it comes and goes before the next transaction: no address": (
        [OPEN_TO_CACHE],
        both(go(("Pod", "shop", "cache")), come(CACHE)),
        "",
    ),
}


def addresses(scene: TwoNodeCluster, whose: str) -> set[str]:
    """Return the addresses of Pods by their names alone; an address is itself."""
    by_name = {found.name: found.addresses for found in scene.views["a"].cluster.pods.values()}
    return {address for word in whose.split() for address in by_name.get(word, (word,))}


@pytest.mark.parametrize(("before", "change", "whose"), (POLICIES | PEERS).values(), ids=POLICIES | PEERS)
def test_a_change_puts_those_addresses_under_re_check_whose_connections_it_may_revoke(
    before: list[Document], change: Change, whose: str
) -> None:
    scene = TwoNodeCluster(*CLUSTER, *before)
    view = settled(scene)
    change(scene)
    view.drain_changes()
    assert view.recheck_addresses.keys() == addresses(scene, whose)


def held(view: DesiredState, name: str) -> set[Element]:
    return set(view.ruleset().sets[name].elements)


def test_addresses_to_re_check_are_in_the_sets_of_their_family_from_the_transaction_of_the_change_on() -> None:
    scene = TwoNodeCluster(*CLUSTER)
    view = settled(scene)
    scene.put(CLOSED)
    assert [held(view, name) for name in ("recheck4", "recheck6", "rechecking")] == [set(), set(), set()]
    transaction = view.drain_changes()
    assert {command.set for command in transaction if isinstance(command, ChangeElements)} == {
        *("isolated", "recheck4", "recheck6", "rechecking")
    }
    assert [held(view, name) for name in ("recheck4", "recheck6", "rechecking")] == [
        {"10.64.0.10"},
        {"2001:db8:0:a::10"},
        {4, 6},
    ]


def test_families_are_under_re_check_while_an_address_of_theirs_is() -> None:
    scene = TwoNodeCluster(*CLUSTER)
    view = settled(scene)
    scene.put(CLOSED)
    view.drain_changes()
    addresses_before = view.recheck_addresses
    for address in sorted(addresses_before, key=family_of):
        view.clear_recheck({address: addresses_before[address]})
        view.drain_changes()
        assert held(view, "rechecking") == {family_of(left) for left in view.recheck_addresses}
    assert not any(held(view, name) for name in ("recheck4", "recheck6", "rechecking"))


def test_a_second_address_of_a_family_keeps_it_under_re_check() -> None:
    scene = TwoNodeCluster(*CLUSTER, CLOSED)
    view = settled(scene)
    scene.put(pod("shop/web", "a", 10, app="none"))
    scene.put(policy("shop/p", labelled(app="db")))
    scene.put(policy("shop/q", labelled(app="free")))
    view.drain_changes()
    assert view.recheck_addresses.keys() == addresses(scene, "db free")
    view.clear_recheck(
        {address: number for address, number in view.recheck_addresses.items() if address in addresses(scene, "db")}
    )
    assert held(view, "rechecking") == {4, 6}
    assert view.recheck_addresses.keys() == addresses(scene, "free")


def test_a_cleared_address_leaves_the_sets_in_the_next_transaction_and_is_not_added_again() -> None:
    scene = TwoNodeCluster(*CLUSTER)
    view = settled(scene)
    scene.put(CLOSED)
    view.drain_changes()
    view.clear_recheck(view.recheck_addresses)
    deleted = {
        (command.set, element) for command in elements(view.drain_changes(), "delete") for element in command.elements
    }
    assert deleted == {
        *(("recheck4", "10.64.0.10"), ("recheck6", "2001:db8:0:a::10")),
        *(("rechecking", 4), ("rechecking", 6)),
    }
    assert (view.recheck_addresses, view.dirty, view.drain_changes()) == ({}, False, ())


def elements(transaction: Transaction, verb: str) -> list[ChangeElements]:
    """Return a transaction's commands, which have to be about elements alone."""
    assert all(isinstance(command, ChangeElements) and command.verb == verb for command in transaction)
    return [command for command in transaction if isinstance(command, ChangeElements)]


def test_an_address_is_not_cleared_if_a_later_change_concerns_it_again() -> None:
    scene = TwoNodeCluster(*CLUSTER)
    view = settled(scene)
    scene.put(CLOSED)
    scene.put(policy("shop/q", labelled(app="db")))
    view.drain_changes()
    judged = view.recheck_addresses
    scene.put(guard(rule("Deny")))
    view.drain_changes()
    view.clear_recheck(judged)
    assert view.recheck_addresses.keys() == addresses(scene, "web")
    assert held(view, "recheck4") == {"10.64.0.10"}
    view.clear_recheck(view.recheck_addresses)
    assert view.recheck_addresses == {}


def test_clearing_an_address_twice_or_one_that_is_not_re_checked_changes_nothing() -> None:
    scene = TwoNodeCluster(*CLUSTER)
    view = settled(scene)
    scene.put(CLOSED)
    view.drain_changes()
    judged = view.recheck_addresses
    view.clear_recheck(judged)
    view.drain_changes()
    view.clear_recheck({**judged, "10.64.0.99": 1})
    assert (view.recheck_addresses, view.dirty) == ({}, False)


def test_the_whole_ruleset_has_the_addresses_that_transactions_added_and_not_those_removed() -> None:
    scene = TwoNodeCluster(*CLUSTER)
    view = settled(scene)
    kernel = FakeNftables(view.ruleset())
    scene.put(CLOSED)
    assert held(view, "recheck4") == set()
    kernel.apply(view.drain_changes())
    assert kernel.ruleset == view.ruleset()
    view.clear_recheck(view.recheck_addresses)
    kernel.apply(view.drain_changes())
    assert kernel.ruleset == view.ruleset()


def test_a_change_that_was_not_drained_adds_no_address_to_re_check() -> None:
    scene = TwoNodeCluster(*CLUSTER)
    view = settled(scene)
    scene.put(CLOSED)
    view.mark_synced()
    view.drain_changes()
    assert view.recheck_addresses == {}


def test_a_full_compile_has_no_address_to_re_check() -> None:
    scene = TwoNodeCluster(*CLUSTER)
    view = settled(scene)
    scene.put(CLOSED)
    view.drain_changes()
    assert view.recheck_addresses != {}
    assert view.rebuilt().recheck_addresses == {}


# Distrust: what the kernel let pass before isn't known.


def test_invalidation_re_checks_every_local_pod_that_policies_select() -> None:
    scene = TwoNodeCluster(*CLUSTER, CLOSED, floor(rule("Deny"), subject=pods(app="db")))
    view = settled(scene)
    added = {(command.set, element) for command in elements(view.recheck_all(), "add") for element in command.elements}
    judged = addresses(scene, "web db")
    assert view.recheck_addresses.keys() == judged
    assert added == {
        *((f"recheck{family_of(address)}", address) for address in judged),
        *(("rechecking", 4), ("rechecking", 6)),
    }


def test_invalidation_returns_its_own_commands() -> None:
    scene = TwoNodeCluster(*CLUSTER, CLOSED)
    view = settled(scene)
    kernel = FakeNftables(view.ruleset())
    kernel.apply(view.recheck_all())
    assert kernel.ruleset == view.ruleset()
    assert view.drain_changes() == ()


def test_invalidation_returns_new_addresses_only() -> None:
    scene = TwoNodeCluster(*CLUSTER)
    view = settled(scene)
    scene.put(CLOSED)
    view.drain_changes()
    scene.put(policy("shop/q", labelled(app="db")))
    view.mark_synced()
    added = {element for command in elements(view.recheck_all(), "add") for element in command.elements}
    assert added == addresses(scene, "db")
    assert view.recheck_addresses.keys() == addresses(scene, "web db")


def test_after_a_restart_the_addresses_that_were_to_be_re_checked_are_re_checked() -> None:
    scene = TwoNodeCluster(*CLUSTER)
    view = settled(scene)
    kernel = FakeNftables()
    kernel.apply(diff(ABSENT, view.ruleset()))
    scene.put(CLOSED)
    kernel.apply(view.drain_changes())
    fresh = view.rebuilt()
    difference = diff(kernel.ruleset, fresh.ruleset())
    fresh.mark_synced()
    kernel.apply((*difference, *fresh.recheck_all()))
    assert kernel.ruleset == fresh.ruleset()
    assert fresh.recheck_addresses.keys() == addresses(scene, "web")


# What it is for: packets of a live connection.


@pytest.mark.parametrize("family", [4, 6])
def test_32_a_live_connection_ends_with_the_change_in_both_directions_and_others_go_on(family: int) -> None:
    scene = TwoNodeCluster(*CLUSTER, OPEN_TO_CACHE)
    view = settled(scene)
    revoked = scene.flow("shop/cache", "shop/web", "80/tcp", family)
    others = [scene.flow(*ends, "80/tcp", family) for ends in (("ops/mon", "shop/db"), ("shop/web", "outside"))]
    come(CLOSED)(scene)
    view.drain_changes()
    ruleset = view.ruleset()
    assert [run(ruleset, "forward", packet).verdict for packet in (later(revoked), reply(revoked))] == ["drop", "drop"]
    assert all(run(ruleset, "forward", packet).accepted for flow in others for packet in (later(flow), reply(flow)))
    assert (view.is_allowed(revoked), [view.is_allowed(flow) for flow in others]) == (False, [True, True])


def test_32_what_is_allowed_at_a_pod_under_re_check_goes_on_named_ports_included() -> None:
    by_name = {"from": [from_pods(app="cache")], "ports": [{"port": "http"}]}
    scene = TwoNodeCluster(*CLUSTER, policy("shop/q", labelled(app="db"), types=["Ingress"]))
    view = settled(scene)
    scene.put(web(by_name))
    view.drain_changes()
    flow = scene.flow("shop/cache", "shop/web", "80/tcp")
    assert all(run(view.ruleset(), "forward", packet).accepted for packet in (opening(flow), later(flow), reply(flow)))


def test_32_once_re_checked_live_connections_bypass_the_policies_again() -> None:
    scene = TwoNodeCluster(*CLUSTER, OPEN_TO_CACHE)
    view = settled(scene)
    scene.put(CLOSED)
    view.drain_changes()
    view.clear_recheck(view.recheck_addresses)
    view.drain_changes()
    flow = scene.flow("shop/cache", "shop/web", "80/tcp")
    for packet in (later(flow), reply(flow)):
        result = run(view.ruleset(), "forward", packet)
        assert (result.accepted, result.counters) == (True, ())


def test_decoders_know_every_kind_that_is_written_here() -> None:
    kinds = {document["kind"] for before, _, _ in (POLICIES | PEERS).values() for document in before}
    assert kinds <= DECODERS.keys()
