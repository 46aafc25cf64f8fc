"""The sets of a node's interfaces and addresses: Pods' interfaces, tunnels, Nodes, the Pod ranges."""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.model.netaddr import FAMILIES
from nfagent.nftables import names
from nfagent.nftables.objects import NamedSet

POD_LINKS = "podlinks"
FRAMES = "prerouting-frames"
"""The base chain of nodes whose Pods share a bridge (`interface_chains.frames_chain`)."""
TUNNELS = "tunnels"
NODES = "nodes"
POD_RANGES = "podranges"
PORTLESS = ("4", "41", "47")
"""Tunnel protocols without ports, by IP protocol number: IP in IP, IPv6 in IP, GRE."""


def link_sets() -> Iterator[tuple[str, NamedSet]]:
    """Yield these sets, without elements; every ruleset has them."""
    yield POD_LINKS, NamedSet("link", 4, comment="interfaces that only this node's Pods are behind")
    yield TUNNELS, NamedSet("service", 4, comment="where this node takes packets out of tunnels")
    for family in FAMILIES:
        yield names.set_name(NODES, family), NamedSet("address", family, comment="Nodes, where this one has tunnels")
        comment = "all Nodes' Pods, where this one has tunnels"
        yield names.set_name(POD_RANGES, family), NamedSet("range", family, comment=comment)
