"""Services as nft rules in tables of their own, as in kube-proxy's nftables mode.

A table per family: destinations are translated in prerouting and output, and connections whose replies must
come back through this node are marked there and masqueraded in postrouting.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan
from nfagent.model.netaddr import FAMILIES, Family, family_of

MARK = 0x4000


class ProxiedService(msgspec.Struct, frozen=True):
    """One port of a Service, of one family.

    endpoints: Pod addresses and target ports, chosen at random; node_port: 0 for a ClusterIP alone
    external:  externalTrafficPolicy
    """

    address: str
    port: int
    protocol: Literal["tcp", "udp"]
    endpoints: tuple[tuple[str, int], ...]
    node_port: int = 0
    external: Literal["Cluster", "Local"] = "Cluster"


@contextlib.contextmanager
def proxying(topology: NetnsTopology, services: Sequence[ProxiedService]) -> Iterator[None]:
    """Load every node's tables, and delete them at the end."""
    nodes = tuple(topology.nodes.values())
    try:
        for node in nodes:
            _load(topology, node, tables(node, nodes, services))
        yield
    finally:
        for node in nodes:
            _load(topology, node, tables(node, nodes, ()) + "delete table ip kube-proxy\ndelete table ip6 kube-proxy\n")


def _load(topology: NetnsTopology, node: NodePlan, text: str) -> None:
    command = topology.command(topology.node_namespace(node.name), ["nft", "-f", "-"])
    subprocess.run(command, input=text, text=True, check=True, timeout=20)


def tables(node: NodePlan, nodes: Iterable[NodePlan], services: Iterable[ProxiedService]) -> str:
    """Return the tables of one node."""
    known = list(services)
    cluster = [cidr for other in nodes for cidr in other.pod_cidrs]
    lines: list[str] = []
    for family in FAMILIES:
        own = [service for service in known if family_of(service.address) == family]
        lines += _table(family, node, [cidr for cidr in cluster if (":" in cidr) == (family == 6)], own)
    return "\n".join(lines) + "\n"


def _table(family: Family, node: NodePlan, cluster: Sequence[str], services: Sequence[ProxiedService]) -> Iterator[str]:
    ip = "ip" if family == 4 else "ip6"
    yield f"add table {ip} kube-proxy"
    yield f"delete table {ip} kube-proxy"
    yield f"table {ip} kube-proxy {{"
    yield from _maps(ip, services)
    own = ", ".join(address for address in node.addresses if family_of(address) == family)
    yield f"""
    chain services {{
        {ip} daddr . meta l4proto . th dport vmap @service-ips
        {ip} daddr {{ {own} }} meta l4proto . th dport vmap @node-ports
    }}
    chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
    chain output {{ type nat hook output priority -100; jump services; }}
    chain mark-for-masquerade {{ meta mark set meta mark | {MARK}; }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        meta mark & {MARK} == 0 return
        meta mark set meta mark ^ {MARK}
        masquerade fully-random
    }}"""
    for number, service in enumerate(services):
        yield from _service(ip, number, service, node, ", ".join(cluster))
    yield "}"


def _maps(ip: str, services: Sequence[ProxiedService]) -> Iterator[str]:
    addresses = [f"{s.address} . {s.protocol} . {s.port} : goto service-{n}" for n, s in enumerate(services)]
    ports = [f"{s.protocol} . {s.node_port} : goto external-{n}" for n, s in enumerate(services) if s.node_port]
    described = (
        ("service-ips", f"{'ipv4' if ip == 'ip' else 'ipv6'}_addr . inet_proto . inet_service", addresses),
        ("node-ports", "inet_proto . inet_service", ports),
    )
    for name, kind, elements in described:
        content = f"elements = {{ {', '.join(elements)} }}" if elements else ""
        yield f"    map {name} {{ type {kind} : verdict; {content}; }}"


def _service(ip: str, number: int, service: ProxiedService, node: NodePlan, cluster: str) -> Iterator[str]:
    """Return the chains of a Service: by its address, from outside, and one for each endpoint."""
    everyone = range(len(service.endpoints))
    here = [index for index in everyone if node.pod_cidr_of(service.endpoints[index][0])]
    for index, (address, port) in enumerate(service.endpoints):
        to = f"[{address}]" if ip == "ip6" else address
        yield f"""
    chain endpoint-{number}-{index} {{
        {ip} saddr {address} jump mark-for-masquerade
        meta l4proto {service.protocol} dnat to {to}:{port}
    }}"""
    yield f"""
    chain service-{number} {{
        {ip} daddr {service.address} {ip} saddr != {{ {cluster} }} jump mark-for-masquerade
        {_choice(number, everyone)}
    }}"""
    if service.node_port and service.external == "Cluster":
        yield f"    chain external-{number} {{ jump mark-for-masquerade; goto service-{number}; }}"
    elif service.node_port:
        yield f"    chain external-{number} {{ {_choice(number, here) if here else 'drop'}; }}"


def _choice(number: int, indexes: Sequence[int]) -> str:
    chosen = ", ".join(f"{turn} : goto endpoint-{number}-{index}" for turn, index in enumerate(indexes))
    return f"numgen random mod {len(indexes)} vmap {{ {chosen} }}"
