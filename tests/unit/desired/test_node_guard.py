"""Whether the table may be replaced while the node's name is wrong, and the message about it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from nfagent.desired.node_guard import UnknownNodeGuard, advice
from nfagent.desired.state import DesiredState
from nfagent.nftables.objects import ABSENT, Ruleset
from tests.support.two_node_cluster import Document, decoded, node, pod, policy

CLOSED = policy("shop/p")
WEB, DB = pod("shop/web", "a", 10), pod("shop/db", "a", 11)


def seen(name: str, *documents: Document) -> DesiredState:
    """Return what the node of a name wants."""
    desired = DesiredState(name)
    for document in documents:
        desired.put(decoded(document))
    return desired


def no_own_address(_addresses: Iterable[str]) -> str:
    return ""


def table(*documents: Document) -> Ruleset:
    """Return the rules of node a."""
    return seen("a", *documents).ruleset()


CASES: dict[str, tuple[Ruleset, tuple[Document, ...], str, bool]] = {
    "a wrong name, before a table that isolates": (table(WEB, CLOSED), (node("a"), WEB, CLOSED), "b", True),
    "the Node's name": (table(WEB, CLOSED), (node("a"), CLOSED), "a", False),
    "a wrong name, before no table": (ABSENT, (node("a"), WEB, CLOSED), "b", False),
    "a wrong name, before a table that isolates no Pod": (table(WEB), (node("a"), WEB, CLOSED), "b", False),
    "Pods of the name, whose Node is gone from among others": (
        table(WEB, CLOSED),
        (node("b"), WEB, CLOSED),
        "a",
        True,
    ),
    "no Node at all, and every isolated Pod stays isolated": (table(WEB, CLOSED), (WEB, DB, CLOSED), "a", False),
    "no Node at all, and one Pod would lose its isolation": (table(WEB, DB, CLOSED), (WEB, CLOSED), "a", True),
    "nothing at all": (table(WEB, CLOSED), (), "a", True),
}


@pytest.mark.parametrize(("held", "documents", "name", "objects"), CASES.values(), ids=CASES)
def test_the_table_is_kept(held: Ruleset, documents: tuple[Document, ...], name: str, objects: bool) -> None:  # noqa: FBT001 - a column
    desired = seen(name, *documents)
    guard = UnknownNodeGuard(desired.cluster, allowed=False, own=no_own_address)
    assert bool(guard.must_check and guard.hold_reason(held, desired.ruleset())) == objects
    assert guard.must_check == objects
    assert not UnknownNodeGuard(desired.cluster, allowed=True, own=no_own_address).must_check


def test_a_reload_may_allow_an_unknown_node_and_take_that_back() -> None:
    desired = seen("elsewhere", WEB, CLOSED, node("a"))
    guard = UnknownNodeGuard(desired.cluster, allowed=False, own=no_own_address)
    found = [guard.must_check]
    for allowed in (True, False):
        guard.allow(allowed=allowed)
        found.append(guard.must_check)
    assert found == [True, False, True]


def test_a_missing_node_is_accepted_until_a_node_of_the_name_was_added_and_removed() -> None:
    desired = seen("a", WEB, CLOSED)
    guard = UnknownNodeGuard(desired.cluster, allowed=False, own=no_own_address)
    assert guard.hold_reason(ABSENT, desired.ruleset()) == ""
    assert not guard.must_check
    made = decoded(node("a"))
    desired.put(made)
    assert not guard.must_check
    desired.remove(made.ref)
    assert guard.must_check


def test_the_message_names_the_isolated_addresses_and_the_option_to_set() -> None:
    desired = seen("b", node("a"), CLOSED)
    words = UnknownNodeGuard(desired.cluster, allowed=False, own=no_own_address).hold_reason(
        table(WEB, DB, CLOSED), desired.ruleset()
    )
    for part in ("no Node b", "known: a", "--node", "isolate 4 Pod addresses", "--allow-unknown-node"):
        assert part in words


ADVICE = {
    "no Nodes": ("n1", [], "no Nodes were read"),
    "one that is near": ("nod-7", ["node-7", "etcd", "other"], "did you mean node-7?"),
    "the same host in another domain": ("n1.old.example", ["n1.new.example", "n2.old.example"], "did you mean n1.new"),
    "none that is near": ("x", ["alpha", "beta", "gamma", "delta"], "known: alpha, beta, delta and 1 more"),
}


@pytest.mark.parametrize(("name", "known", "words"), ADVICE.values(), ids=ADVICE)
def test_advice_names_nodes(name: str, known: list[str], words: str) -> None:
    assert words in advice(name, known)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        pytest.param("192.0.2.9", "this one's address 192.0.2.9 is Node b's: name this node with --node b", id="b's"),
        pytest.param("192.0.2.1", "", id="the Node's own"),
        pytest.param("203.0.113.1", "", id="no Node's: its addresses are translated on the way"),
    ],
)
def test_the_name_of_another_machines_node_holds_the_table_where_this_machines_address_is(own: str, said: str) -> None:
    here, there = node("a"), node("b")
    here["status"]["addresses"] = [{"type": "InternalIP", "address": "192.0.2.1"}]
    there["status"]["addresses"] = [{"type": "InternalIP", "address": "192.0.2.9"}]
    desired = seen("a", here, there)
    guard = UnknownNodeGuard(desired.cluster, allowed=False, own=lambda addresses: own if own in set(addresses) else "")
    hold_reason = guard.hold_reason(table(WEB, CLOSED), desired.ruleset())
    assert (said in hold_reason, bool(hold_reason)) == (True, bool(said))
