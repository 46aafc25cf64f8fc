"""Which addresses a node holds because no known Pod has them: the evaluator's reading of `unknown_pods = "held"`."""

from __future__ import annotations

from nfagent.model.netaddr import family_of, number
from nfagent.model.objects import Node
from nfagent.state.cluster import ClusterState

_NODES_OF_RANGE = 2
"""Addresses at the begin of a Pod range that a node gives to itself: its tunnel interface and its bridge."""


def held_reason(cluster: ClusterState, source: str, destination: str) -> str:
    """Return why this node holds a flow: an end is in its Pod ranges, and no Pod has that address; '' if it doesn't.

    What Pods exchange with the node itself isn't forwarded, so it isn't held.
    """
    node = cluster.nodes.get(cluster.node)
    ends = (source, destination)
    if node is None or any(_belongs_to_node(cluster, node, address) for address in ends):
        return ""
    for address in ends:
        if not cluster.by_address.get(address) and any(item.contains(address) for item in node.pod_cidrs):
            return f"no known Pod has {address}, which is in the Pod ranges of node {node.name}: unknown_pods = held"
    return ""


def _belongs_to_node(cluster: ClusterState, node: Node, address: str) -> bool:
    if address in cluster.by_address:
        return False  # some network plugins give a Pod the first address of a range
    value, family = number(address), family_of(address)
    first_ones = (item.first for item in node.pod_cidrs if item.family == family)
    return address in node.addresses or any(first <= value < first + _NODES_OF_RANGE for first in first_ones)
