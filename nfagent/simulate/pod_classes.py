"""Classes of Pods that policies can't tell apart: the verdict of a pair of classes is that of every pair of their Pods.

A class has the Pods of one namespace of which policies see the same (policy_sight): which policies select them, which
peers they match, in which ipBlocks their addresses are, which ports rules can mean by name; and host network, and
whether they have addresses. What depends on the node is left to the pair: only a Pod and a host-network Pod of its own
node differ from others. A Pod whose address is another Pod's, or a Node's, is a class of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping

import msgspec

from nfagent.model.admin_policy import Policy
from nfagent.model.netaddr import Family, family_of, is_link_local
from nfagent.model.objects import DIRECTIONS, ContainerPort, Direction, Labels, Namespace, Node, Pod
from nfagent.model.slices import sort_in_slices
from nfagent.policy.options import PolicyOptions
from nfagent.simulate.policy_sight import LabelView, PolicySight, Selecting
from nfagent.state.cluster import ClusterState, PodKey

_STEP = 256
_NO_VIEW = LabelView(dict.fromkeys(DIRECTIONS, ()), 0)


class Snapshot(msgspec.Struct, frozen=True):
    """The objects at one moment: later changes of the cluster don't count."""

    node: str
    pods: tuple[Pod, ...]
    namespaces: tuple[Namespace, ...]
    nodes: tuple[Node, ...]
    policies: tuple[Policy, ...]


class AddressView(msgspec.Struct, frozen=True):
    """What policies and rules see of an address of a Pod.

    bits: the ipBlocks and Node peers that it matches
    own:  of a host-network Pod: it is an address of its Node, and of no other
    """

    family: Family
    link_local: bool
    bits: int
    own: bool = False


class ClassKey(msgspec.Struct, frozen=True):
    """What the Pods of a class have in common.

    alone: name of the Pod that is a class of its own as it shares an address; '' otherwise
    node:  the node of its Pods where verdicts depend on that; '' otherwise
    picked: it has only the Pod that was asked for
    """

    namespace: str
    egress: Selecting
    ingress: Selecting
    peers: int
    addresses: tuple[AddressView, ...]
    ports: tuple[ContainerPort, ...]
    host_network: bool
    alone: str = ""
    node: str = ""
    picked: bool = False


class PodClass(msgspec.Struct, eq=False):
    """Pods of one class.

    number: its position in the list of classes
    pods:   sorted by name
    nodes:  the nodes that they run on
    labels: their label sets, sorted
    """

    number: int
    key: ClassKey
    pods: list[Pod]
    nodes: frozenset[str] = frozenset()
    labels: tuple[Labels, ...] = ()

    @property
    def is_known(self) -> bool:
        """Return whether the Pods have addresses: without, what reaches them is not known."""
        return bool(self.key.addresses)

    @property
    def judged(self) -> bool:
        """Return whether policies apply to the Pods."""
        return not self.key.host_network

    def selecting(self, direction: Direction) -> Selecting:
        """Return the numbers of the policies that apply in a direction."""
        return self.key.egress if direction == "egress" else self.key.ingress

    def seen_bits(self, lane: int) -> int:
        """Return bits of all peers that match the Pods by their address of this position."""
        return self.key.peers | self.key.addresses[lane].bits


class PodClasses:
    """Groups the Pods of a snapshot, step by step.

    cluster: Namespaces, Nodes and a few Pods of each class, for the evaluator; nothing changes it
    sight:   what policies can see
    found:   the classes, sorted by namespace; complete after `steps`
    holders: address that several Pods have -> their classes
    """

    def __init__(
        self,
        snapshot: Snapshot,
        policy_options: PolicyOptions,
        *,
        declared: bool = False,
        host_network: bool = True,
        picked: PodKey = ("", ""),
    ) -> None:
        """Group by these policies.

        declared:     Pods that declare other ports are in other classes, even if no rule means a port by name
        host_network: with Pods of the host network
        picked:       namespace and name of a Pod that is to have a class of its own
        """
        self.cluster = ClusterState(snapshot.node)
        self.sight = PolicySight(self.cluster, snapshot.policies)
        self.found: list[PodClass] = []
        self.holders: dict[str, tuple[PodClass, ...]] = {}
        self.done = 0
        self._snapshot = snapshot
        self._options = policy_options
        self._declared = declared
        self._host_network = host_network
        self._picked = picked
        self._held: dict[str, int] = {}
        self._owners: dict[str, tuple[Node, ...]] = {}
        self._bound: set[str] = set()
        self._alone: set[tuple[str, str]] = set()

    def steps(self) -> Iterator[None]:
        """Group the Pods."""
        objects: list[Namespace | Node] = [*self._snapshot.namespaces, *self._snapshot.nodes]
        for known in objects:
            self.cluster.put(known)
            yield
        for node in self._snapshot.nodes:
            for address in node.addresses:
                self._owners[address] = (*self._owners.get(address, ()), node)
            yield
        yield from self.sight.steps()
        yield from self._find_lone_pods()
        groups: dict[ClassKey, list[Pod]] = {}
        for pod in self._snapshot.pods:
            self.done += 1
            if not pod.has_ended and (self._host_network or not pod.host_network):
                key = yield from self._key(pod)
                groups.setdefault(key, []).append(pod)
            yield
        yield from self._finish(groups)

    def _find_lone_pods(self) -> Iterator[None]:
        """Find Pods with the address of another Pod or a Node, and nodes on which verdicts depend on the node."""
        for pod in self._snapshot.pods:
            if pod.holds_addresses:
                for address in pod.addresses:
                    self._held[address] = self._held.get(address, 0) + 1
            yield
        own = self.cluster.nodes.get(self._snapshot.node)
        held_ranges = own.pod_cidrs if own is not None and self._options.holds_unknown else ()
        if held_ranges:
            self._bound.add(self._snapshot.node)
        for pod in self._snapshot.pods:
            if pod.has_ended:
                continue
            for address in pod.addresses:
                owners = self._owners.get(address, ())
                others = [node.name for node in owners if not (pod.host_network and node.name == pod.node)]
                if (
                    others
                    or len(owners) > 1
                    or self._held.get(address, 0) > (not pod.host_network)
                    or (pod.host_network and any(item.contains(address) for item in held_ranges))
                ):
                    self._alone.add((pod.namespace, pod.name))
                    self._bound.update((pod.node, *others))
            yield

    def _key(self, pod: Pod) -> Generator[None, None, ClassKey]:
        host = pod.host_network
        view = _NO_VIEW
        if not host:
            view = yield from self.sight.label_view(pod)
        addresses = []
        for address in pod.addresses:
            bits = yield from self.sight.address_bits(address)
            owners = self._owners.get(address, ()) if host else ()
            own = len(owners) == 1 and owners[0].name == pod.node
            addresses.append(
                AddressView(family_of(address), is_link_local(address), bits | self.sight.node_bits(owners), own)
            )
        return ClassKey(
            namespace=pod.namespace,
            egress=view.selecting["egress"],
            ingress=view.selecting["ingress"],
            peers=view.peers,
            addresses=tuple(addresses),
            ports=() if host else self._ports(pod),
            host_network=host,
            alone=pod.name if (pod.namespace, pod.name) in self._alone else "",
            node=pod.node if pod.node in self._bound else "",
            picked=(pod.namespace, pod.name) == self._picked,
        )

    def _ports(self, pod: Pod) -> tuple[ContainerPort, ...]:
        known = pod.ports if self._declared else [port for port in pod.ports if port.name in self.sight.names]
        return tuple(sorted(set(known), key=_port_key))

    def _finish(self, groups: Mapping[ClassKey, list[Pod]]) -> Iterator[None]:
        """Give numbers to the classes; put the Pods that stand for them into the evaluator's cluster."""
        holders: dict[str, list[PodClass]] = {}
        for pods in groups.values():
            pods.sort(key=_name)
            yield
        for item in sort_in_slices(groups.items(), _rank):
            if item is None:
                yield
                continue
            key, pods = item
            labels: set[Labels] = set()
            nodes: set[str] = set()
            for count, pod in enumerate(pods):
                labels.add(pod.labels)
                nodes.add(pod.node)
                if not count % _STEP:
                    yield
            made = PodClass(len(self.found), key, pods, frozenset(nodes), tuple(sorted(labels)))
            self.found.append(made)
            for pod in pods[:2]:
                self.cluster.put(pod)
            if key.alone and made.judged:
                for address in pods[0].addresses:
                    holders.setdefault(address, []).append(made)
            yield
        self.holders = {address: tuple(found) for address, found in holders.items()}


def take_snapshot(cluster: ClusterState, policies: Iterable[Policy]) -> Snapshot:
    """Return the objects of a cluster as they are now; all of them are immutable."""
    return Snapshot(
        cluster.node,
        tuple(cluster.pods.values()),
        tuple(cluster.namespaces.values()),
        tuple(cluster.nodes.values()),
        tuple(policies),
    )


def _name(pod: Pod) -> str:
    return pod.name


def _rank(group: tuple[ClassKey, list[Pod]]) -> tuple[str, bool, str]:
    key, pods = group
    return key.namespace, key.host_network, pods[0].name


def _port_key(port: ContainerPort) -> tuple[str, str, int]:
    return port.name, port.protocol, port.port
