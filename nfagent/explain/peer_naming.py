"""How a policy names who is at an address: a Pod by labels that tell it from its neighbours, or the address itself."""

from __future__ import annotations

from nfagent.model.netaddr import single
from nfagent.model.networkpolicy import IpBlock, Peer, PodPeer
from nfagent.model.objects import UNREADABLE, Labels, Pod
from nfagent.model.selectors import Requirement, Selector
from nfagent.state.cluster import ClusterState

_CUSTOMARY = ("app.kubernetes.io/name", "k8s-app", "app", "name", "run")
"""Keys by which people name a workload, best first."""

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
"""Keys that controllers write: their values are others after the next rollout."""


def peer_for_address(cluster: ClusterState, address: str) -> Peer:
    """Give the peer that means who is at an address: Pods that are labelled like the one there, or the address."""
    pod = cluster.holder(address)
    return peer_for_pod(cluster, pod) if pod is not None else IpBlock(single(address))


def peer_for_pod(cluster: ClusterState, pod: Pod) -> PodPeer:
    """Give the peer that takes a Pod by one label that no other in its Namespace has, or by all that people gave it."""
    labels = _given(pod.labels)
    here = cluster.by_namespace.get(pod.namespace, ())
    others = {label for known in here if _given(known.labels) != labels for label in known.labels}
    telling = sorted((label for label in labels if label not in others), key=_custom)
    chosen = tuple(telling[:1]) or labels
    return peer_for_labels(chosen, pod.namespace)


def peer_for_labels(labels: Labels, namespace: str) -> PodPeer:
    """Give the peer that takes the Pods of a Namespace that have all these labels."""
    return PodPeer(Selector(tuple(Requirement(key, "In", (value,)) for key, value in labels)), namespace=namespace)


def _given(labels: Labels) -> Labels:
    nameable = tuple(label for label in labels if label[1] != UNREADABLE)
    return tuple(label for label in nameable if label[0] not in _GENERATED) or nameable


def _custom(label: tuple[str, str]) -> tuple[int, str]:
    key = label[0]
    return (_CUSTOMARY.index(key) if key in _CUSTOMARY else len(_CUSTOMARY), key)
