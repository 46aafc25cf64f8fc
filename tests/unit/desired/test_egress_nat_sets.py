"""Policies with sources: each change costs its own commands, and a large cluster is processed in short steps."""

from __future__ import annotations

import pytest

from nfagent.desired.state import DesiredState
from nfagent.model.egress_nat import EgressAction, EgressNATPolicy, EgressSource
from nfagent.model.gvk import Item
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import Namespace, Node, ObjectRef, Pod
from nfagent.model.selectors import Requirement, Selector
from nfagent.nftables.transaction import ChangeElements, ChangeMapElements, Transaction


def labelled(key: str, value: str) -> Selector:
    return Selector((Requirement(key, "In", (value,)),))


def policy(name: str, action: EgressAction, source: EgressSource, *cidrs: str) -> EgressNATPolicy:
    return EgressNATPolicy(name=name, action=action, destinations=tuple(map(parse_cidr, cidrs)), sources=(source,))


def pod(number: int, app: str, namespace: str = "shop", node: str = "n1") -> Pod:
    address = f"10.64.{number // 250}.{number % 250 + 1}"
    labels = (("app", app),)
    return Pod(namespace=namespace, name=f"p{number}", labels=labels, node=node, addresses=(address,), phase="Running")


WEB, OPS = EgressSource(labelled("app", "web")), EgressSource(namespaces=labelled("team", "ops"))
KEEP = policy("keep", "NoSNAT", WEB, "203.0.113.0/24")
HIDE = policy("hide", "SNAT", OPS, "10.0.0.0/8")
NODE = Node("n1", pod_cidrs=(parse_cidr("10.64.0.0/16"),))


def state() -> DesiredState:
    view = DesiredState("n1")
    for item in (
        NODE,
        Namespace("shop", ()),
        KEEP,
        HIDE,
        pod(1, "web"),
        pod(2, "web"),
        pod(3, "db"),
        pod(4, "db", "ops"),
    ):
        view.put(item)
    view.drain_changes()
    return view


def changed(transaction: Transaction) -> list[tuple[str, str]]:
    """Return kind and name of what the commands change."""
    return [
        ("element", command.set)
        if isinstance(command, ChangeElements)
        else ("entry", command.map)
        if isinstance(command, ChangeMapElements)
        else (type(command).__name__, "")
        for command in transaction
    ]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        pytest.param(pod(3, "web"), [("entry", "natpods4")], id="a Pod that gets the label: one entry of the map"),
        pytest.param(pod(1, "db"), [("entry", "natpods4")], id="one that loses it"),
        pytest.param(
            policy("keep", "NoSNAT", WEB, "203.0.113.0/24", "20.0.0.0/8"),
            [("element", "kept4/keep")],
            id="a destination: one element of the set",
        ),
        pytest.param(policy("none", "NoSNAT", EgressSource(labelled("app", "x")), "9.0.0.0/8"), [], id="no Pod here"),
        pytest.param(pod(5, "web", node="n2"), [], id="a Pod of another node"),
    ],
)
def test_a_change_costs_its_own_commands_alone(item: Item, expected: list[tuple[str, str]]) -> None:
    view = state()
    view.put(item)
    assert changed(view.drain_changes()) == expected


def test_two_policies_that_change_their_sources_at_once_are_both_matched() -> None:
    view = state()
    view.put(policy("keep", "NoSNAT", EgressSource(labelled("app", "db")), "203.0.113.0/24"))
    view.put(policy("hide", "SNAT", WEB, "10.0.0.0/8"))
    by_app = {"10.64.0.2": "hide", "10.64.0.3": "hide", "10.64.0.4": "keep", "10.64.0.5": "keep"}
    assert view.ruleset().maps["natpods4"].elements == {address: f"kept/{name}" for address, name in by_app.items()}


def test_no_connection_is_rechecked_since_each_keeps_its_translation() -> None:
    view = state()
    for item in (policy("more", "SNAT", OPS, "11.0.0.0/8"), Namespace("shop", (("team", "ops"),)), pod(3, "web")):
        view.put(item)
        view.drain_changes()
    assert view.ruleset().maps["natpods4"].elements["10.64.0.4"] == "kept/hide_keep_more"
    view.recheck_all()
    assert view.recheck_addresses == {}


def test_the_last_pod_of_a_policy_takes_its_chain_and_sets_with_it() -> None:
    view = state()
    for number in (1, 2):
        view.remove(ObjectRef("Pod", "shop", f"p{number}"))
    view.drain_changes()
    left = view.ruleset()
    assert not [name for name in (*left.sets, *left.chains, *left.maps) if "kept" in name or "natpods" in name]


def test_pods_move_with_the_labels_of_their_namespace() -> None:
    view = state()
    found = []
    for team in ("ops", "sales"):
        view.put(Namespace("ops", (("team", team),)))
        view.put(Namespace("shop", (("team", team),)))
        found.append(dict(view.ruleset().maps["natpods4"].elements))
    both = "kept/hide_keep"
    assert found[0] == {"10.64.0.2": both, "10.64.0.3": both, "10.64.0.4": "kept/hide", "10.64.0.5": "kept/hide"}
    assert found[1] == {"10.64.0.2": "kept/keep", "10.64.0.3": "kept/keep"}


def test_five_thousand_pods_are_processed_in_many_steps() -> None:
    view = DesiredState("n1")
    view.put(NODE)
    for number in range(5_000):
        view.put(pod(number, f"a{number}"))
    view.drain_changes()
    view.put(KEEP)
    assert sum(1 for _ in view.prepare()) > 10
