"""Labs of the packet suites: one without rules, others with rules of several kinds, and one with eBPF.

Each has two nodes: a client and a server on the first, another server on the second.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec

from nfagent.decode.core import named_labels
from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError
from nfagent.kernel.nft_client import NftClient
from nfagent.lab.ebpf import program as ebpf_program
from nfagent.lab.ebpf.baseline import EbpfPath
from nfagent.lab.latency.traffic_rates import PORT, Client, Traffic
from nfagent.lab.objects.policy_templates import labels, port
from nfagent.lab.objects.synthetic import DNS, Size, Synthetic, node_name, synthetic
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import Attachment, NodePlan, PodPlan
from nfagent.model.gvk import Item
from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy, NetworkPolicyRule, PodPeer, PolicyPort
from nfagent.model.objects import Direction, Labels, Namespace, Pod
from nfagent.model.selectors import Selector
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import Identity, identity_of

BENCH = "bench"
NODES = (1, 2)
Server = tuple[str, str]
CLIENT, NEAR, FAR = (BENCH, "client"), (BENCH, "near"), (BENCH, "far")
CLIENT_LABELS: Labels = (("app", "client"),)
SERVER_LABELS: Labels = (("app", "server"),)

NO_RULES, NO_RULES_SECOND_LAB, CONNTRACK, NO_POLICIES = (
    "no rules",
    "no rules (second lab)",
    "conntrack only",
    "nfagent, no policies",
)
FEW, MANY, EBPF = "nfagent, 10 policies", "nfagent, 10,000 policies", "eBPF"

_CONNTRACK_RULES = """
add table inet conntrack
add chain inet conntrack forward { type filter hook forward priority 0; }
add rule inet conntrack forward ct state established accept
"""


class PacketLab(msgspec.Struct, frozen=True):
    """A lab with one kind of rules."""

    name: str
    topology: NetnsTopology

    def client(self, stack: ExitStack, traffic: Traffic, server: tuple[str, str]) -> Client:
        """Start a server, and a client of it, over IPv4; both end with the stack."""
        address = self.topology.pods[server].addresses[0]
        ends = self.topology.pod_namespace(*CLIENT), self.topology.pod_namespace(*server)
        return stack.enter_context(traffic.pair(*ends, address))


def packet_labs(stack: ExitStack, pods: int, seed: int) -> Iterator[PacketLab]:
    """Build all labs, which the stack removes; `pods` is the size of the cluster with 10,000 policies.

    The lab with eBPF is omitted without clang. Raises HostError, KernelError.
    """
    many = synthetic(Size(pods, 10_000 - len(policies()), 250, 100), seed)
    few = synthetic(Size(100, 10 - len(policies()), 20, 0), seed)
    numbers = itertools.count()
    for name in (NO_RULES, NO_RULES_SECOND_LAB):
        yield PacketLab(name, stack.enter_context(plan_topology(next(numbers))))
    tracked = stack.enter_context(plan_topology(next(numbers)))
    for node in NODES:
        netns.inside(tracked.node_namespace(node_name(node)), _load_conntrack)
    yield PacketLab(CONNTRACK, tracked)
    for name, cluster in ((NO_POLICIES, few), (FEW, few), (MANY, many)):
        topology = stack.enter_context(plan_topology(next(numbers)))
        for node in NODES:
            ruleset = ruleset_of(cluster, topology, node, enforced=name != NO_POLICIES)
            netns.inside(topology.node_namespace(node_name(node)), functools.partial(load, ruleset))
        yield PacketLab(name, topology)
    if not ebpf_program.missing():
        topology = stack.enter_context(plan_topology(next(numbers)))
        _load_ebpf(stack, topology, many)
        yield PacketLab(EBPF, topology)


def plan_topology(number: int, attachment: Attachment = "routed") -> NetnsTopology:
    """Return the plan of a lab: a client and a server on the first node, another server on the second."""
    nodes = [
        NodePlan(
            node_name(node),
            (f"192.0.2.{node}", f"2001:db8:ffff::{node}"),
            (f"10.244.{node}.0/24", f"2001:db8:244:{node}::/64"),
            attachment,
        )
        for node in NODES
    ]
    where = ((CLIENT, 1), (NEAR, 1), (FAR, 2))
    pods = [
        PodPlan(*key, node_name(node), (f"10.244.{node}.{host}", f"2001:db8:244:{node}::{host:x}"))
        for host, (key, node) in enumerate(where, start=10)
    ]
    return NetnsTopology(nodes, pods, tag=f"bench{number}")


def items(cluster: Synthetic, topology: NetnsTopology) -> Iterator[Item]:
    """Yield the objects of the synthetic cluster, with the lab's Pods added on its first two nodes."""
    yield from cluster.items()
    for node in cluster.nodes:
        plan = topology.nodes.get(node.name)
        if plan is not None:
            cidrs = (*node.pod_cidrs, *map(parse_cidr, plan.pod_cidrs))
            yield msgspec.structs.replace(node, pod_cidrs=cidrs, addresses=(*node.addresses, *plan.addresses))
    yield Namespace(BENCH, named_labels(BENCH, ()))
    yield from _pods(topology)
    yield from policies()


def _pods(topology: NetnsTopology) -> Iterator[Pod]:
    for plan in topology.pods.values():
        own = CLIENT_LABELS if plan.key == CLIENT else SERVER_LABELS
        yield Pod(plan.namespace, plan.name, own, plan.node, plan.addresses)


def policies() -> tuple[NetworkPolicy, ...]:
    """Return the policies about the lab's Pods: in each direction, rules that don't match precede the one that does."""
    servers, clients = labels(app="server"), labels(app="client")
    traffic = (PolicyPort("tcp", PORT, PORT + 1),)
    dns = PodPeer(Selector(), namespaces=labels(**{"kubernetes.io/metadata.name": DNS}))
    egress_policy = functools.partial(NetworkPolicy, namespace=BENCH, isolates=("egress",))
    server_policy = functools.partial(NetworkPolicy, namespace=BENCH, pods=servers)
    return (
        NetworkPolicy(namespace=BENCH, name="default-deny", isolates=("ingress", "egress")),
        egress_policy(name="dns", egress=(NetworkPolicyRule((dns,), (port(53, "udp"), port(53))),)),
        egress_policy(
            name="https", egress=(NetworkPolicyRule((IpBlock(parse_cidr("198.51.100.0/24")),), (port(443),)),)
        ),
        server_policy(
            name="metrics", ingress=(NetworkPolicyRule((PodPeer(Selector(), namespace="monitoring"),), (port(9090),)),)
        ),
        egress_policy(
            name="to-servers", pods=clients, egress=(NetworkPolicyRule((PodPeer(servers, namespace=BENCH),), traffic),)
        ),
        server_policy(
            name="to-servers-in", ingress=(NetworkPolicyRule((PodPeer(clients, namespace=BENCH),), traffic),)
        ),
    )


def ruleset_of(
    cluster: Synthetic,
    topology: NetnsTopology,
    node: int,
    *,
    enforced: bool = True,
    policy_options: PolicyOptions | None = None,
) -> Ruleset:
    """Return a node's rules for the lab's Pods and the synthetic cluster; enforced: with its policies."""
    desired = DesiredState(node_name(node), policy_options=policy_options)
    for item in items(cluster, topology):
        if enforced or not isinstance(item, NetworkPolicy):
            desired.put(item)
    return desired.ruleset()


def load(ruleset: Ruleset) -> None:
    """Load a ruleset into this thread's network namespace, which has no table of nfagent. Raises KernelError."""
    kernel = NftClient()
    try:
        kernel.commit_now(diff(ABSENT, ruleset))
    finally:
        kernel.close()


def _load_conntrack() -> None:
    import nftables  # noqa: PLC0415 - Debian's package, which Nftables above asks for with words of its own

    status, _output, error = nftables.Nftables().cmd(_CONNTRACK_RULES)
    if status:
        raise KernelError(error)


def _load_ebpf(stack: ExitStack, topology: NetnsTopology, cluster: Synthetic) -> None:
    """Filter the lab's Pods by eBPF, on nodes that know every Pod's identity."""
    pods = [*cluster.pods, *_pods(topology)]
    numbers = {identity: 1000 + place for place, identity in enumerate(dict.fromkeys(map(identity_of, pods)))}
    client, server = numbers[Identity(BENCH, CLIENT_LABELS)], numbers[Identity(BENCH, SERVER_LABELS)]
    for node in NODES:
        path = stack.enter_context(EbpfPath(topology.node_namespace(node_name(node))))
        for pod in pods:
            for address in pod.addresses:
                path.identify(address, numbers[identity_of(pod)])
        for plan in topology.pods.values():
            if plan.node == node_name(node):
                endpoint = path.attach(topology.pod_namespace(*plan.key))
                direction: Direction = "egress" if plan.key == CLIENT else "ingress"
                peer = server if plan.key == CLIENT else client
                for number in (PORT, PORT + 1):
                    path.allow(endpoint, direction, peer, number, "tcp")
