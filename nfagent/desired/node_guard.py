"""Keeps the kernel's table while the node's name is wrong: a wrong `--node`, or a host name that changed.

An agent with a wrong name finds no Pods, or another machine's Pods, so its desired ruleset would end the isolation of
the Pods that run here. Two cases count as a wrong name: no Node has the name; or the Node of that name has none of
this machine's addresses while another Node has one. A Node whose addresses no Node shares with this machine (behind
NAT, for example) is accepted. The table is replaced all the same if it isolates no Pod, or if there are no Nodes at
all (a folder of manifests without Nodes) and every isolated Pod stays isolated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches

from nfagent.model.objects import Node
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.unknown_pods import UNKNOWN_PODS_CHAIN, holds_unknown_pods
from nfagent.state.cluster import ClusterState

_NAMED = 3


class UnknownNodeGuard:
    """Refuses commits while the node's name is wrong. Implements reconciler.ChangeGuard."""

    def __init__(self, cluster: ClusterState, *, allowed: bool, own: Callable[[Iterable[str]], str]) -> None:
        """Guard the node that `cluster` is seen from.

        allowed: never refuse (`--allow-unknown-node`)
        own:     returns the first of some addresses that belongs to this machine; '' if none does
        """
        self._cluster = cluster
        self._allowed = allowed
        self._own = own
        self._harmless = False
        self._accepted: Node | None = None
        self._wrong_node = ""

    def allow(self, *, allowed: bool) -> None:
        """Change whether commits are never refused; a hold that stands is looked at again in the next round."""
        self._allowed = allowed

    @property
    def must_check(self) -> bool:
        """Return whether the node's name may be wrong."""
        node = self._cluster.nodes.get(self._cluster.node)
        if node is not None and node is not self._accepted:
            self._wrong_node = self._wrong_node_reason(node)
            self._accepted = None if self._wrong_node else node
        if node is not None and not self._wrong_node:
            self._harmless = False
            return False
        return not (self._allowed or self._harmless)

    def hold_reason(self, held: Ruleset, wanted: Ruleset) -> str:
        """Return why the table must not be replaced; '' if it may be, which holds until a Node of that name appears."""
        if not self.must_check:
            return ""
        isolated = _isolated(held)
        ends_hold = holds_unknown_pods(held) and UNKNOWN_PODS_CHAIN in wanted.chains and not holds_unknown_pods(wanted)
        self._harmless = not ends_hold and (not isolated or (not self._cluster.nodes and isolated <= _isolated(wanted)))
        if self._harmless:
            return ""
        addresses = {address for _, address in isolated}
        pods = "1 Pod address" if len(addresses) == 1 else f"{len(addresses)} Pod addresses"
        there = self._cluster.node in self._cluster.nodes
        until = "the node has its own name" if there else "a Node of that name exists"
        wrong = self._wrong_node if there else advice(self._cluster.node, self._cluster.nodes)
        return (
            f"{wrong}. The present rules, which isolate {pods}, are kept until {until}: changes of policies "
            "have no effect here; --allow-unknown-node replaces them"
        )

    def _wrong_node_reason(self, node: Node) -> str:
        """Return why a Node is another machine, and which one this machine is; '' if that is uncertain."""
        if not node.addresses or self._own(node.addresses):
            return ""
        others = {address: other.name for other in self._cluster.nodes.values() for address in other.addresses}
        found = self._own(others)
        if not found:
            return ""
        return (
            f"Node {node.name} is another machine ({', '.join(node.addresses)}); this one's address {found} is Node "
            f"{others[found]}'s: name this node with --node {others[found]}"
        )


def advice(node: str, known: Iterable[str]) -> str:
    """Return the message for a missing Node: similar names, and what to write."""
    names = sorted(known)
    short = node.partition(".")[0]
    near = [name for name in names if name.partition(".")[0] == short] or get_close_matches(node, names, _NAMED)
    if not names:
        there = "no Nodes were read"
    elif near:
        there = f"did you mean {' or '.join(near[:_NAMED])}?"
    else:
        others = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        there = f"known: {', '.join(names[:_NAMED])}{others}"
    return f"there is no Node {node} ({there}); name this node with --node, as its Node object has it"


def _isolated(ruleset: Ruleset) -> set[tuple[str, str]]:
    """Return what the verdict maps send to policy chains: pairs of map name and address."""
    return {(name, address) for name, item in ruleset.maps.items() for address in item.elements}
