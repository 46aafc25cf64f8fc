"""Streams of events over a synthetic cluster, as a watch would bring them.

Each stream leaves the cluster as it found it once it has been run to its end, so that several can follow each other.
Events come in pairs, so an odd number asked for is rounded up.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec

from benchmarks.data.synthetic import FARM, Deployment, Synthetic
from nfagent.decode.core import named_labels
from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import NetworkPolicy, PodPeer, PolicyPort, Rule
from nfagent.model.objects import Namespace, ObjectRef, Pod
from nfagent.model.selectors import Requirement, Selector


class Event(msgspec.Struct, frozen=True):
    """One object new or changed, or gone: then `item` is None."""

    ref: ObjectRef
    item: Item | None

    def apply(self, desired: DesiredState) -> bool:
        """Put or remove; tell whether anything changed."""
        return desired.remove(self.ref) if self.item is None else desired.put(self.item)


def put(item: Namespace | Pod | NetworkPolicy) -> Event:
    """Make the event of an object new or changed."""
    return Event(item.ref, item)


def gone(item: Namespace | Pod | NetworkPolicy) -> Event:
    """Make the event of an object deleted."""
    return Event(item.ref, None)


def peer_churn(cluster: Synthetic, count: int) -> Iterator[Event]:
    """Let a Pod on another node join a peer set of local Pods, and leave it, `count` events in all.

    Its Namespace has local Pods, and a policy by which all its Pods are peers.
    """
    deployments = _neighbours(cluster)
    for _pair in range((count + 1) // 2):
        pod = cluster.new_pod(cluster.rng.choice(deployments), cluster.remote_node())
        yield put(pod)
        yield gone(pod)


def relabels(cluster: Synthetic, count: int) -> Iterator[Event]:
    """Let a Pod on another node become another role's, and its own again."""
    namespaces = set(cluster.local_namespaces())
    pods = [pod for pod in cluster.pods if pod.namespace in namespaces and pod.node != cluster.node]
    for _pair in range((count + 1) // 2):
        pod = cluster.rng.choice(pods)
        others = [one.labels for one in cluster.deployments[pod.namespace] if one.labels != pod.labels]
        yield put(msgspec.structs.replace(pod, labels=cluster.rng.choice(others)))
        yield put(pod)


def isolations(_cluster: Synthetic, count: int) -> Iterator[Event]:
    """Create a policy that isolates all local Pods of `farm`, and delete it: a hundred in the large size."""
    for pair in range((count + 1) // 2):
        metrics = Rule(
            peers=(PodPeer(Selector((Requirement("app", "In", ("prometheus",)),)), namespaces=Selector()),),
            ports=(PolicyPort("tcp", name="metrics"),),
        )
        policy = NetworkPolicy(
            namespace=FARM, name=f"isolate-{pair}", isolates=("ingress", "egress"), ingress=(metrics,)
        )
        yield put(policy)
        yield gone(policy)


def namespace_relabels(cluster: Synthetic, count: int) -> Iterator[Event]:
    """Give a Namespace to another team, whose Namespaces are peers of others, and back."""
    places = {place.name: place for place in cluster.places}
    by_name = {namespace.name: namespace for namespace in cluster.namespaces}
    local = cluster.local_namespaces()
    for _pair in range((count + 1) // 2):
        place = places[cluster.rng.choice(local)]
        before = by_name[place.name]
        labels = dict(before.labels) | {"team": place.partner}
        yield put(Namespace(place.name, named_labels(place.name, tuple(labels.items()))))
        yield put(before)


def pod_churn(cluster: Synthetic, count: int) -> Iterator[Event]:
    """Let Pods of any Deployment come and go on other nodes: most of them are nobody's peer here."""
    deployments = [deployment for group in cluster.deployments.values() for deployment in group]
    for _pair in range((count + 1) // 2):
        pod = cluster.new_pod(cluster.rng.choice(deployments), cluster.remote_node())
        yield put(pod)
        yield gone(pod)


def storm(cluster: Synthetic, count: int) -> Iterator[Event]:
    """Let `count / 2` peers of local Pods come at once, and then all go, in another order."""
    deployments = _neighbours(cluster)
    pods = [cluster.new_pod(cluster.rng.choice(deployments), cluster.remote_node()) for _ in range((count + 1) // 2)]
    yield from map(put, pods)
    yield from map(gone, _shuffled(cluster.rng, pods))


def _neighbours(cluster: Synthetic) -> list[Deployment]:
    return [deployment for name in cluster.local_namespaces() for deployment in cluster.deployments[name]]


def _shuffled(rng: random.Random, pods: list[Pod]) -> list[Pod]:
    return rng.sample(pods, len(pods))
