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
)
from nfagent.cluster.model import Ref
from nfagent.egress.ip_masq import decode_ip_masq
from nfagent.policy.decode import decode_network_policy
from nfagent.ruleset.desired import Item

Decoder = Callable[[dict[str, Any]], Item | None]

DECODERS: dict[tuple[str, str], Decoder] = {
    ("v1", "Namespace"): decode_namespace,
    ("v1", "Node"): decode_node,
    ("v1", "Pod"): decode_pod,
    ("v1", "ConfigMap"): decode_ip_masq,
    ("networking.k8s.io/v1", "NetworkPolicy"): decode_network_policy,
    ("networking.gke.io/v1alpha1", "NetworkLogging"): decode_network_logging,
}
"""(apiVersion, kind) -> decoder; a decoder gives None for an object of the kind that nfagent doesn't read."""

_CLUSTER_SCOPED = {"Namespace", "Node", "NetworkLogging"}


def reference(document: dict[str, Any]) -> Ref | None:
    """Name the object that a document is about, however wrong the rest of it; None without a name."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return None
    kind = str(document.get("kind"))
    namespace = "" if kind in _CLUSTER_SCOPED else metadata.get("namespace") or DEFAULT_NAMESPACE
    return Ref(kind, str(namespace), metadata["name"])
