"""The Kubernetes kinds that nfagent reads, and the decoder of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from nfagent.decode.admin_policy import decode_admin_policy, decode_baseline_policy, decode_cluster_policy
from nfagent.decode.core import (
    DEFAULT_NAMESPACE,
    decode_namespace,
    decode_network_logging,
    decode_node,
    decode_pod,
    decode_service_cidr,
    document_field,
    namespaced_name,
)
from nfagent.decode.egress_nat import decode_egress_policy, decode_gateway_group
from nfagent.decode.fields import DocumentField
from nfagent.decode.ip_masq import decode_ip_masq
from nfagent.decode.networkpolicy import decode_network_policy
from nfagent.decode.services import decode_service
from nfagent.decode.unknown_kinds import foreign_kind, kind_mistake, misspelt_namespace
from nfagent.errors import ObjectError, ValidationIssue
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef

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
"""(apiVersion, kind) -> decoder; a decoder returns None for an object of the kind that nfagent doesn't read."""

CLUSTER_SCOPED = {
    *("Namespace", "Node", "ServiceCIDR", "EgressNATPolicy", "NetworkLogging"),
    *("AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"),
}
"""Kinds without a namespace."""


def find_decoder(document: dict[str, Any]) -> Decoder | None:
    """Return the decoder of a document whose apiVersion and kind are strings; None for a kind of other software.

    Raises ObjectError for a mistake: a kind that its API group doesn't have, or a wrong apiVersion of a kind that
    nfagent reads. Other groups may have kinds of the same name.
    """
    version, kind = document["apiVersion"], document["kind"]
    found = DECODERS.get((version, kind))
    wrong = kind_mistake(version, kind, DECODERS) if found is None else None
    if wrong is not None:
        raise (document_field(document) / wrong.key).error(wrong.reason)
    return found


def foreign_issue(ignored: str) -> ValidationIssue | None:
    """Return what is to be said of a kind that `find_decoder` knows no decoder of; None for nothing.

    ignored: its apiVersion and kind, with a space in between
    """
    version, _, kind = ignored.rpartition(" ")
    reason = foreign_kind(version, kind, DECODERS)
    return ValidationIssue(object=kind, field="apiVersion", value=version, reason=reason) if reason else None


def possible_refs(document: dict[str, Any]) -> frozenset[ObjectRef]:
    """Return every object that a document may stand for, even with a wrong apiVersion or kind.

    Empty without a valid name: then the object is unknown.
    """
    if not _names_an_object(document):
        return frozenset()
    version, kind = document.get("apiVersion"), document.get("kind")
    kinds: Iterable[str] = dict.fromkeys(kind for _, kind in DECODERS)
    if isinstance(kind, str) and isinstance(version, str):
        wrong = None if (version, kind) in DECODERS else kind_mistake(version, kind, DECODERS)
        kinds = (kind,) if wrong is None else wrong.kinds
    elif isinstance(kind, str) and kind in kinds:
        kinds = (kind,)
    named = (object_ref({**document, "kind": each}) for each in kinds)
    return frozenset(ref for ref in named if ref is not None)


def _names_an_object(document: dict[str, Any]) -> bool:
    """Return whether a document has a valid name and namespace."""
    metadata = document.get("metadata")
    try:
        namespaced_name(DocumentField("", "", {"metadata": metadata}))
    except ObjectError:
        return False
    return not misspelt_namespace(metadata or {})


def object_ref(document: dict[str, Any]) -> ObjectRef | None:
    """Return the reference of a document's object, even if other fields are invalid; None without a name."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return None
    kind = str(document.get("kind"))
    namespace = "" if kind in CLUSTER_SCOPED else metadata.get("namespace") or DEFAULT_NAMESPACE
    return ObjectRef(kind, str(namespace), metadata["name"])
