"""Floating addresses with packets: what an outside host sees of Pods of every node, and what a move interrupts.

The rules that mark and translate are written here as the ruleset has them; addresses, rules and routes are ours.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from nfagent.egress.gateways import GatewayPlan, GatewayRoute, MarkBits
from nfagent.kernel.gateway_links import GatewayLinks
from nfagent.lab import netns
from nfagent.lab.continuous_probe import ContinuousProbe
from nfagent.lab.listeners import Endpoint, Listeners, ProbeProtocol
from nfagent.lab.probe import Probe, run_probes
from nfagent.lab.topology import NetnsTopology
from nfagent.lab.topology_plan import NodePlan, OutsideHost, PodPlan
from tests.support.packet_labs import namespace_document, pod_document, running_lab
from tests.support.steps import finished

pytestmark = pytest.mark.kernel

MARK = MarkBits(0x0FF00000)
NODES = (
    NodePlan("n1", ("192.0.2.1", "2001:db8:ffff::1"), ("10.244.1.0/24", "2001:db8:244:1::/64")),
    NodePlan("n2", ("192.0.2.2", "2001:db8:ffff::2"), ("10.244.2.0/24", "2001:db8:244:2::/64")),
    NodePlan("n3", ("192.0.2.3", "2001:db8:ffff::3"), ("10.244.3.0/24", "2001:db8:244:3::/64")),
)
PODS = tuple(
    PodPlan("pay", f"{name}-{number}", node.name, (f"10.244.{number}.{last}", f"2001:db8:244:{number}::{last}"))
    for number, node in enumerate(NODES, 1)
    for name, last in (("first", 10), ("second", 11))
)
PARTNER, PARTNER_V6 = "203.0.113.10", "2001:db8:113::10"
OUTSIDE = OutsideHost("outside", (PARTNER, PARTNER_V6))
FIRST, SECOND = ("192.0.2.100", "2001:db8:ffff::100"), ("192.0.2.101", "2001:db8:ffff::101")
PROTOCOLS: list[tuple[ProbeProtocol, int]] = [("tcp", 443), ("udp", 443), ("icmp", 0), ("sctp", 443)]


def plan_of(node: NodePlan, holders: dict[tuple[str, str], NodePlan]) -> GatewayPlan:
    """Return a node's plan where each pair of addresses has a holder."""
    held = [address for pair, holder in holders.items() if holder is node for address in pair]
    routes = [
        GatewayRoute(number, 6 if index else 4, pair[index], holder.name, (holder.addresses[index],))
        for number, (pair, holder) in enumerate(holders.items(), 1)
        for index in (0, 1)
        if holder is not node
    ]
    return GatewayPlan(tuple(held), tuple(routes))


def ruleset_of(node: NodePlan, holders: dict[tuple[str, str], NodePlan]) -> str:
    """Return rules: Pods `first` leave with the first pair of addresses, `second` with the second one."""
    marks, sources = [], []
    for number, (pair, holder) in enumerate(holders.items(), 1):
        for index, (word, destination) in enumerate((("ip", PARTNER), ("ip6", PARTNER_V6))):
            name = ("first", "second")[number - 1]
            local = [pod.addresses[index] for pod in PODS if pod.name.startswith(name) and pod.node == node.name]
            pods = [pod.addresses[index] for pod in PODS if pod.name.startswith(name)]
            if holder is node:
                match = f"{word} saddr {{ {', '.join(pods)} }} {word} daddr {destination}"
                sources.append(f"{match} snat {word} to {pair[index]}")
            else:
                match = f"{word} saddr {{ {', '.join(local)} }} {word} daddr {destination} ct direction original"
                marks.append(
                    f"{match} meta mark set meta mark & {~MARK.mask & 0xFFFFFFFF:#x} | {MARK.of_routed(number):#x}"
                )
    return "\n".join(
        [
            "table inet gateways",
            "delete table inet gateways",
            "table inet gateways {",
            "chain to-holder { type filter hook prerouting priority mangle;",
            *marks,
            "}",
            "chain from-holder { type nat hook postrouting priority srcnat;",
            *sources,
            "}",
            "}",
        ]
    )


class GatewayLab:
    """Three nodes with their plans, six Pods, a host outside."""

    def __init__(self, topology: NetnsTopology, servers: Listeners) -> None:
        self.topology, self.servers = topology, servers
        self.links = {node.name: GatewayLinks(MARK) for node in NODES}

    def listen(self) -> None:
        outside = self.topology.outside_namespace("outside")
        self.servers.listen(
            Endpoint(outside, address, protocol, port) for address in OUTSIDE.addresses for protocol, port in PROTOCOLS
        )

    def hold(self, first: NodePlan, second: NodePlan, nodes: Iterable[NodePlan] = NODES) -> None:
        """Carry out the plans of nodes for these holders, one node after another."""
        for node in nodes:
            self._hold(node, {FIRST: first, SECOND: second})

    def _hold(self, node: NodePlan, holders: dict[tuple[str, str], NodePlan]) -> None:
        namespace, plan = self.topology.node_namespace(node.name), plan_of(node, holders)
        links = self.links[node.name]
        netns.inside(namespace, lambda: finished(links.open_ways(plan)))
        self._write(namespace, ruleset_of(node, holders))
        outcome = netns.inside(namespace, lambda: finished(links.apply(plan, node.addresses)))
        assert outcome.problems == ()
        for held in outcome.gained:
            netns.inside(namespace, functools.partial(links.announce, held))

    def seen(self, name: str) -> dict[str, set[str | None]]:
        """Return the sources that the outside host sees of a name's Pod on each node; None for an unanswered probe."""
        probes = {
            Probe(self.topology.pod_namespace(*pod.key), address, protocol, port): pod.node
            for pod in PODS
            if pod.name.startswith(name)
            for address in OUTSIDE.addresses
            for protocol, port in PROTOCOLS
        }
        views: dict[str, set[str | None]] = {node.name: set() for node in NODES}
        for probe, outcome in run_probes(self.servers, probes).items():
            views[probes[probe]].add(outcome.seen_from if outcome.reached else None)
        return views

    def _write(self, namespace: str, text: str) -> None:
        argv = self.topology.command(namespace, ["nft", "-f", "-"])
        subprocess.run(argv, input=text, text=True, check=True)


@pytest.fixture
def lab() -> Iterator[GatewayLab]:
    with NetnsTopology(NODES, PODS, (OUTSIDE,), tag="t") as topology, Listeners() as servers:
        made = GatewayLab(topology, servers)
        made.listen()
        yield made


def test_the_outside_sees_the_floating_addresses_from_pods_of_every_node(lab: GatewayLab) -> None:
    lab.hold(NODES[0], NODES[1])
    assert lab.seen("first") == {node.name: set(FIRST) for node in NODES}
    assert lab.seen("second") == {node.name: set(SECOND) for node in NODES}


def test_an_address_moves_and_connections_of_the_other_lose_nothing(lab: GatewayLab) -> None:
    lab.hold(NODES[0], NODES[1])
    kept = [
        Probe(lab.topology.pod_namespace(*pod.key), address, protocol, port)
        for pod in PODS
        if pod.name.startswith("second")
        for address in OUTSIDE.addresses
        for protocol, port in PROTOCOLS
    ]
    with ContinuousProbe(lab.servers, dict.fromkeys(kept, True)) as others:
        for first in (NODES[2], NODES[0]):
            lab.hold(first, NODES[1])
            assert lab.seen("first") == {node.name: set(FIRST) for node in NODES}
            others.wait_for(1)
    assert others.wrong == []
    assert lab.seen("second") == {node.name: set(SECOND) for node in NODES}


def test_the_addresses_of_a_node_that_is_gone_move_at_once(lab: GatewayLab) -> None:
    """The host outside has a neighbour entry with the MAC address of the node that is gone, and n3 one of the host."""
    for first in (NODES[2], NODES[0]):
        lab.hold(first, NODES[1])
        assert lab.seen("first")["n2"] == set(FIRST)
    netns.ip_batch(["link set eth0 down"], lab.topology.node_namespace("n1"))
    lab.hold(NODES[2], NODES[1], NODES[1:])
    views = lab.seen("first")
    assert (views["n2"], views["n3"]) == (set(FIRST), set(FIRST))


def test_packets_that_no_holder_translates_do_not_leave_under_another_address(lab: GatewayLab) -> None:
    lab.hold(NODES[0], NODES[1])
    namespace, links = lab.topology.node_namespace("n3"), lab.links["n3"]
    whole = plan_of(NODES[2], {FIRST: NODES[0], SECOND: NODES[1]})
    second = GatewayPlan((), tuple(route for route in whole.routes if route.number == 2))
    netns.inside(namespace, lambda: finished(links.apply(second, NODES[2].addresses)))
    assert lab.seen("first")["n3"] == {None}
    assert lab.seen("second")["n3"] == set(SECOND)


def test_the_rules_of_agents_let_the_packets_of_gateways_pass(tmp_path: Path) -> None:
    """The destinations are kept from masquerade, as those of a gateway are on the Pod's node."""
    keep = {
        "apiVersion": "networking.gke.io/v1",
        "kind": "EgressNATPolicy",
        "metadata": {"name": "partners"},
        "spec": {"action": "NoSNAT", "destinations": [{"cidr": PARTNER + "/32"}, {"cidr": PARTNER_V6 + "/128"}]},
    }
    documents = [namespace_document("pay"), *map(pod_document, PODS), keep]
    with running_lab(tmp_path, NODES, PODS, (OUTSIDE,), documents=documents) as running:
        lab = GatewayLab(running.topology, running.servers)
        lab.listen()
        lab.hold(NODES[0], NODES[1])
        assert lab.seen("first") == {node.name: set(FIRST) for node in NODES}
        assert lab.seen("second") == {node.name: set(SECOND) for node in NODES}
