"""A node's rules while no Node has its name, or another machine's has: a wrong `--node`, a host name that changed.

Such an agent has no Pods, or another machine's, so what it wants would take away the isolation of those that run here.
The table stays as it is, whole, until a Node of that name is there; and where the Node of that name has none of this
machine's addresses, and another Node has one. (A Node whose addresses nobody has here, behind NAT say, is believed.)
Nothing is at stake where the table isolates nobody; nor where there are no Nodes at all, as in a folder of manifests
without them, and everybody stays isolated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches

from nfagent.model.objects import Node
from nfagent.nftables.objects import Ruleset
from nfagent.state.cluster import ClusterState

_NAMED = 3


class UnknownNodeGuard:
    """Holds the table for a node without a Node, or with another machine's. Satisfies reconcile.Guard."""

    def __init__(self, cluster: ClusterState, *, allowed: bool, own: Callable[[Iterable[str]], str]) -> None:
        """Look at the Nodes that others keep up to date.

        allowed: a node without a Node is meant
        own:     gives the first of some addresses that is this machine's, '' where none is
        """
        self._cluster = cluster
        self._allowed = allowed
        self._own = own
        self._harmless = False
        self._believed: Node | None = None
        self._mistaken = ""

    @property
    def doubts(self) -> bool:
        """Tell whether what the table holds may be another node's, or this one's under its right name."""
        node = self._cluster.nodes.get(self._cluster.node)
        if node is not None and node is not self._believed:
            self._mistaken = self._mistake(node)
            self._believed = None if self._mistaken else node
        if node is not None and not self._mistaken:
            self._harmless = False
            return False
        return not (self._allowed or self._harmless)

    def objection(self, held: Ruleset, wanted: Ruleset) -> str:
        """Say why the table stays as it is; '' where nothing is at stake, unless a Node of that name comes and goes."""
        if not self.doubts:
            return ""
        isolated = _isolated(held)
        self._harmless = not isolated or (not self._cluster.nodes and isolated <= _isolated(wanted))
        if self._harmless:
            return ""
        addresses = {address for _, address in isolated}
        pods = "1 Pod address" if len(addresses) == 1 else f"{len(addresses)} Pod addresses"
        there = self._cluster.node in self._cluster.nodes
        until = "this node has its own name" if there else "there is a Node of that name"
        return (
            f"{self._mistaken if there else advice(self._cluster.node, self._cluster.nodes)}. The rules, which isolate "
            f"{pods}, stay as they are until {until}, and no change of policies takes effect here; "
            "--allow-unknown-node has them go"
        )

    def _mistake(self, node: Node) -> str:
        """Say that a Node is another machine, and which one is this; '' where that isn't certain."""
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
    """Say that there is no Node of a name, which ones are near, and what to write."""
    names = sorted(known)
    short = node.partition(".")[0]
    near = [name for name in names if name.partition(".")[0] == short] or get_close_matches(node, names, _NAMED)
    if not names:
        there = "none at all was read"
    elif near:
        there = f"did you mean {' or '.join(near[:_NAMED])}?"
    else:
        others = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        there = f"there: {', '.join(names[:_NAMED])}{others}"
    return f"there is no Node {node} ({there}); name this node with --node, as its Node object has it"


def _isolated(ruleset: Ruleset) -> set[tuple[str, str]]:
    """Give what is sent to policies: by direction and family, and address."""
    return {(name, address) for name, item in ruleset.maps.items() for address in item.elements}
