"""Peers for suggestions: a Pod by the labels that distinguish it from others in its Namespace, or an address."""

from __future__ import annotations

from nfagent.model.netaddr import single
from nfagent.model.networkpolicy import IpBlock, Peer, PodPeer
from nfagent.model.objects import UNREADABLE, Labels, Pod
from nfagent.model.selectors import Requirement, Selector
from nfagent.state.cluster import ClusterState

_WORKLOAD_KEYS = ("app.kubernetes.io/name", "k8s-app", "app", "name", "run")
"""Label keys that usually name a workload, best first."""

_GENERATED = {
    "pod-template-hash",
    "pod-template-generation",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/job-name",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
}
"""Label keys that controllers write: their values change with the next rollout."""


def peer_for_address(cluster: ClusterState, address: str) -> Peer:
    """Return a peer that selects an address: the Pods with the labels of the Pod there, or else an ipBlock."""
    pod = cluster.holder(address)
    return peer_for_pod(cluster, pod) if pod is not None else IpBlock(single(address))


def peer_for_pod(cluster: ClusterState, pod: Pod) -> PodPeer:
    """Return a peer that selects a Pod: by one label that no others in its Namespace have, or by all its own labels."""
    labels = _stable_labels(pod.labels)
    here = cluster.by_namespace.get(pod.namespace, ())
    others = {label for known in here if _stable_labels(known.labels) != labels for label in known.labels}
    distinctive = sorted((label for label in labels if label not in others), key=_preference)
    chosen = tuple(distinctive[:1]) or labels
    return peer_for_labels(chosen, pod.namespace)


def peer_for_labels(labels: Labels, namespace: str) -> PodPeer:
    """Return a peer that selects the Pods of a Namespace with all these labels."""
    return PodPeer(Selector(tuple(Requirement(key, "In", (value,)) for key, value in labels)), namespace=namespace)


def _stable_labels(labels: Labels) -> Labels:
    nameable = tuple(label for label in labels if label[1] != UNREADABLE)
    return tuple(label for label in nameable if label[0] not in _GENERATED) or nameable


def _preference(label: tuple[str, str]) -> tuple[int, str]:
    key = label[0]
    return (_WORKLOAD_KEYS.index(key) if key in _WORKLOAD_KEYS else len(_WORKLOAD_KEYS), key)
