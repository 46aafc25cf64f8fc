"""Sets of named ports follow the labels of Namespaces: the ruleset is that of a compile from nothing."""

from __future__ import annotations

import pytest

from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import TierPolicy
from nfagent.model.gvk import Item
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import ContainerPort, Namespace, Node, Pod
from tests.support.tier_documents import anp

BLUE: dict[str, object] = {"namespaces": {"matchLabels": {"team": "blue"}}}
PORTS = [{"namedPort": "http"}]
EVERY_NAMESPACE: list[dict[str, object]] = [{"namespaces": {}}]


def served(namespace: str, node: str, last: int) -> Pod:
    ports = (ContainerPort("http", 8000 + last, "tcp"),)
    return Pod(namespace, "web", (("app", "web"),), node, (f"10.64.{last}.1",), ports=ports)


SUBJECT = anp(subject=BLUE, ingress=[{"name": "in", "action": "Deny", "from": EVERY_NAMESPACE, "ports": PORTS}])
PEER = anp(egress=[{"name": "out", "action": "Deny", "to": [BLUE], "ports": PORTS}])


def items(policy: TierPolicy, node: str, green: str) -> list[Item]:
    """Return a cluster of two Namespaces with a Pod each on a node; `green` is the team of the second one."""
    return [
        Node("a", (), (parse_cidr("10.64.0.0/16"),), ("192.0.2.1",)),
        Namespace("blue", (("team", "blue"),)),
        Namespace("green", (("team", green),)),
        served("blue", node, 1),
        served("green", node, 2),
        Pod("blue", "here", (("app", "here"),), "a", ("10.64.9.1",)),
        policy,
    ]


def state(*found: Item) -> DesiredState:
    made = DesiredState("a")
    for item in found:
        made.put(item)
    return made


@pytest.mark.parametrize("before", ["green", "blue"], ids=["into it", "out of it"])
@pytest.mark.parametrize(
    ("policy", "node"),
    [
        pytest.param(SUBJECT, "a", id="a local Pod that an admin policy selects by its Namespace"),
        pytest.param(PEER, "b", id="a peer of another node"),
        pytest.param(PEER, "a", id="a peer of this node"),
    ],
)
def test_a_relabelled_namespace_brings_and_takes_the_named_ports_of_its_pods(
    policy: TierPolicy, node: str, before: str
) -> None:
    after = {"green": "blue", "blue": "green"}[before]
    view = state(*items(policy, node, before))
    view.drain_changes()
    view.put(Namespace("green", (("team", after),)))
    view.drain_changes()
    view.clear_recheck(view.recheck_addresses)
    view.drain_changes()
    assert view.ruleset() == state(*items(policy, node, after)).ruleset()
    assert view.ruleset() != state(*items(policy, node, before)).ruleset()
