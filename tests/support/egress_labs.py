"""Labs for egress NAT: three nodes whose Pods have private, class E and public addresses, and a host outside.

The documents of egress NAT, for labs with manifests and with the API server.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterable, Sequence
from typing import Self

from nfagent.lab.probes.listeners import Endpoint, Listeners, ProbeProtocol
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, OutsideHost
from tests.support.packet_labs import Document

NODES = (
    NodePlan("n1", ("192.0.2.1", "2001:db8:ffff::1"), ("10.244.1.0/24", "2001:db8:244:1::/64")),
    NodePlan("n2", ("192.0.2.2", "2001:db8:ffff::2"), ("240.64.2.0/24", "2001:db8:244:2::/64")),
    NodePlan("n3", ("192.0.2.3", "2001:db8:ffff::3"), ("25.64.3.0/24", "2001:db8:244:3::/64")),
)
PARTNER, PARTNER_HOST, FAR = "203.0.113.10", "203.0.113.200", "198.51.100.10"
PARTNER_V6, PARTNER_HOST_V6, FAR_V6 = "2001:db8:113::10", "2001:db8:113::f:10", "2001:db8:99::10"
PROTOCOLS: list[tuple[ProbeProtocol, int]] = [("tcp", 443), ("udp", 443), ("icmp", 0), ("sctp", 443)]

WIDE = ("203.0.113.0/24", "2001:db8:113::/64")
"""PARTNER and PARTNER_HOST; NARROW has PARTNER_HOST alone."""
NARROW = ("203.0.113.192/26", "2001:db8:113::f:0/112")

_SECONDS = 30.0
"""Seconds to wait for a packet."""


def nat_policy(name: str, action: str, destinations: Iterable[str], *sources: Document, gateway: str = "") -> Document:
    """Return an EgressNATPolicy; gateway: namespace and name of a NetworkGatewayGroup, as `kube-system/gw`."""
    spec: Document = {"action": action, "destinations": [{"cidr": cidr} for cidr in destinations]}
    if sources:
        spec["sources"] = list(sources)
    if gateway:
        namespace, _, group = gateway.partition("/")
        spec["gatewayRef"] = {"namespace": namespace, "name": group}
    return {
        "apiVersion": "networking.gke.io/v1",
        "kind": "EgressNATPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }


def gateway_group(path: str, addresses: Sequence[str], nodes: dict[str, str] | None = None) -> Document:
    """Return a NetworkGatewayGroup; path: its namespace and name, nodes: the labels of its nodeSelector."""
    namespace, _, name = path.partition("/")
    return {
        "apiVersion": "networking.gke.io/v1",
        "kind": "NetworkGatewayGroup",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"floatingIPs": list(addresses), **({} if nodes is None else {"nodeSelector": nodes})},
    }


def config_map(config: str) -> Document:
    """Return the ConfigMap of ip-masq-agent."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
        "data": {"config": config},
    }


def listen_outside(topology: NetnsTopology, servers: Listeners, host: OutsideHost) -> None:
    """Answer all PROTOCOLS on every address of a host outside."""
    name = topology.outside_namespace(host.name)
    servers.listen(
        Endpoint(name, address, protocol, port) for address in host.addresses for protocol, port in PROTOCOLS
    )


class LiveConnection:
    """A connection from one namespace to another; `ask` sends on it, waits for the answer, returns its source there."""

    def __init__(self, source: str, server: str, destination: str, kind: socket.SocketKind) -> None:
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        make = functools.partial(socket.socket, family, kind)
        self._listener = netns.inside(server, make)
        self._client = netns.inside(source, make)
        self._served = self._listener
        self.seen_port = 0
        for sock in (self._listener, self._client):
            sock.settimeout(_SECONDS)
        self._listener.bind((destination, 0))
        if kind == socket.SOCK_STREAM:
            self._listener.listen()
        self._client.connect(self._listener.getsockname())
        if kind == socket.SOCK_STREAM:
            self._served, _ = self._listener.accept()
            self._served.settimeout(_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._client, self._served, self._listener):
            sock.close()

    def ask(self, payload: bytes, seconds: float = _SECONDS) -> str:
        """Return the source there. Raises TimeoutError where question or answer take longer."""
        for sock in (self._client, self._served):
            sock.settimeout(seconds)
        self._client.send(payload)
        received, sender = self._served.recvfrom(100)
        if self._served is self._listener:
            self._served.sendto(received, sender)
        else:
            self._served.send(received)
            sender = self._served.getpeername()
        assert self._client.recv(100) == received == payload
        self.seen_port = int(sender[1])
        return str(sender[0])
