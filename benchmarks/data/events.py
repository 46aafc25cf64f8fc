"""Streams of watch events over a synthetic cluster.

Each stream leaves the cluster as it was once it is consumed, so that several can follow each other. Events come in
pairs: an odd count is rounded up.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import msgspec

from nfagent.decode.core import named_labels
from nfagent.desired.state import DesiredState
from nfagent.lab.objects.synthetic import FARM, Deployment, Synthetic
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer, PolicyPort
from nfagent.model.objects import Namespace, ObjectRef, Pod
from nfagent.model.selectors import Requirement, Selector


class Event(msgspec.Struct, frozen=True):
    """An object that is added or changed, or deleted: then `item` is None."""

    ref: ObjectRef
    item: Item | None

    def apply(self, desired: DesiredState) -> bool:
        """Put or remove the object; return whether anything changed."""
        return desired.remove(self.ref) if self.item is None else desired.put(self.item)


def put(item: Namespace | Pod | NetworkPolicy) -> Event:
    """Return the event of an object that is added or changed."""
    return Event(item.ref, item)


def gone(item: Namespace | Pod | NetworkPolicy) -> Event:
    """Return the event of a deleted object."""
    return Event(item.ref, None)


def peer_churn(cluster: Synthetic, count: int) -> Iterator[Event]:
    """Yield `count` events in which a Pod on another node joins a peer set of local Pods, and leaves it.

    Its Namespace has local Pods, and a policy with all its Pods as peers.
    """
    deployments = _local_deployments(cluster)
    for _pair in range((count + 1) // 2):
        pod = cluster.new_pod(cluster.rng.choice(deployments), cluster.remote_node())
        yield put(pod)
        yield gone(pod)


def relabels(cluster: Synthetic, count: int) -> Iterator[Event]:
    """Yield events in which a Pod on another node gets the labels of another role, and its own again."""
    pods = remote_peers(cluster)
    for _pair in range((count + 1) // 2):
        pod = cluster.rng.choice(pods)
        others = [one.labels for one in cluster.deployments[pod.namespace] if one.labels != pod.labels]
        yield put(msgspec.structs.replace(pod, labels=cluster.rng.choice(others)))
        yield put(pod)


def remote_peers(cluster: Synthetic) -> list[Pod]:
    """Return the Pods on other nodes in Namespaces that have local Pods."""
    namespaces = set(cluster.local_namespaces())
    return [pod for pod in cluster.pods if pod.namespace in namespaces and pod.node != cluster.node]


def isolations(_cluster: Synthetic, count: int) -> Iterator[Event]:
    """Yield events that create a policy which isolates all local Pods of `farm`, and delete it: 100 at the largest."""
    return _policies(FARM, Selector(), count)


def policies_of_one_pod(cluster: Synthetic, count: int) -> Iterator[Event]:
    """Yield events that create a policy of one local Pod, which has others, and delete it.

    No other local Pod has its Namespace and labels.
    """
    local = [pod for pod in cluster.pods if pod.node == cluster.node and pod.namespace != FARM]
    alike = Counter((pod.namespace, pod.labels) for pod in local)
    pod = next(pod for pod in local if alike[pod.namespace, pod.labels] == 1)
    selector = Selector(tuple(Requirement(key, "In", (value,)) for key, value in pod.labels))
    return _policies(pod.namespace, selector, count)


def _policies(namespace: str, pods: Selector, count: int) -> Iterator[Event]:
    metrics = NetworkPolicyRule(
        peers=(PodPeer(Selector((Requirement("app", "In", ("prometheus",)),)), namespaces=Selector()),),
        ports=(PolicyPort("tcp", name="metrics"),),
    )
    for pair in range((count + 1) // 2):
        policy = NetworkPolicy(
            namespace=namespace,
            name=f"isolate-{pair}",
            pods=pods,
            isolates=("ingress", "egress"),
            ingress=(metrics,),
        )
        yield put(policy)
        yield gone(policy)


def namespace_relabels(cluster: Synthetic, count: int) -> Iterator[Event]:
    """Yield events that label a Namespace as another team's, whose Namespaces are peers of others, and back."""
    app_namespaces = {app.name: app for app in cluster.app_namespaces}
    by_name = {namespace.name: namespace for namespace in cluster.namespaces}
    local = cluster.local_namespaces()
    for _pair in range((count + 1) // 2):
        app = app_namespaces[cluster.rng.choice(local)]
        before = by_name[app.name]
        labels = dict(before.labels) | {"team": app.partner}
        yield put(Namespace(app.name, named_labels(app.name, tuple(labels.items()))))
        yield put(before)


def pod_churn(cluster: Synthetic, count: int) -> Iterator[Event]:
    """Yield events in which Pods of any Deployment come and go on other nodes: most of them are no local Pod's peer."""
    deployments = [deployment for group in cluster.deployments.values() for deployment in group]
    for _pair in range((count + 1) // 2):
        pod = cluster.new_pod(cluster.rng.choice(deployments), cluster.remote_node())
        yield put(pod)
        yield gone(pod)


def storm(cluster: Synthetic, count: int) -> Iterator[Event]:
    """Yield events that add `count / 2` peers of local Pods at once, and then delete all, in another order."""
    deployments = _local_deployments(cluster)
    pods = [cluster.new_pod(cluster.rng.choice(deployments), cluster.remote_node()) for _ in range((count + 1) // 2)]
    yield from map(put, pods)
    yield from map(gone, _shuffled(cluster.rng, pods))


def _local_deployments(cluster: Synthetic) -> list[Deployment]:
    return [deployment for name in cluster.local_namespaces() for deployment in cluster.deployments[name]]


def _shuffled(rng: random.Random, pods: list[Pod]) -> list[Pod]:
    return rng.sample(pods, len(pods))
