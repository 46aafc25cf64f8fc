"""The lab of the edge cases that only packets show: policies select x/a; y/near is on its node n1, y/far on n2.

Connections of Pods to two addresses of the host `outside` are masqueraded, to the third they aren't.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from nfagent.lab.cluster.agents import AgentKind
from nfagent.lab.topology.plan import Attachment, OutsideHost, PodPlan, grid
from nfagent.model.netaddr import Family, family_of
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
)
from tests.support.raw_sockets import Arrival, Capture, bearing, marker, udp_socket

PODS = tuple(
    PodPlan(namespace, name, f"n{node}", (f"10.244.{node}.{last}", f"2001:db8:244:{node}::{last}"))
    for namespace, name, node, last in (("x", "a", 1, 10), ("y", "near", 1, 11), ("y", "far", 2, 11))
)
OTHERS = ("y/near", "y/far")
PLACES = ("one node", "two nodes")
"""Test ids for OTHERS."""

TRANSLATED: dict[Family, str] = {4: "198.51.100.10", 6: "2001:db8:99::10"}
UNTRANSLATED = "10.200.0.10"
OUTSIDE = OutsideHost("outside", (*TRANSLATED.values(), UNTRANSLATED))

OPEN_PORT, DENIED_PORT, MARKER_PORT = 8080, 8081, 9
TCP_OPEN = {"protocol": "TCP", "port": OPEN_PORT}
UDP_OPEN = {"protocol": "UDP", "port": OPEN_PORT}
UDP_MARKER = {"protocol": "UDP", "port": MARKER_PORT}
A = {"matchLabels": {"pod": "a"}}
OF_Y = {"namespaceSelector": {"matchLabels": {"ns": "y"}}}


@contextlib.contextmanager
def edge_case_lab(
    folder: Path, attachment: Attachment, kind: AgentKind = "nfagent", *, backend: str | None = None
) -> Iterator[ManifestLab]:
    """Build the lab, without a policy. kind, backend: as in `running_lab`."""
    nodes, _, _ = grid(attachment)
    documents = [*(namespace_document(name) for name in "xy"), *map(pod_document, PODS)]
    with running_lab(folder, nodes, PODS, [OUTSIDE], documents, kind=kind, backend=backend) as running:
        yield running


def restrict(lab: ManifestLab, **spec: object) -> None:
    """Isolate x/a in both directions, with these rules."""
    lab.apply("policy", policy_document("x", "only", podSelector=A, policyTypes=["Ingress", "Egress"], **spec))


def only_rule(direction: str, rule: Document) -> dict[str, object]:
    """Return the only rule of one direction for `restrict`, with y's Pods as peers."""
    return {direction: [{"from" if direction == "ingress" else "to": [OF_Y]} | rule]}


def blocks(*addresses: str) -> list[Document]:
    return [{"ipBlock": {"cidr": f"{address}/{128 if ':' in address else 32}"}} for address in addresses]


def denied_packets(lab: ManifestLab) -> int:
    """Return the number of packets that the policies on n1 have denied so far."""
    counters = lab.cluster.agent("n1").ask("/v1/dump/counters")["counters"]
    return sum(int(row["packets"]) for row in counters if row["verdict"] == "deny")


def name_of(lab: ManifestLab, place: str) -> str:
    """Return the network namespace of a Pod, of `n1`, or of `outside`."""
    if place == "outside":
        return lab.topology.outside_namespace(place)
    return lab.pod(place) if "/" in place else lab.topology.node_namespace(place)


def address_at(lab: ManifestLab, place: str, family: Family) -> str:
    """Return an address of such a place; for `outside`, one with masquerade."""
    if place == "outside":
        return TRANSLATED[family]
    if "/" in place:
        return lab.address(place, family)
    return next(address for address in lab.topology.nodes[place].addresses if family_of(address) == family)


def arrived(lab: ManifestLab, capture: Capture, source: str, destination: str) -> list[Arrival]:
    """Return the captured packets before a marker datagram that a Pod sends there now."""
    last = marker()
    with udp_socket(lab.pod(source), lab.address(source, family_of(destination))) as sock:
        sock.sendto(last, (destination, MARKER_PORT))
    return capture.until(bearing(last))[:-1]
