"""Which Kubernetes kinds are read, and by which decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nfagent.cluster.decode import (
    DEFAULT_NAMESPACE,
    decode_namespace,
    decode_network_logging,
    decode_node,
    decode_pod,
    decode_service_cidr,
    document_field,
)
from nfagent.cluster.model import Ref
from nfagent.cluster.services import decode_service
from nfagent.egress.ip_masq import decode_ip_masq
from nfagent.egress.policy import decode_egress_policy, decode_gateway_group
from nfagent.policy.decode import decode_network_policy
from nfagent.policy.tier_decode import decode_admin_policy, decode_baseline_policy, decode_cluster_policy
from nfagent.ruleset.desired import Item

Decoder = Callable[[dict[str, Any]], Item | None]

DECODERS: dict[tuple[str, str], Decoder] = {
    ("v1", "Namespace"): decode_namespace,
    ("v1", "Node"): decode_node,
    ("v1", "Pod"): decode_pod,
    ("v1", "Service"): decode_service,
    ("v1", "ConfigMap"): decode_ip_masq,
    ("networking.k8s.io/v1", "NetworkPolicy"): decode_network_policy,
    ("networking.k8s.io/v1", "ServiceCIDR"): decode_service_cidr,
    ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"): decode_admin_policy,
    ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"): decode_baseline_policy,
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"): decode_cluster_policy,
    ("networking.gke.io/v1", "EgressNATPolicy"): decode_egress_policy,
    ("networking.gke.io/v1", "NetworkGatewayGroup"): decode_gateway_group,
    ("networking.gke.io/v1alpha1", "NetworkLogging"): decode_network_logging,
}
"""(apiVersion, kind) -> decoder; a decoder gives None for an object of the kind that nfagent doesn't read."""

CLUSTER_SCOPED = {
    *("Namespace", "Node", "ServiceCIDR", "EgressNATPolicy", "NetworkLogging"),
    *("AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"),
}
"""Kinds without a namespace."""


def _group(api_version: str) -> str:
    """Give the API group of an apiVersion; '' is the core group, of `v1`."""
    return api_version.rpartition("/")[0]


_READ_AS = {(_group(version), kind): version for version, kind in DECODERS}
"""(group, kind) -> the apiVersion under which nfagent reads the kind."""


def decoder(document: dict[str, Any]) -> Decoder | None:
    """Find the decoder of a document whose apiVersion and kind are text; None where the kind is nobody's here.

    Raises an ObjectError for a kind that is read, under another apiVersion of its group: whoever wrote it counts on
    it. Other groups have kinds of the same names, which mean other things.
    """
    version, kind = document["apiVersion"], document["kind"]
    found = DECODERS.get((version, kind))
    wanted = _READ_AS.get((_group(version), kind))
    if found is None and wanted is not None:
        raise (document_field(document) / "apiVersion").error(f"is not read for this kind; write it as {wanted} has it")
    return found


def reference(document: dict[str, Any]) -> Ref | None:
    """Name the object that a document is about, however wrong the rest of it; None without a name."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return None
    kind = str(document.get("kind"))
    namespace = "" if kind in CLUSTER_SCOPED else metadata.get("namespace") or DEFAULT_NAMESPACE
    return Ref(kind, str(namespace), metadata["name"])
