"""The places of cases, with their addresses, the protocols and ports of connections, and all flows between places.

Two nodes with six slots each, and a host outside the cluster. A Pod's document puts it into a slot; the slot itself is
always there, so what comes and goes is known to the policies alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

import msgspec

from nfagent.model.netaddr import Family, family_of
from nfagent.policy.evaluator import Flow
from tests.properties.objects import NODE_CIDRS
from tests.support.two_node_cluster import NODE_ADDRESSES, NODES, OUTSIDE

_SLOTS = 6
_GATEWAY = 14  # not the number of a slot, in the smallest of the Pod ranges

Form: TypeAlias = tuple[str, int | None]
"""Protocol and destination port; `icmp` is icmpv6 between IPv6 addresses."""

FORMS: tuple[Form, ...] = (
    *(("tcp", port) for port in (1, 53, 80, 8080)),
    *(("udp", port) for port in (53, 80)),
    *(("sctp", port) for port in (80, 99)),
    ("icmp", None),
    ("47", None),
)
SENDABLE: tuple[Form, ...] = FORMS[:-1]
"""The forms for which the lab has servers."""


class Place(msgspec.Struct, frozen=True):
    """An end of connections: a slot or the node itself, or outside, with an empty node."""

    name: str
    addresses: tuple[str, str]
    node: str = ""
    slot: bool = False


def _slots(node: str) -> Iterator[Place]:
    for number in range(1, _SLOTS + 1):
        four, six = (_nth(cidr, number) for cidr in NODE_CIDRS[node])
        yield Place(f"{node}{number}", (four, six), node, slot=True)


def _nth(cidr: str, number: int) -> str:
    return str(ipaddress.ip_network(cidr)[number])


PLACES: tuple[Place, ...] = (
    *(slot for node in NODES for slot in _slots(node)),
    *(Place(node, NODE_ADDRESSES[node], node) for node in NODES),
    Place("outside", OUTSIDE),
)
GATEWAYS = {node: tuple(_nth(cidr, _GATEWAY) for cidr in NODE_CIDRS[node]) for node in NODES}
"""Each node's own addresses on its Pods' bridge."""
AT = {address: place for place in PLACES for address in place.addresses}
"""Address -> place."""


@lru_cache
def flows(form: Form) -> tuple[Flow, ...]:
    """Return every flow of a form from one place to another, of both families."""
    protocol, port = form
    families: tuple[Family, Family] = (4, 6)
    return tuple(
        Flow(source, to, "icmpv6" if (protocol, family) == ("icmp", 6) else protocol, port)
        for family in families
        for source in AT
        for to in AT
        if source != to and family_of(source) == family_of(to) == family
    )


def pod_flows() -> tuple[Flow, ...]:
    """Return every flow of every form with a slot at one end at least: policies apply to Pods only."""
    return tuple(flow for form in FORMS for flow in flows(form) if AT[flow.source].slot or AT[flow.destination].slot)
