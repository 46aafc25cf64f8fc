"""Packets that another table exempts from conntrack meet policies by their own addresses and ports (edge case 33)."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from nfagent.lab.probes.listeners import Endpoint, ProbeProtocol
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology import netns
from nfagent.model.netaddr import FAMILIES, Family
from tests.support.conntrack_table import count, forget
from tests.support.edge_case_lab import OF_Y, A, blocks, edge_case_lab
from tests.support.packet_labs import Document, ManifestLab, policy_document
from tests.support.raw_sockets import heard, udp_socket

pytestmark = [pytest.mark.kernel, pytest.mark.both_backends(asked=True)]

DNS: dict[Family, str] = {4: "169.254.20.10", 6: "fd00:ffff::10"}
BESIDE: dict[Family, str] = {4: "169.254.20.11", 6: "fd00:ffff::11"}
"""Another address of the node, exempted as well."""

QUERIES: tuple[ProbeProtocol, ProbeProtocol] = ("udp", "tcp")
PORT_53: list[Document] = [{"protocol": protocol.upper(), "port": 53} for protocol in QUERIES]
EXEMPT = """
table inet exempt {
    chain arriving { type filter hook prerouting priority PRIORITY; jump untracked; }
    chain sent { type filter hook output priority PRIORITY; jump untracked; }
    chain untracked {
        %s
    }
}
"""


@pytest.fixture(scope="module", params=["routed", "bridge"])
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backend: str
) -> Iterator[ManifestLab]:
    with edge_case_lab(tmp_path_factory.mktemp("lab"), request.param, backend=backend) as running:
        node = running.topology.node_namespace("n1")
        own = [*DNS.values(), *BESIDE.values()]
        netns.ip_batch([f"address add {address}/{128 if ':' in address else 32} dev lo nodad" for address in own], node)
        ports = [(protocol, port) for protocol in QUERIES for port in (53, 54)]
        running.servers.listen(Endpoint(node, address, *port) for address in own for port in ports)
        for pod in ("x/a", "y/near", "y/far"):
            addresses = [running.address(pod, family) for family in FAMILIES]
            running.servers.listen(
                Endpoint(running.pod(pod), address, *port) for address in addresses for port in ports
            )
        yield running


@pytest.fixture
def policies(lab: ManifestLab) -> Iterator[ManifestLab]:
    """Delete a test's policies after it."""
    yield lab
    lab.only_cluster()


@contextlib.contextmanager
def exempted(lab: ManifestLab, *addresses: str, priority: int = -300) -> Iterator[None]:
    """Exempt packets from and to these addresses from conntrack on n1."""
    node = lab.topology.node_namespace("n1")
    words = [("ip6" if ":" in address else "ip", address) for address in addresses]
    rules = [f"{ip} {side} {address} notrack" for ip, address in words for side in ("saddr", "daddr")]
    command = lab.topology.command(node, ["nft", "-f", "-"])
    table = EXEMPT.replace("PRIORITY", str(priority)) % "\n        ".join(rules)
    subprocess.run(command, input=table, text=True, check=True, timeout=30)
    forget(node)
    try:
        yield
        assert count(node) == 0, "the packets of this test were tracked"
    finally:
        subprocess.run(lab.topology.command(node, ["nft", "delete", "table", "inet", "exempt"]), check=True, timeout=30)


def probes(lab: ManifestLab, source: str, destination: str, port: int) -> list[Probe]:
    return [Probe(lab.pod(source), destination, protocol, port) for protocol in QUERIES]


@pytest.mark.parametrize("family", FAMILIES)
def test_33_untracked_dns_to_a_node_local_address_passes_by_an_ipblock_and_port_53_and_nothing_beside_it(
    policies: ManifestLab, family: Family
) -> None:
    lab = policies
    with exempted(lab, DNS[family], BESIDE[family]):
        egress = [{"to": blocks(DNS[family]), "ports": PORT_53}]
        lab.apply(
            "policy", policy_document("x", "dns", podSelector=A, policyTypes=["Ingress", "Egress"], egress=egress)
        )
        expected = dict.fromkeys(probes(lab, "x/a", DNS[family], 53), True)
        expected |= dict.fromkeys(probes(lab, "x/a", DNS[family], 54), False)
        expected |= dict.fromkeys(probes(lab, "x/a", BESIDE[family], 53), False)
        expected |= dict.fromkeys(probes(lab, "y/near", BESIDE[family], 54), True)
        assert lab.wrong(expected) == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("other", ["y/near", "y/far"], ids=["one node", "two nodes"])
def test_33_forwarded_untracked_packets_meet_policies_by_their_own_addresses_and_ports(
    policies: ManifestLab, other: str, family: Family
) -> None:
    lab = policies
    here, there = lab.address("x/a", family), lab.address(other, family)
    with exempted(lab, here):
        rule = {"podSelector": {"matchLabels": {"pod": other.partition("/")[2]}}} | OF_Y
        for direction, kind, word in (("egress", "Egress", "to"), ("ingress", "Ingress", "from")):
            spec = {direction: [{word: [rule], "ports": PORT_53}]}
            lab.apply("policy", policy_document("x", "p", podSelector=A, policyTypes=[kind], **spec))
            source, destination = ("x/a", there) if direction == "egress" else (other, here)
            wrong = ("x/a", DNS[family]) if direction == "egress" else ("y/near" if other == "y/far" else "y/far", here)
            expected = dict.fromkeys(probes(lab, source, destination, 53), True)
            expected |= dict.fromkeys(probes(lab, source, destination, 54), False)
            expected |= dict.fromkeys(probes(lab, *wrong, 53), False)
            assert lab.wrong(expected) == [], direction


def guard(direction: str, action: str, port: int, **peers: object) -> Document:
    """Return a tier policy for x's Pods with both protocols at a port."""
    ports = [{"portNumber": {"protocol": protocol.upper(), "port": port}} for protocol in QUERIES]
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": "guard"},
        "spec": {
            "priority": 1,
            "subject": {"namespaces": {"matchLabels": {"ns": "x"}}},
            direction: [{"action": action, "ports": ports, **peers}],
        },
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_33_a_tier_denies_an_untracked_packet_by_its_own_address_and_port(
    policies: ManifestLab, family: Family
) -> None:
    lab = policies
    networks = {"networks": [f"{DNS[family]}/{128 if family == 6 else 32}"]}
    lab.apply("policy", guard("egress", "Deny", 53, to=[networks]))
    with exempted(lab, DNS[family], BESIDE[family]):
        expected = dict.fromkeys(probes(lab, "x/a", DNS[family], 53), False)
        expected |= dict.fromkeys(probes(lab, "x/a", DNS[family], 54), True)
        expected |= dict.fromkeys(probes(lab, "x/a", BESIDE[family], 53), True)
        assert lab.wrong(expected) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_35_untracked_fragments_pass_but_where_a_tier_denies_a_port_that_a_fragment_may_lack(
    policies: ManifestLab, family: Family
) -> None:
    """Exempted before they are reassembled."""
    lab = policies
    here, large = lab.address("x/a", family), bytes(4000)
    with (
        exempted(lab, here, priority=-450),
        udp_socket(lab.pod("x/a"), here, 5300) as server,
        udp_socket(lab.pod("y/far"), lab.address("y/far", family)) as client,
    ):
        client.sendto(large, server.getsockname())
        assert server.recv(5000) == large
        lab.apply("policy", guard("ingress", "Deny", 53, **{"from": [{"namespaces": {}}]}))
        client.sendto(large, server.getsockname())
        client.sendto(b"small", server.getsockname())
        assert server.recv(5000) == b"small"
        assert heard(server) == []
