"""Labs for floating addresses: a group for each node, whose addresses that node holds while all nodes are Ready.

Nodes, and the host outside, are those of the labs for egress NAT. On every node is a Pod for each group, which the
group's EgressNATPolicy selects by the label `gateway`, and one that no policy selects, `plain`.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nfagent.egress.rendezvous import winner
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, OutsideHost, PodPlan
from nfagent.model.netaddr import family_of
from tests.support.egress_labs import (
    FAR,
    FAR_V6,
    NODES,
    PARTNER,
    PARTNER_V6,
    PROTOCOLS,
    WIDE,
    gateway_group,
    nat_policy,
)
from tests.support.packet_labs import (
    Document,
    ProbedLab,
    namespace_document,
    node_document,
    pod_document,
    wait_until,
)

OUTSIDE = OutsideHost("outside", (PARTNER, PARTNER_V6, FAR, FAR_V6))
GROUPS = tuple(node.name for node in NODES)
PLAIN = "plain"
_CANDIDATES = ("192.0.2.100", "2001:db8:ffff::100")


def addresses_won_by(node: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the first IPv4 and IPv6 address of the nodes' network that a node holds while these are Ready."""
    found = []
    for first in map(ipaddress.ip_address, _CANDIDATES):
        tried = (str(first + step) for step in range(100))
        found.append(next(address for address in tried if winner(address, names) == node))
    return found[0], found[1]


FLOATING = {node: addresses_won_by(node, GROUPS) for node in GROUPS}
"""By group, which has the name of the node that holds them: an IPv4 and an IPv6 address."""


def pods_of(nodes: Sequence[NodePlan], names: Iterable[str] = (*GROUPS, PLAIN)) -> tuple[PodPlan, ...]:
    """Return a Pod of each name on every node."""
    return tuple(
        PodPlan("pay", f"{name}-on-{node.name}", node.name, tuple(_nth(cidr, last) for cidr in node.pod_cidrs))
        for node in nodes
        for last, name in enumerate(names, 0x10)
    )


def _nth(cidr: str, last: int) -> str:
    return str(ipaddress.ip_network(cidr)[last])


PODS = pods_of(NODES)


def labels_of(pod: PodPlan) -> dict[str, str]:
    """Return a Pod's labels."""
    return {"gateway": pod.name.partition("-on-")[0]}


def via(group: str, destinations: Iterable[str] = WIDE) -> Document:
    """Return the policy that sends the Pods of a group through it."""
    selected = {"podSelector": {"matchLabels": {"gateway": group}}}
    return nat_policy(f"via-{group}", "SNAT", destinations, selected, gateway=f"kube-system/{group}")


def group_document(group: str, nodes: dict[str, str] | None = None) -> Document:
    """Return a group with its addresses."""
    return gateway_group(f"kube-system/{group}", FLOATING[group], nodes)


def node_objects(nodes: Iterable[NodePlan], not_ready: Iterable[str] = ()) -> list[Document]:
    """Return Nodes with the condition Ready, and their names as label `node`."""
    found = []
    for node in nodes:
        document = node_document(node)
        document["metadata"]["labels"] = {"node": node.name}
        status = "False" if node.name in not_ready else "True"
        document["status"]["conditions"] = [{"type": "Ready", "status": status}]
        found.append(document)
    return found


def world(nodes: Iterable[NodePlan] = NODES, pods: Iterable[PodPlan] = PODS) -> list[Document]:
    """Return what the policies refer to: Nodes, Namespaces, Pods."""
    return [
        *node_objects(nodes),
        *map(namespace_document, ("pay", "kube-system")),
        *(pod_document(pod, labels_of(pod)) for pod in pods),
    ]


def gateways(groups: Iterable[str] = GROUPS) -> list[Document]:
    """Return the groups and their policies."""
    return [document for group in groups for document in (group_document(group), via(group))]


def pod_on(node: str, name: str, pods: Iterable[PodPlan] = PODS) -> PodPlan:
    """Return the Pod of a group, or `plain`, on a node."""
    return next(pod for pod in pods if pod.node == node and labels_of(pod) == {"gateway": name})


def views(
    lab: ProbedLab[Any], pods: Iterable[PodPlan], addresses: Iterable[str] = (PARTNER, PARTNER_V6)
) -> dict[str, set[str]]:
    """Return the sources that the outside host sees of each Pod, by all PROTOCOLS; 'nothing' without an answer."""
    probes = {
        Probe(lab.topology.pod_namespace(*pod.key), address, protocol, port): pod.name
        for pod in pods
        for address in addresses
        for protocol, port in PROTOCOLS
    }
    found: dict[str, set[str]] = {name: set() for name in probes.values()}
    for probe, outcome in lab.ask(probes).items():
        source = outcome.seen_from or "" if outcome.reached else "nothing"
        found[probes[probe]].add(source)
    return found


def await_views(
    lab: ProbedLab[Any],
    wanted: Mapping[str, set[str]],
    pods: Iterable[PodPlan],
    addresses: Sequence[str] = (PARTNER, PARTNER_V6),
) -> None:
    """Wait until the outside host sees Pods, by name, under these sources.

    A holder has its address a moment before it announces it; neighbours send to the holder before meanwhile. Without
    that they would find it after 23 seconds or more: base_reachable_time / 2, and the probes of the entry.
    """
    asked = tuple(pods)
    wait_until(lambda: views(lab, asked, addresses) == wanted, 20.0)


def held_on(topology: NetnsTopology, addresses: Iterable[str]) -> dict[str, set[str]]:
    """Return the names of the nodes that have each address on an interface."""
    found: dict[str, set[str]] = {address: set() for address in addresses}
    for node in topology.nodes:
        command = topology.command(topology.node_namespace(node), ["ip", "-json", "address"])
        listed = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=20).stdout)
        for entry in (entry for link in listed for entry in link.get("addr_info", [])):
            if entry.get("local") in found:
                found[entry["local"]].add(node)
    return found


def dropped(lab: ProbedLab[Any], node: str, counter: str) -> int:
    """Return the packets of a counter of dropped packets of a node, such as `not-holder`."""
    listed = json.loads(lab.cluster.agent(node).nft("-j", "list", "counters", "table", "inet", "nfagent"))
    return sum(
        int(item["counter"]["packets"])
        for item in listed["nftables"]
        if item.get("counter", {}).get("name") == f"drop/{counter}"
    )


def expected_holders(ready: Iterable[str], groups: Mapping[str, Iterable[str]] = FLOATING) -> dict[str, set[str]]:
    """Return the node of each address while these nodes are Ready."""
    elect = functools.partial(winner, names=tuple(ready))
    return {address: {elect(address)} for addresses in groups.values() for address in addresses}


def floating_of(pod: PodPlan, addresses: Iterable[str]) -> set[str]:
    """Return the addresses that a Pod uses out of those of one group: one of each family."""
    usable = tuple(addresses)
    return {
        winner(own, [address for address in usable if family_of(address) == family_of(own)]) for own in pod.addresses
    }
