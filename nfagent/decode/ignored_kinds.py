"""Kinds that aren't read: which of them are somebody else's, and which are an error in a manifest.

An API server refuses a kind that it doesn't have. A folder of manifests has nobody who does, and a policy that is
ignored without a word opens what it should close. So a kind that an API group doesn't have is an error in the groups
that nfagent reads, and so is a kind that it reads under an apiVersion that isn't the kind's.
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
"""API group -> every kind that it has or had. Sources: Kubernetes 1.34 (k8s.io/api, k8s.io/apimachinery), sigs.k8s.io
network-policy-api, and the CRDs of GKE."""

_CLOSE_KIND = 0.8
_CLOSER_KIND = 0.85
"""In groups with kinds of their own, as APIService of apiregistration.k8s.io, which is no Service."""
_CLOSE_GROUP = 0.9
_BUILT_IN = ("k8s.io", "kubernetes.io")


class KindMistake(msgspec.Struct, frozen=True):
    """What is wrong with an apiVersion or a kind.

    key:    the field that is at fault
    reason: what is wrong, and what to write instead
    kinds:  the kinds that the object may have been meant to be
    """

    key: str
    reason: str
    kinds: tuple[str, ...]


def mistake(version: str, kind: str, read: Collection[tuple[str, str]]) -> KindMistake | None:
    """Return what is wrong with a kind that isn't read; None where it is somebody else's.

    read: (apiVersion, kind) of all that is read
    """
    group = group_of(version)
    own = [known for known, its in read if its == kind]
    if any(group_of(known) == group for known in own):
        return KindMistake("apiVersion", f"is not read for this kind; write it as {' or '.join(own)} has it", (kind,))
    if group in KINDS_OF_GROUPS:
        return None if kind in KINDS_OF_GROUPS[group] else _unknown_kind(group, kind, read)
    # `NetworkPolicy` of crd.projectcalico.org is a kind of its own; extensions, apps or batch never have one that
    # nfagent reads in another group, unless it once stood there.
    if own and (_built_in(group) or any(_alike(group, group_of(known)) for known in own)):
        return KindMistake("apiVersion", f"has no kind {kind} that is read; write {' or '.join(own)}", (kind,))
    return None if own else _two_mistakes(group, kind, read)


def _two_mistakes(group: str, kind: str, read: Collection[tuple[str, str]]) -> KindMistake | None:
    """Return what is wrong with a kind that is misspelt, under a group that isn't its own either."""
    names = {its.lower(): its for _, its in read}
    for meant in (names[close] for close in get_close_matches(kind.lower(), names, cutoff=_CLOSER_KIND)):
        own = [known for known, its in read if its == meant]
        if _built_in(group) or any(_alike(group, group_of(known)) for known in own):
            reason = f"is no kind that is known; did you mean {meant} (apiVersion {' or '.join(own)})?"
            return KindMistake("kind", reason, (meant,))
    return None


def _unknown_kind(group: str, kind: str, read: Collection[tuple[str, str]]) -> KindMistake:
    where = f"API group {group}" if group else "the core API group"
    own = [known for known, its in read if its == kind]
    if own:
        # The right kind, in a group that has others.
        reason = f"is no kind of {where}; did you mean apiVersion {' or '.join(own)}?"
        return KindMistake("kind", reason, (kind,))
    here = {its.lower(): its for its in KINDS_OF_GROUPS[group]}
    elsewhere = {its.lower(): its for _, its in read}
    for kinds in (here, elsewhere):
        close = get_close_matches(kind.lower(), kinds, n=1, cutoff=_CLOSE_KIND)
        if close:
            meant = kinds[close[0]]
            versions = " or ".join(known for known, its in read if its == meant)
            shown = f"{meant} (apiVersion {versions})" if versions else meant
            return KindMistake("kind", f"is no kind of {where}; did you mean {shown}?", (meant,))
    ours = tuple(dict.fromkeys(its for known, its in read if group_of(known) == group))
    return KindMistake("kind", f"is no kind of {where} that is known; of this group are read {', '.join(ours)}", ours)


def misspelt_namespace(metadata: Mapping[Any, Any]) -> str:
    """Name the field that was to be the namespace; '' where none was: its object would land in another one."""
    if "namespace" in metadata:
        return ""
    return next((key for key in metadata if isinstance(key, str) and _like_namespace(key.lower())), "")


def _like_namespace(key: str) -> bool:
    return bool(get_close_matches(key, ["namespace"], cutoff=_CLOSER_KIND))


def group_of(version: str) -> str:
    """Return the API group of an apiVersion; '' is the core group, of `v1`."""
    return version.rpartition("/")[0]


def _built_in(group: str) -> bool:
    """Return whether a group is Kubernetes' own: a CRD's has a dot, and these domains need the project's approval."""
    return "." not in group or any(group == own or group.endswith(f".{own}") for own in _BUILT_IN)


def _alike(group: str, other: str) -> bool:
    return SequenceMatcher(None, group.lower(), other).ratio() >= _CLOSE_GROUP
