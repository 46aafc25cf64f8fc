"""The output hook of a node: packets from its own addresses pass, those from other addresses meet policies.

kube-proxy in IPVS mode forwards this way: with the client's address, through the output hook.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from nfagent.lab.topology import netns
from nfagent.model.netaddr import FAMILIES, Family
from tests.support.edge_case_lab import (
    OF_Y,
    OPEN_PORT,
    TRANSLATED,
    UDP_OPEN,
    A,
    address_at,
    blocks,
    edge_case_lab,
    restrict,
)
from tests.support.packet_labs import Document, ManifestLab, policy_document
from tests.support.raw_sockets import heard, udp_socket

pytestmark = pytest.mark.kernel

PORTS = itertools.count(20_000)
"""Each datagram is a connection of its own."""

NEAR: Document = {"matchLabels": {"pod": "near"}}
CLOSED: Document = {}
FROM_Y: Document = {"ingress": [{"from": [OF_Y], "ports": [UDP_OPEN]}]}


@pytest.fixture(scope="module", params=["routed", "bridge"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    with edge_case_lab(tmp_path_factory.mktemp("lab"), request.param) as lab:
        lines = [f"address add {address} dev lo nodad" for address in ("198.18.7.1/32", "2001:db8:777::1/128")]
        netns.ip_batch(lines, lab.topology.node_namespace("n1"))
        yield lab


@pytest.fixture
def lab(running: ManifestLab) -> Iterator[ManifestLab]:
    """Delete a test's policies after it."""
    yield running
    running.only_cluster()


def passing(lab: ManifestLab, sources: list[str], destination: str = "x/a", port: int = OPEN_PORT) -> list[str]:
    """Send a datagram from n1 to a Pod from each of these addresses, the node's own last; name those that came."""
    family: Family = 6 if ":" in sources[0] else 4
    node, own = lab.topology.node_namespace("n1"), address_at(lab, "n1", family)
    with ExitStack() as stack:
        server = stack.enter_context(udp_socket(lab.pod(destination), lab.address(destination, family), port))
        for source in (*sources, own):
            sender = stack.enter_context(udp_socket(node, source, next(PORTS), spoofed=True))
            with suppress(PermissionError):  # so the kernel tells a sender of its own what it drops here
                sender.sendto(source.encode(), server.getsockname())
        found = [server.recv(100)]
        while found[-1] != own.encode():
            found.append(server.recv(100))
        found += heard(server)
    return [content.decode() for content in found if content != own.encode()]


def told(lab: ManifestLab, command: str) -> str:
    """Run a command on n1."""
    argv = lab.topology.command(lab.topology.node_namespace("n1"), command.split())
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("other", ["y/near", "y/far"], ids=["a Pod of this node", "another node's Pod"])
@pytest.mark.parametrize(
    ("spec", "port", "passes"),
    [
        pytest.param(CLOSED, OPEN_PORT, False, id="isolated"),
        pytest.param(FROM_Y, OPEN_PORT, True, id="that it may reach"),
        pytest.param(FROM_Y, OPEN_PORT + 1, False, id="at a port that it may not reach"),
    ],
)
def test_output_packets_with_a_pods_source_meet_ingress_policies_at_a_pod(  # noqa: PLR0917 - a table
    lab: ManifestLab,
    spec: Document,
    port: int,
    passes: bool,  # noqa: FBT001 - a table's column
    other: str,
    family: Family,
) -> None:
    restrict(lab, **spec)
    source = lab.address(other, family)
    assert passing(lab, [source], port=port) == ([source] if passes else [])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("allowed", [False, True], ids=["that may not connect to it", "that may connect to it"])
def test_output_packets_with_a_local_pods_source_meet_its_egress_policies(
    lab: ManifestLab,
    allowed: bool,  # noqa: FBT001 - a table's column
    family: Family,
) -> None:
    rules = {"egress": [{"to": [{"podSelector": A, "namespaceSelector": {}}]}]} if allowed else {}
    lab.apply("near", policy_document("y", "near", podSelector=NEAR, policyTypes=["Egress"], **rules))
    source = lab.address("y/near", family)
    assert passing(lab, [source]) == ([source] if allowed else [])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("allowed", [False, True], ids=["that is isolated", "whose policy has an ipBlock for it"])
def test_output_packets_with_an_outside_clients_source_meet_ingress_policies_at(
    lab: ManifestLab,
    allowed: bool,  # noqa: FBT001 - a table's column
    family: Family,
) -> None:
    client = TRANSLATED[family]
    restrict(lab, **({"ingress": [{"from": blocks(client)}]} if allowed else {}))
    assert passing(lab, [client]) == ([client] if allowed else [])


@pytest.mark.parametrize("family", FAMILIES)
def test_39_the_node_reaches_an_isolated_pod_from_every_own_address(lab: ManifestLab, family: Family) -> None:
    lab.apply("all", policy_document("x", "all", podSelector={}, policyTypes=["Ingress", "Egress"]))
    lines = told(lab, f"ip -o -{family} address show scope global").splitlines()
    own = [line.split()[3].partition("/")[0] for line in lines]
    assert len(own) > 1
    assert passing(lab, own) == [address for address in own if address != address_at(lab, "n1", family)]


def test_39_so_it_does_from_its_link_local_address(lab: ManifestLab) -> None:
    lab.apply("all", policy_document("x", "all", podSelector={}, policyTypes=["Ingress", "Egress"]))
    there = lab.address("x/a", 6)
    device = told(lab, f"ip -o -6 route get {there}").partition(" dev ")[2].split()[0]
    own = told(lab, f"ip -o -6 address show dev {device} scope link").split()[3].partition("/")[0]
    with udp_socket(lab.pod("x/a"), there, OPEN_PORT) as server:

        def send() -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                sender.bind((own, 0, 0, socket.if_nametoindex(device)))
                sender.sendto(b"from the link", server.getsockname())

        netns.inside(lab.topology.node_namespace("n1"), send)
        assert server.recv(100) == b"from the link"
