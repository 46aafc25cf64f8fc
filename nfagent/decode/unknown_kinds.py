"""Kinds that nfagent doesn't read: which ones to ignore, and which ones are a mistake in a manifest.

An API server refuses an unknown kind. Nothing checks a folder of manifests, and a policy that is ignored silently would
leave Pods open. So two cases are errors: an unknown kind in an API group that nfagent reads, and a kind that
nfagent reads under a wrong apiVersion. Under a group of unknown software such a kind is ignored, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import SequenceMatcher, get_close_matches
from typing import Any

import msgspec

_CORE = """
    Binding ComponentStatus ConfigMap Endpoints Event LimitRange List Namespace Node PersistentVolume
    PersistentVolumeClaim Pod PodStatusResult PodTemplate RangeAllocation ReplicationController ResourceQuota Secret
    SerializedReference Service ServiceAccount Status
"""
_NETWORKING = "ClusterCIDR IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR"
_POLICY_NETWORKING = "AdminNetworkPolicy BaselineAdminNetworkPolicy ClusterNetworkPolicy"
_GKE = """
    CapacityMetric ClusterDNS ConnectivityTest EgressNATPolicy FQDNNetworkPolicy FrontendConfig GCPBackendPolicy
    GCPGatewayPolicy GCPHTTPFilter GCPRoutingExtension GCPSessionAffinityFilter GCPSessionAffinityPolicy
    GCPTrafficDistributionPolicy GCPTrafficExtension GKENetworkParamSet GKEServerlessNetwork HealthCheckPolicy
    LBPolicy ManagedCertificate MultiClusterIngress MultiClusterService MultiNetworkPolicy Network
    NetworkAttachmentDefinition NetworkGatewayGroup NetworkGatewayNode NetworkInterface NetworkLogging
    NodeTopology RedirectService RemoteNodeIdentity ServiceAttachment ServiceFunctionChain
    ServiceNetworkEndpointGroup SubnetworkSet TrafficSelector TrafficSteering BGPLoadBalancer BGPPeer
    BGPReceivedRoute BGPAdvertisedRoute FlatIPMode
"""

KINDS_OF_GROUPS: Mapping[str, frozenset[str]] = {
    "": frozenset(_CORE.split()),
    "networking.k8s.io": frozenset(_NETWORKING.split()),
    "policy.networking.k8s.io": frozenset(_POLICY_NETWORKING.split()),
    "networking.gke.io": frozenset(_GKE.split()),
}
"""API group -> all its kinds, past and present. From Kubernetes 1.34 (k8s.io/api, k8s.io/apimachinery), from
sigs.k8s.io/network-policy-api, and from the CRDs of GKE."""

_CLOSE_KIND = 0.8
_CLOSER_KIND = 0.85
"""In groups with kinds of their own: APIService of apiregistration.k8s.io isn't a misspelt Service."""
_CLOSE_GROUP = 0.9
_BUILT_IN = ("k8s.io", "kubernetes.io")


_OTHER_SOFTWARE = frozenset(
    {
        *("projectcalico.org", "crd.projectcalico.org", "crd.antrea.io", "networking.k8s.aws", "serving.knative.dev"),
        *("config.openshift.io", "longhorn.io", "management.cattle.io"),
    }
)
"""API groups of other software with kinds of the same names: NetworkPolicy, ClusterNetworkPolicy, Service, Node."""


class KindMistake(msgspec.Struct, frozen=True):
    """A mistake in apiVersion or kind.

    key:    the invalid field: apiVersion or kind
    reason: what is wrong, and what to write instead
    kinds:  the kinds that may have been meant
    """

    key: str
    reason: str
    kinds: tuple[str, ...]


def kind_mistake(version: str, kind: str, read: Collection[tuple[str, str]]) -> KindMistake | None:
    """Return the mistake in a kind that isn't read; None for a valid kind of other software.

    read: (apiVersion, kind) of all kinds that nfagent reads
    """
    group = group_of(version)
    own = [known for known, its in read if its == kind]
    if any(group_of(known) == group for known in own):
        return KindMistake("apiVersion", f"is not read for this kind; write it as {' or '.join(own)} has it", (kind,))
    if group in KINDS_OF_GROUPS:
        return None if kind in KINDS_OF_GROUPS[group] else _unknown_kind(group, kind, read)
    # `NetworkPolicy` of crd.projectcalico.org is a kind of its own. Built-in groups (extensions, apps, batch) never
    # have a kind that nfagent reads in another group, unless the kind has moved.
    if own and (_built_in(group) or any(_alike(group, group_of(known)) for known in own)):
        return KindMistake("apiVersion", f"has no kind {kind} that is read; write {' or '.join(own)}", (kind,))
    return None if own else _two_mistakes(group, kind, read)


def foreign_kind(version: str, kind: str, read: Collection[tuple[str, str]]) -> str:
    """Return why a kind is ignored that has the name of one that is read; '' for others, and those of known groups."""
    group = group_of(version)
    own = sorted(known for known, its in read if its == kind)
    if not own or group in KINDS_OF_GROUPS or group in _OTHER_SOFTWARE:
        return ""
    return (
        "is of an API group that nfagent doesn't know, so the object is ignored; of this kind nfagent reads apiVersion "
        f"{' or '.join(own)}"
    )


def _two_mistakes(group: str, kind: str, read: Collection[tuple[str, str]]) -> KindMistake | None:
    """Return the mistake if both the kind is misspelt and the group is wrong."""
    names = {its.lower(): its for _, its in read}
    for meant in (names[close] for close in get_close_matches(kind.lower(), names, cutoff=_CLOSER_KIND)):
        own = [known for known, its in read if its == meant]
        if _built_in(group) or any(_alike(group, group_of(known)) for known in own):
            reason = f"is not a known kind; did you mean {meant} (apiVersion {' or '.join(own)})?"
            return KindMistake("kind", reason, (meant,))
    return None


def _unknown_kind(group: str, kind: str, read: Collection[tuple[str, str]]) -> KindMistake:
    where = f"API group {group}" if group else "the core API group"
    own = [known for known, its in read if its == kind]
    if own:
        # The kind is right, the group is wrong.
        reason = f"is not a kind of {where}; did you mean apiVersion {' or '.join(own)}?"
        return KindMistake("kind", reason, (kind,))
    here = {its.lower(): its for its in KINDS_OF_GROUPS[group]}
    elsewhere = {its.lower(): its for _, its in read}
    for kinds in (here, elsewhere):
        close = get_close_matches(kind.lower(), kinds, n=1, cutoff=_CLOSE_KIND)
        if close:
            meant = kinds[close[0]]
            versions = " or ".join(known for known, its in read if its == meant)
            shown = f"{meant} (apiVersion {versions})" if versions else meant
            return KindMistake("kind", f"is not a kind of {where}; did you mean {shown}?", (meant,))
    ours = tuple(dict.fromkeys(its for known, its in read if group_of(known) == group))
    return KindMistake("kind", f"is not a known kind of {where}; nfagent reads {', '.join(ours)}", ours)


def misspelt_namespace(metadata: Mapping[Any, Any]) -> str:
    """Return the misspelt metadata.namespace, '' without one: the object would be in the default Namespace."""
    if "namespace" in metadata:
        return ""
    return next((key for key in metadata if isinstance(key, str) and _like_namespace(key.lower())), "")


def _like_namespace(key: str) -> bool:
    return bool(get_close_matches(key, ["namespace"], cutoff=_CLOSER_KIND))


def group_of(version: str) -> str:
    """Return the API group of an apiVersion; '' is the core group, of `v1`."""
    return version.rpartition("/")[0]


def _built_in(group: str) -> bool:
    """Return whether a group belongs to Kubernetes: the group of a CRD has a dot, and these domains are protected."""
    return "." not in group or any(group == own or group.endswith(f".{own}") for own in _BUILT_IN)


def _alike(group: str, other: str) -> bool:
    return SequenceMatcher(None, group.lower(), other).ratio() >= _CLOSE_GROUP
