"""What rules cost packets: throughput of a TCP stream, and short connections a second, through a policy that allows.

Each way of judging has a lab of its own, so that nothing is reloaded between measurements: two nodes, a client and a
server on the first, another server on the second. They are measured in turns, in another order each round, and
compared round by round. A second lab without rules shows what two equal labs differ by: the noise.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec

from benchmarks.registry import Run, bench
from benchmarks.rows import Row, Target, at_least
from benchmarks.shapes import labels, port
from benchmarks.synthetic import DNS, Size, Synthetic, node_name, synthetic
from benchmarks.traffic import PORT, Client, Traffic
from nfagent.cluster.address import parse_cidr
from nfagent.cluster.decode import named_labels
from nfagent.cluster.model import Direction, Labels, Namespace, Pod
from nfagent.cluster.state import Identity, identity_of
from nfagent.edge.kernel import Nftables
from nfagent.errors import KernelError
from nfagent.lab import ebpf_path, netns
from nfagent.lab.ebpf_path import EbpfPath
from nfagent.lab.fabric import Fabric
from nfagent.lab.plan import NodePlan, PodPlan
from nfagent.policy.model import IpBlock, NetworkPolicy, PodPeer, PolicyPort, Rule, Selector
from nfagent.ruleset.desired import Desired, Item
from nfagent.ruleset.objects import ABSENT, Ruleset
from nfagent.ruleset.transaction import diff

BENCH = "bench"
NODES = (1, 2)
Server = tuple[str, str]
CLIENT, NEAR, FAR = (BENCH, "client"), (BENCH, "near"), (BENCH, "far")
CLIENT_LABELS: Labels = (("app", "client"),)
SERVER_LABELS: Labels = (("app", "server"),)

FREE, AGAIN, CONNTRACK = "no rules", "no rules, again", "conntrack alone"
FEW, MANY, EBPF = "10 policies", "10,000 policies", "eBPF"

_CONNTRACK_RULES = "add table inet c; add chain inet c f { type filter hook forward priority 0; }; "
_CONNTRACK_RULES += "add rule inet c f ct state established accept"


class Plan(msgspec.Struct, frozen=True):
    """How long to measure.

    streams, connections: rounds of each
    seconds:              of each measurement
    pods:                 of the large cluster
    """

    streams: int
    connections: int
    seconds: float
    pods: int


QUICK = Plan(streams=40, connections=24, seconds=0.025, pods=5_000)
FULL = Plan(streams=240, connections=120, seconds=0.04, pods=15_000)


class Way(msgspec.Struct, frozen=True):
    """A lab with one way of judging."""

    name: str
    fabric: Fabric

    def client(self, stack: ExitStack, traffic: Traffic, server: tuple[str, str]) -> Client:
        """Start a server, and a client of it, over IPv4; both end with the stack."""
        address = self.fabric.pods[server].addresses[0]
        stack.enter_context(traffic.serving(self.fabric.pod_namespace(*server), address))
        return stack.enter_context(traffic.client(self.fabric.pod_namespace(*CLIENT), address))


@bench("packets", "TCP streams and short connections through a policy, beside no rules and the same policy in eBPF")
def packets(run: Run) -> Iterator[Row]:
    """Measure all ways in turns."""
    plan = QUICK if run.quick else FULL
    with ExitStack() as stack:
        traffic = stack.enter_context(Traffic())
        run.progress("labs")
        ways = list(_ways(stack, plan, run.seed))
        clients = {(way.name, server): way.client(stack, traffic, server) for way in ways for server in (NEAR, FAR)}
        found = _measure(run, plan, clients)
    yield from _rows(found)


Measured = dict[tuple[str, Server], dict[str, list[float]]]
"""(kind, server) -> way -> a value a round."""


def _measure(run: Run, plan: Plan, clients: dict[tuple[str, Server], Client]) -> Measured:
    """Measure each way shortly and often, all of them in a round: what else the machine does hits them alike."""
    order = random.Random(run.seed)  # noqa: S311 - an order of measurements
    ways = list(dict.fromkeys(name for name, _server in clients))
    kinds = {"stream": (Client.stream, plan.streams), "connections": (Client.connections, plan.connections)}
    found: Measured = {(kind, server): {way: [] for way in ways} for kind in kinds for server in (NEAR, FAR)}
    for (kind, server), values in found.items():
        measure, rounds = kinds[kind]
        for turn in range(rounds + 1):
            run.progress(f"{kind} to {server[1]}: round {turn} of {rounds}")
            for way in order.sample(ways, len(ways)):
                value = measure(clients[way, server], plan.seconds)
                # The first round warms up.
                if turn:
                    values[way].append(value)
    return found


def _rows(found: Measured) -> Iterator[Row]:
    for (kind, server), values in found.items():
        words = (
            f"{'TCP stream' if kind == 'stream' else 'connections'}, {'one node' if server == NEAR else 'two nodes'}"
        )
        unit = "Gbit/s" if kind == "stream" else "1/s"
        # Design, section 7: throughput 0.97; connections 0.93, beside eBPF 0.95; flat in the number of policies.
        wanted: list[tuple[str, str, Target | None]] = [
            (AGAIN, FREE, None),
            (CONNTRACK, FREE, None),
            (EBPF, FREE, None),
            (FEW, FREE, at_least("ratio", 0.97 if kind == "stream" else 0.93)),
            (MANY, FREE, at_least("ratio", 0.97 if kind == "stream" else 0.93)),
            (MANY, CONNTRACK, None),
            (MANY, FEW, at_least("ratio", 0.97)),
            (MANY, EBPF, None if kind == "stream" else at_least("ratio", 0.95)),
        ]
        for way, reference, target in wanted:
            if way in values and reference in values:
                yield Row(
                    name=f"{words}: {way}",
                    unit=unit,
                    values=values[way],
                    reference=values[reference],
                    reference_name=reference,
                    paired=True,
                    better="higher",
                    targets=() if target is None else (target,),
                )


def _ways(stack: ExitStack, plan: Plan, seed: int) -> Iterator[Way]:
    many = synthetic(Size(plan.pods, 10_000 - len(_policies()), 250, 100), seed)
    few = synthetic(Size(100, 10 - len(_policies()), 20, 0), seed)
    for number, name in enumerate((FREE, AGAIN, CONNTRACK, FEW, MANY)):
        fabric = stack.enter_context(_fabric(number))
        for node in NODES:
            inside = fabric.node_namespace(node_name(node))
            if name == CONNTRACK:
                netns.inside(inside, functools.partial(_load_text, _CONNTRACK_RULES))
            elif name in {FEW, MANY}:
                ruleset = _ruleset(few if name == FEW else many, fabric, node)
                netns.inside(inside, functools.partial(_load, ruleset))
        yield Way(name, fabric)
    if not ebpf_path.missing():
        fabric = stack.enter_context(_fabric(5))
        _load_ebpf(stack, fabric, many)
        yield Way(EBPF, fabric)


def _fabric(number: int) -> Fabric:
    nodes = [
        NodePlan(
            node_name(node),
            (f"192.0.2.{node}", f"2001:db8:ffff::{node}"),
            (f"10.244.{node}.0/24", f"2001:db8:244:{node}::/64"),
        )
        for node in NODES
    ]
    where = ((CLIENT, 1), (NEAR, 1), (FAR, 2))
    pods = [
        PodPlan(*key, node_name(node), (f"10.244.{node}.{host}", f"2001:db8:244:{node}::{host:x}"))
        for host, (key, node) in enumerate(where, start=10)
    ]
    return Fabric(nodes, pods, tag=f"bench{number}")


def _items(cluster: Synthetic, fabric: Fabric) -> Iterator[Item]:
    """Give the synthetic cluster, and the lab's Pods as some more on its first two nodes."""
    yield from cluster.items()
    for node in cluster.nodes:
        plan = fabric.nodes.get(node.name)
        if plan is not None:
            cidrs = (*node.pod_cidrs, *map(parse_cidr, plan.pod_cidrs))
            yield msgspec.structs.replace(node, pod_cidrs=cidrs, addresses=(*node.addresses, *plan.addresses))
    yield Namespace(BENCH, named_labels(BENCH, ()))
    yield from _pods(fabric)
    yield from _policies()


def _pods(fabric: Fabric) -> Iterator[Pod]:
    for plan in fabric.pods.values():
        own = CLIENT_LABELS if plan.key == CLIENT else SERVER_LABELS
        yield Pod(plan.namespace, plan.name, own, plan.node, plan.addresses)


def _policies() -> tuple[NetworkPolicy, ...]:
    """Write what judges the lab's Pods: in each direction, rules that don't match come before the one that does."""
    servers, clients = labels(app="server"), labels(app="client")
    traffic = (PolicyPort("tcp", PORT, PORT + 1),)
    dns = PodPeer(Selector(), namespaces=labels(**{"kubernetes.io/metadata.name": DNS}))
    everybody = functools.partial(NetworkPolicy, namespace=BENCH, isolates=("egress",))
    serving = functools.partial(NetworkPolicy, namespace=BENCH, pods=servers)
    return (
        NetworkPolicy(namespace=BENCH, name="default-deny", isolates=("ingress", "egress")),
        everybody(name="dns", egress=(Rule((dns,), (port(53, "udp"), port(53))),)),
        everybody(name="https", egress=(Rule((IpBlock(parse_cidr("198.51.100.0/24")),), (port(443),)),)),
        serving(name="metrics", ingress=(Rule((PodPeer(Selector(), namespace="monitoring"),), (port(9090),)),)),
        everybody(name="to-servers", pods=clients, egress=(Rule((PodPeer(servers, namespace=BENCH),), traffic),)),
        serving(name="to-servers-in", ingress=(Rule((PodPeer(clients, namespace=BENCH),), traffic),)),
    )


def _ruleset(cluster: Synthetic, fabric: Fabric, node: int) -> Ruleset:
    desired = Desired(node_name(node))
    for item in _items(cluster, fabric):
        desired.put(item)
    return desired.ruleset()


def _load(ruleset: Ruleset) -> None:
    Nftables().apply_now(diff(ABSENT, ruleset))


def _load_text(text: str) -> None:
    import nftables  # noqa: PLC0415 - Debian's package, which Nftables above asks for with words of its own

    status, _output, error = nftables.Nftables().cmd(text)
    if status:
        raise KernelError(error)


def _load_ebpf(stack: ExitStack, fabric: Fabric, cluster: Synthetic) -> None:
    """Judge the lab's Pods by eBPF, on nodes that know every Pod's identity."""
    everyone = [*cluster.pods, *_pods(fabric)]
    numbers = {identity: 1000 + place for place, identity in enumerate(dict.fromkeys(map(identity_of, everyone)))}
    client, server = numbers[Identity(BENCH, CLIENT_LABELS)], numbers[Identity(BENCH, SERVER_LABELS)]
    for node in NODES:
        path = stack.enter_context(EbpfPath(fabric.node_namespace(node_name(node))))
        for pod in everyone:
            for address in pod.addresses:
                path.identify(address, numbers[identity_of(pod)])
        for plan in fabric.pods.values():
            if plan.node == node_name(node):
                endpoint = path.attach(fabric.pod_namespace(*plan.key))
                direction: Direction = "egress" if plan.key == CLIENT else "ingress"
                peer = server if plan.key == CLIENT else client
                for number in (PORT, PORT + 1):
                    path.allow(endpoint, direction, peer, number, "tcp")
