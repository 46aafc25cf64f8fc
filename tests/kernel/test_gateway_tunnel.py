"""Floating addresses whose holders are behind a router, with packets and agents: a tunnel leads to them."""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from typing import Self

import pytest

from nfagent.egress.tunnel import TUNNEL_LINK, TUNNEL_PORT
from nfagent.lab.cluster.agents import LabCluster
from nfagent.lab.probes.listeners import Listeners
from nfagent.lab.probes.raw_packets import internet_checksum
from nfagent.lab.topology import netns
from nfagent.lab.topology.ip_commands import UPLINK
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import LINK_MTU, NodePlan, OutsideHost
from nfagent.model.netaddr import family_of
from tests.support.egress_labs import NODES, PARTNER, PARTNER_V6, listen_outside
from tests.support.gateway_labs import (
    FLOATING,
    GROUPS,
    OUTSIDE,
    PODS,
    await_views,
    dropped,
    expected_holders,
    gateways,
    held_on,
    labels_of,
    pod_on,
    views,
    world,
)
from tests.support.packet_labs import ManifestLab, as_text, wait_until

pytestmark = pytest.mark.kernel

ROUTER = OutsideHost("router", ("192.0.2.254", "2001:db8:ffff::254"))
SELECTED = tuple(pod for pod in PODS if labels_of(pod)["gateway"] in GROUPS)
OF_GROUPS = {pod.name: set(FLOATING[labels_of(pod)["gateway"]]) for pod in SELECTED}
ALL = tuple(address for pair in FLOATING.values() for address in pair)


def put_behind_a_router(topology: NetnsTopology, node: NodePlan) -> None:
    """Route packets to the other nodes, but not to their Pods, by the router."""
    hops = {family_of(address): address for address in ROUTER.addresses}
    others = [address for other in NODES if other is not node for address in other.addresses]
    netns.ip_batch(
        [f"route add {address} via {hops[family_of(address)]} dev {UPLINK} onlink" for address in others],
        topology.node_namespace(node.name),
    )


def make_router(topology: NetnsTopology) -> None:
    name = topology.outside_namespace(ROUTER.name)
    forwards = {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}
    netns.write_sysctls(name, forwards | {f"ipv4/conf/{link}/send_redirects": "0" for link in ("all", UPLINK)})
    count = (
        f"table inet count {{ chain c {{ type filter hook forward priority 0; udp dport {TUNNEL_PORT} counter; }}; }}"
    )
    subprocess.run(topology.command(name, ["nft", "-f", "-"]), input=count, text=True, check=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    folder = tmp_path_factory.mktemp("lab")
    manifests = folder / "manifests"
    manifests.mkdir()
    (manifests / "cluster.yaml").write_text(as_text(world()), encoding="utf-8")
    with NetnsTopology(NODES, PODS, (OUTSIDE, ROUTER), tag="t") as topology, Listeners() as servers:
        make_router(topology)
        for node in NODES:
            put_behind_a_router(topology, node)
        listen_outside(topology, servers, OUTSIDE)
        with LabCluster(topology, manifests, folder / "agents") as cluster:
            made = ManifestLab(topology, servers, cluster)
            made.apply("gateways", *gateways())
            wanted = expected_holders(GROUPS)
            wait_until(lambda: held_on(topology, wanted) == wanted and not problems(made))
            yield made


def problems(lab: ManifestLab) -> list[str]:
    """Return the problems with gateways of all agents."""
    states = (agent.ask("/v1/dump/state")["agent"] for agent in lab.cluster.agents.values())
    return [problem for state in states for problem in state["gateways"]["problems"]]


def tunnelled(lab: ManifestLab) -> int:
    """Return the packets of tunnels that the router has forwarded."""
    name = lab.topology.outside_namespace(ROUTER.name)
    command = lab.topology.command(name, ["nft", "-j", "list", "table", "inet", "count"])
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["nftables"]
    rule = next(item["rule"] for item in listed if "rule" in item)
    return sum(int(part["counter"]["packets"]) for part in rule["expr"] if "counter" in part)


def test_the_outside_sees_the_floating_addresses_from_pods_behind_a_router(lab: ManifestLab) -> None:
    assert problems(lab) == []
    before = tunnelled(lab)
    await_views(lab, OF_GROUPS, SELECTED)
    assert tunnelled(lab) > before


def reverse_path_filter(lab: ManifestLab, node: str, value: str, links: tuple[str, ...]) -> None:
    values = {f"ipv4/conf/{link}/rp_filter": value for link in links}
    netns.write_sysctls(lab.topology.node_namespace(node), values)


def test_a_loose_reverse_path_filter_lets_the_packets_pass(lab: ManifestLab) -> None:
    for node in GROUPS:
        reverse_path_filter(lab, node, "2", ("all", UPLINK, TUNNEL_LINK))
    try:
        await_views(lab, OF_GROUPS, SELECTED)
    finally:
        for node in GROUPS:
            reverse_path_filter(lab, node, "0", ("all", UPLINK, TUNNEL_LINK))


def test_a_strict_one_drops_them_and_is_told(lab: ManifestLab) -> None:
    pod = pod_on("n1", "n2")
    reverse_path_filter(lab, "n2", "1", (TUNNEL_LINK,))
    try:
        assert views(lab, [pod], [PARTNER]) == {pod.name: {"nothing"}}
        wait_until(lambda: bool(problems(lab)), 60)  # compared every ten seconds
        (problem,) = problems(lab)
        assert f"net/ipv4/conf/{TUNNEL_LINK}/rp_filter = 2" in problem
    finally:
        reverse_path_filter(lab, "n2", "0", (TUNNEL_LINK,))
    await_views(lab, {pod.name: {FLOATING["n2"][0]}}, [pod], [PARTNER])


class Sender:
    """A UDP socket in a Pod of node n1 whose packets leave by node n2, and one of the host outside."""

    def __init__(self, lab: ManifestLab, family: int) -> None:
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        self.floating, address = FLOATING["n2"][family == 6], PARTNER if family == 4 else PARTNER_V6
        self._outside = self._opened(lab.topology.outside_namespace(OUTSIDE.name), kind)
        self._outside.bind((address, 0))
        self.socket = self._opened(lab.topology.pod_namespace(*pod_on("n1", "n2").key), kind)
        self.socket.connect((address, self._outside.getsockname()[1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._outside.close()
        self.socket.close()

    def arrives(self, size: int, seconds: float = 30.0) -> bool:
        """Send bytes once; return whether they arrive whole, from the floating address, within so many seconds."""
        self._outside.settimeout(seconds)
        self.socket.send(bytes(size))
        try:
            came, source = self._outside.recvfrom(65536)
        except TimeoutError:
            return False
        return len(came) == size and source[0] == self.floating

    @staticmethod
    def _opened(name: str, kind: socket.AddressFamily) -> socket.socket:
        return netns.inside(name, lambda: socket.socket(kind, socket.SOCK_DGRAM))


IP_MTU_DISCOVER, IP_MTU, IPV6_MTU_DISCOVER, IPV6_MTU = 10, 14, 23, 24  # linux/in.h, linux/in6.h
DONT, DO = 0, 2  # IP_PMTUDISC_*
FIT = {4: LINK_MTU - 36, 6: LINK_MTU - 56}
"""Bytes of the largest packet that the tunnel takes whole."""
HEADERS = {4: 28, 6: 48}


@pytest.mark.parametrize("family", [4, 6])
def test_packets_that_fit_into_the_tunnel_pass_and_a_sender_learns_the_largest_size(
    lab: ManifestLab, family: int
) -> None:
    level, discover, mtu = (
        (socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_MTU)
        if family == 4
        else (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_MTU)
    )
    with Sender(lab, family) as sender:
        sender.socket.setsockopt(level, discover, DO)
        assert sender.arrives(1400 - HEADERS[family])
        assert sender.arrives(FIT[family] - HEADERS[family])
        assert not sender.arrives(FIT[family] - HEADERS[family] + 1, 0.3)
        with pytest.raises(OSError, match="Message too long"):
            sender.socket.send(bytes(FIT[family] - HEADERS[family] + 1))
        assert sender.socket.getsockopt(level, mtu) == FIT[family]
        sender.socket.setsockopt(level, discover, DONT)
        assert sender.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EMSGSIZE, "by ICMP"
        assert sender.arrives(LINK_MTU - HEADERS[family]), "in fragments"
        assert sender.arrives(4000), "in fragments"


@pytest.mark.parametrize("family", [4, 6])
def test_a_stream_of_tcp_passes_the_tunnel(lab: ManifestLab, family: int) -> None:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    outside, pod = lab.topology.outside_namespace(OUTSIDE.name), lab.topology.pod_namespace(*pod_on("n1", "n2").key)
    with netns.inside(outside, lambda: socket.socket(kind, socket.SOCK_STREAM)) as server:
        server.bind((PARTNER if family == 4 else PARTNER_V6, 0))
        server.listen()
        with netns.inside(pod, lambda: socket.socket(kind, socket.SOCK_STREAM)) as client:
            client.settimeout(30)
            client.connect(server.getsockname()[:2])
            accepted, source = server.accept()
            with accepted:
                accepted.settimeout(30)
                assert source[0] == FLOATING["n2"][family == 6]
                sending = threading.Thread(target=client.sendall, args=(bytes(1_000_000),))
                sending.start()
                left = 1_000_000
                while left:
                    left -= len(accepted.recv(65536))
                sending.join()
                accepted.sendall(b"answer")
                assert client.recv(64) == b"answer"


@pytest.mark.parametrize("family", [4, 6])
def test_what_others_send_to_the_tunnel_is_dropped_and_counted(lab: ManifestLab, family: int) -> None:
    """The packet inside is of a Pod that the node would translate; a Node's own, for comparison, arrives."""
    pod, partner = pod_on("n1", "n2"), (PARTNER, PARTNER_V6)[family == 6]
    source = next(address for address in pod.addresses if family_of(address) == family)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    outside = lab.topology.outside_namespace(OUTSIDE.name)
    with netns.inside(outside, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as server:
        server.bind((partner, 0))
        server.settimeout(0.5)
        inner = udp_packet(source, partner, server.getsockname()[1], b"forged")
        # RFC draft-ietf-nvo3-vxlan-gpe: flags with instance and next protocol, IPv4 (1) or IPv6 (2)
        carried = bytes([0x0C, 0, 0, 1 if family == 4 else 2, 0, 0, 0, 0]) + inner
        before = dropped(lab, "n2", "tunnel")
        for sender in (outside, lab.topology.outside_namespace(ROUTER.name)):
            send_to_tunnel(sender, family, carried)
        with pytest.raises(TimeoutError):
            server.recv(64)
        assert dropped(lab, "n2", "tunnel") == before + 2
        server.settimeout(30)
        send_to_tunnel(lab.topology.node_namespace("n1"), family, carried)
        came, floating = server.recvfrom(64)
        assert (came, floating[0]) == (b"forged", FLOATING["n2"][family == 6])


def udp_packet(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """Return a UDP packet with its IP header."""
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    head = struct.pack("!HHHH", 40000, port, 8 + len(payload), 0)
    pseudo = ends + struct.pack("!II", len(head) + len(payload), 17)
    body = head[:6] + internet_checksum(pseudo + head + payload).to_bytes(2, "big") + payload
    if ":" in source:
        return struct.pack("!IHBB", 6 << 28, len(body), 17, 64) + ends + body
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 17, 0) + ends
    return ip[:10] + internet_checksum(ip).to_bytes(2, "big") + ip[12:] + body


def send_to_tunnel(name: str, family: int, carried: bytes) -> None:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    node = next(node for node in NODES if node.name == "n2")
    address = next(item for item in node.addresses if family_of(item) == family)
    with netns.inside(name, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as opened:
        opened.sendto(carried, (address, TUNNEL_PORT))
