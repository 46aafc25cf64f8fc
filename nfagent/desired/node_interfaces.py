"""The sets about this node's interfaces: Pod interfaces, tunnel ports, and the Nodes that tunnels end at.

`desired.pod_interfaces` computes the value, a NodeInterfaces, from the kernel's links and routes. The sets of Node
addresses are filled on nodes with tunnels, and empty on others.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec

from nfagent.desired.tracker import RulesetTracker
from nfagent.model.netaddr import FAMILIES, Range, family_of, join, single, text
from nfagent.model.objects import Node, Pod
from nfagent.nftables import names
from nfagent.nftables.interface_sets import FRAMES, NODES, POD_LINKS, POD_RANGES, PORTLESS, TUNNELS, link_sets
from nfagent.nftables.objects import Chain, LinkName, ProtocolPort, Ruleset
from nfagent.policy.evaluator import Flow
from nfagent.state.cluster import ClusterState

_PART = 250
"""Nodes, or ranges, that one step processes."""
_OWN_OF_RANGE = 2
"""The first addresses of a Pod range belong to the Node: its tunnel interface (flannel), and its bridge."""


class NodeInterfaces(msgspec.Struct, frozen=True):
    """The properties of this node's interfaces that rules depend on.

    pod_links: names of the interfaces that lead to local Pods only
    tunnels:   ports at which the node decapsulates packets: VXLAN, Geneve
    bridged:   whether one of `pod_links` is a bridge
    portless:  whether it has tunnels of protocols without ports: IP in IP, GRE
    shared:    name of an interface that leads to local Pods and is not in `pod_links`, and the reason
    """

    pod_links: frozenset[str] = frozenset()
    tunnels: frozenset[ProtocolPort] = frozenset()
    portless: bool = False
    bridged: bool = False
    shared: tuple[tuple[str, str], ...] = ()


def held_links(ruleset: Ruleset) -> NodeInterfaces:
    """Read the interfaces from the sets of a table: what was known when it was written."""
    links, tunnels = (ruleset.sets[name].elements if name in ruleset.sets else () for name in (POD_LINKS, TUNNELS))
    nodes = (ruleset.sets.get(names.set_name(NODES, family)) for family in FAMILIES)
    return NodeInterfaces(
        frozenset(link.name for link in links if isinstance(link, LinkName)),
        frozenset(port for port in tunnels if isinstance(port, ProtocolPort)),
        portless=any(item is not None and bool(item.elements) for item in nodes),
        bridged=FRAMES in ruleset.chains,
    )


class InterfaceSets:
    """Keeps the sets about this node's interfaces up to date."""

    def __init__(self, live: RulesetTracker, cluster: ClusterState, frames: Chain) -> None:
        """Add the sets, empty; `frames` is the chain to add while Pods share a bridge."""
        self._live = live
        self._frames = frames
        self._cluster = cluster
        self._dirty = False
        self._has_nodes = self._has_gateways = False
        self.links = NodeInterfaces()
        for name, shape in link_sets():
            live.add_set(name, shape)

    @property
    def has_tunnels(self) -> bool:
        """Return whether this node has tunnels: then rules need the addresses and Pod ranges of Nodes."""
        return bool(self.links.tunnels) or self.links.portless

    def drops_outgoing(self, flow: Flow) -> bool:
        """Return whether a flow goes from a Pod of this node to the tunnel of a Node."""
        if not any(pod.node == self._cluster.node for pod in self._senders(flow)):
            return False
        nodes = self._live.sets[names.set_name(NODES, family_of(flow.destination))].elements
        return self._tunnelled(flow) and flow.destination in nodes

    def drops_incoming(self, flow: Flow) -> bool:
        """Return whether a flow goes from another node's Pod to this node's own tunnel."""
        own = self._cluster.nodes.get(self._cluster.node)
        if not self._tunnelled(flow) or flow.destination not in set(_addresses(own)):
            return False
        source = single(flow.source)
        nodes = (self._cluster.nodes.get(pod.node) for pod in self._senders(flow))
        return any(_holds(item, source) for node in nodes if node is not None for item in node.pod_cidrs)

    def _senders(self, flow: Flow) -> tuple[Pod, ...]:
        """Return the Pods that may be the source of a flow; none on a node without tunnels."""
        holders = self._cluster.holders(flow.source) if self.has_tunnels else ()
        return tuple(pod for pod in holders if not pod.host_network)

    def _tunnelled(self, flow: Flow) -> bool:
        return flow.protocol in PORTLESS or any(
            (port.protocol, port.port) == (flow.protocol, flow.port) for port in self.links.tunnels
        )

    def follow_links(self, links: NodeInterfaces) -> bool:
        """Apply the present interfaces. Return whether a tunnel is new."""
        had_tunnels, before = self.has_tunnels, self.links
        self.links = links
        self._live.recount(POD_LINKS, map(LinkName, links.pod_links))
        self._live.recount(TUNNELS, links.tunnels)
        if links.bridged and not before.bridged:
            self._live.put_chain(FRAMES, self._frames)
        elif before.bridged and not links.bridged:
            self._live.drop_chain(FRAMES)
        self._dirty |= self.has_tunnels != had_tunnels
        self._fill_nodes()
        return links.portless > before.portless or bool(links.tunnels - before.tunnels)

    def follow_gateways(self, *, in_use: bool) -> None:
        """Apply whether a policy names a gateway: its rules need the addresses of Nodes too."""
        self._has_gateways = in_use
        self._fill_nodes()

    def _fill_nodes(self) -> None:
        """Fill the sets of Node addresses, or empty them, where rules begin or cease to need them."""
        before, self._has_nodes = self._has_nodes, self.has_tunnels or self._has_gateways
        if self._has_nodes == before:
            return
        nodes = self._cluster.nodes.values() if self._has_nodes else ()
        addresses = [address for node in nodes for address in _addresses(node)]
        for family in FAMILIES:
            own = (address for address in addresses if family_of(address) == family)
            self._live.recount(names.set_name(NODES, family), own)

    def follow_node(self, before: Node | None, after: Node | None) -> None:
        """Apply a Node that was added, changed or removed."""
        if not self._has_nodes:
            return
        for address in _addresses(after):
            self._live.add(names.set_name(NODES, family_of(address)), address)
        for address in _addresses(before):
            self._live.remove(names.set_name(NODES, family_of(address)), address)
        self._dirty |= self.has_tunnels and _ranges(before) != _ranges(after)

    def steps(self) -> Iterator[None]:
        """Merge the Pod ranges of all Nodes, if one changed, in steps: a cluster may have 15,000 Nodes."""
        while self._dirty:
            self._dirty = False
            nodes = list(self._cluster.nodes.values()) if self.has_tunnels else []
            runs = []
            for start in range(0, len(nodes), _PART):
                runs.append(sorted(item for node in nodes[start : start + _PART] for item in node.pod_cidrs))
                yield
            merged: list[Range] = []
            for count, item in enumerate(heapq.merge(*runs), 1):
                join(merged, item)
                if count % _PART == 0:
                    yield
            for family in FAMILIES:
                own = [item for item in merged if item.family == family]
                self._live.recount(names.set_name(POD_RANGES, family), own)


def _addresses(node: Node | None) -> Iterator[str]:
    """Yield the addresses at which a Node's tunnels can be reached."""
    if node is None:
        return
    yield from node.addresses
    for item in node.pod_cidrs:
        for value in range(item.first, min(item.first + _OWN_OF_RANGE, item.last)):
            yield text(item.family, value)


def _ranges(node: Node | None) -> tuple[Range, ...]:
    return node.pod_cidrs if node is not None else ()


def _holds(item: Range, address: Range) -> bool:
    return item.family == address.family and item.first <= address.first <= item.last
