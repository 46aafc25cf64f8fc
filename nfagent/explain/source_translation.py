"""The source address that a host outside the cluster sees, and what decides it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from nfagent.egress.translation import Translation, TranslationKind
from nfagent.model.egress_nat import DEFAULT_POLICY
from nfagent.model.ip_masq import LINK_LOCAL
from nfagent.model.netaddr import family_of, number
from nfagent.model.objects import Node, ObjectRef, Pod
from nfagent.policy.evaluator import Flow
from nfagent.state.cluster import ClusterState

Translate: TypeAlias = Callable[[Pod | None, str], Translation]
"""Returns the translation of a Pod's packets to an address; None is a Pod that isn't known."""

_BASE_POLICY = ObjectRef("EgressNATPolicy", "", DEFAULT_POLICY)


class SourceTranslation(msgspec.Struct, frozen=True):
    """The translation of a connection's source address.

    seen_as:  the addresses that the destination may see: the Pod's own, those of its node in this family, or a floating
              address; empty if none is known, or packets are dropped
    by:       the object that decides; None if none does
    prefix:   the entry that decides, as text; None if none does
    words:    all of it as one line
    is_shown: whether it is a line of the explanation; Pods, nodes and Services see the Pod's own address anyway
    gateway:  the NetworkGatewayGroup, of kind gateway
    holder:   the node that holds the floating address; None if there is none
    dropped:  why packets are dropped; None if they aren't
    """

    kind: TranslationKind
    seen_as: tuple[str, ...]
    by: str | None
    prefix: str | None
    words: str
    is_shown: bool
    gateway: str | None = None
    holder: str | None = None
    dropped: str | None = None


def find_translation(cluster: ClusterState, flow: Flow, translate: Translate) -> SourceTranslation | None:
    """Return the translation of a flow from a Pod, with its reason; None for a flow of a node, or from outside."""
    source = cluster.holder(flow.source)
    node = cluster.nodes.get(source.node) if source is not None else _node_of_range(cluster, flow.source)
    if source is None and node is None:
        return None
    found = translate(source, flow.destination)
    seen_as, shown = _seen_as(flow.source, found, node)
    return SourceTranslation(
        found.kind,
        seen_as,
        None if found.by is None else str(found.by),
        None if found.prefix is None else str(found.prefix),
        f"{flow.destination} sees {shown}: {reason(found)}",
        found.kind != "cluster" or not _is_expected(cluster, flow.destination),
        None if found.gateway is None else str(found.gateway),
        found.holder or None,
        found.dropped or None,
    )


def _node_of_range(cluster: ClusterState, address: str) -> Node | None:
    """Return the node whose Pod ranges have an address that isn't its own."""
    family, value = family_of(address), number(address)
    for node in cluster.nodes.values():
        for item in node.pod_cidrs:
            if item.family == family and item.first <= value <= item.last:
                return None if address in node.addresses else node
    return None


def _seen_as(source: str, found: Translation, node: Node | None) -> tuple[tuple[str, ...], str]:
    if found.kind in {"cluster", "kept"}:
        return (source,), f"{source}, its own address"
    if found.dropped:
        return (), f"nothing (dropped: {found.dropped})"
    if found.kind == "gateway":
        return (found.floating,), f"{found.floating} (node {found.holder} holds it)"
    if node is None:
        return (), "the address of its node"
    family = family_of(source)
    own = tuple(address for address in node.addresses if family_of(address) == family)
    return own, f"{' or '.join(own)} (node {node.name})" if own else f"an address of node {node.name}"


def _is_expected(cluster: ClusterState, address: str) -> bool:
    """Return whether a destination is a Pod, a node or a Service, which see Pod addresses anyway."""
    known = address in cluster.by_address or address in cluster.service_index.by_address
    return known or any(address in node.addresses for node in cluster.nodes.values())


def reason(found: Translation) -> str:
    """Return what decides a translation: `EgressNATPolicy payments has SNAT for 203.0.113.0/24`."""
    if found.disputed:
        named = " and ".join(map(str, found.disputed))
        return f"{named} disagree about {found.prefix}, so neither applies to it"
    if found.prefix is None:
        return "masquerade is off for this family" if found.kind == "kept" else "no policy and no list has it"
    if found.kind == "cluster":
        return f"{found.prefix} is in the cluster, where nothing is translated"
    is_policy = found.by is not None and found.by.kind == "EgressNATPolicy"
    if found.prefix in LINK_LOCAL and (found.by == _BASE_POLICY or not is_policy):
        return f"{found.prefix} is link-local"
    if is_policy:
        action = "NoSNAT" if found.kind == "kept" else "SNAT"
        return f"{found.by} has {action}{f' by {found.gateway}' if found.gateway else ''} for {found.prefix}"
    return f"{found.by or 'the built-in list'} has {found.prefix}"
