"""The elements of named sets after a Namespace was relabelled."""

from __future__ import annotations

from nfagent.desired.state import DesiredState
from tests.support.two_node_cluster import DECODERS, namespace, node, pod, port, tier_policy


def test_a_pod_whose_namespace_is_relabelled_into_a_subject_has_its_named_port_there() -> None:
    """The set exists already, for another Pod of the subject: the new one's port is an element of it."""
    subject = {"namespaces": {"matchLabels": {"team": "red"}}}
    rules = [{"action": "Allow", "from": [{"namespaces": {}}], "ports": [{"namedPort": "http"}]}]
    desired = DesiredState("a")
    for document in (
        *(namespace("shop", team="red"), namespace("ops", team="blue"), node("a")),
        *(pod("shop/web", "a", 10, (port(80, "http"),)), pod("ops/web", "a", 11, (port(8080, "http"),))),
        *(tier_policy("AdminNetworkPolicy", "first", subject, priority=1, ingress=rules),),
    ):
        item = DECODERS[document["kind"]](document)
        assert item is not None
        desired.put(item)
    desired.drain_changes()
    relabelled = DECODERS["Namespace"](namespace("ops", team="red"))
    assert relabelled is not None
    desired.put(relabelled)
    desired.drain_changes()
    elements = {element for found in desired.ruleset().sets.values() for element in found.elements}
    assert {("10.64.0.10", "tcp", 80), ("10.64.0.11", "tcp", 8080)} <= elements
