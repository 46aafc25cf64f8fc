"""The state of the cluster, with the indexes that answer in the size of the answer.

Pods that share namespace and labels share one *identity*: selectors are matched against identities, never
against Pods one by one, and inverted indexes keep the candidates few. Every index is updated by the event
that changes it; `rebuilt` makes them anew from the objects alone, and tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TypeAlias, TypeVar

import msgspec

from nfagent.decode.core import named_labels
from nfagent.decode.retained_fields import with_last_good
from nfagent.model.gvk import ClusterObject
from nfagent.model.objects import Labels, Namespace, Node, ObjectRef, Pod, ServiceCIDR
from nfagent.model.services import Service
from nfagent.state.services import ServiceIndex

PodKey: TypeAlias = tuple[str, str]
"""Namespace and name of a Pod."""

HolderKey: TypeAlias = tuple[bool, str, str]
"""Whether a Pod is being deleted, its namespace and name."""

_MANY_LABELS = 64
"""From where on it takes longer to make a dictionary of them than to look for one."""

_K = TypeVar("_K")


class Identity(msgspec.Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """Namespace and labels that some Pods have in common: any number of labels, as far as an API server goes."""

    namespace: str
    labels: Labels


class IdentityPods(dict[PodKey, Pod]):
    """The Pods of an identity, and the very object that all indexes hold of it: it is found there by being the same."""

    __slots__ = ("identity",)

    def __init__(self, identity: Identity) -> None:
        """Begin with none."""
        super().__init__()
        self.identity = identity


class ClusterDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one event changed, in the terms that other indexes need.

    pod:        the Pod before and after; None where it did not exist
    appeared:   an identity that had no Pod before
    vanished:   an identity that has no Pod any more
    namespace:  a Namespace whose labels changed
    node:       a Node that changed
    node_was:   that Node before; None where it did not exist
    service_range: whether a ServiceCIDR came, changed or went
    """

    pod: tuple[Pod | None, Pod | None] | None = None
    appeared: Identity | None = None
    vanished: Identity | None = None
    namespace: str | None = None
    node: str | None = None
    node_was: Node | None = None
    service_range: bool = False


NO_CHANGE = ClusterDelta()


def identity_of(pod: Pod) -> Identity:
    """Give the identity that a Pod has."""
    return Identity(pod.namespace, pod.labels)


def labels_of(identity: Identity) -> Mapping[str, str]:
    """Give an identity's labels, for selectors to ask about. Of many, the dictionary that was made last is kept."""
    return dict(identity.labels) if len(identity.labels) < _MANY_LABELS else _many_labels_of(identity)


@lru_cache(maxsize=1)
def _many_labels_of(identity: Identity) -> Mapping[str, str]:
    return dict(identity.labels)


class ClusterState:
    """Namespaces, Nodes, Pods, Services and their ranges, as the events so far have left them.

    members:       identity -> its Pods
    by_label:      (key, value) -> identities that carry the label
    by_key:        key -> identities that carry the label key
    by_namespace:  namespace -> its identities
    by_address:    address -> the Pods that hold it, in the order of `holder_key` (two, when an address is reused)
    local:         this node's Pods with addresses of their own, whether or not they have one yet
    service_index:     the Services by what clients call: no rule depends on them, so they change nothing
    """

    def __init__(self, node: str) -> None:
        """Start empty, seen from the node of that name."""
        self.node = node
        self.namespaces: dict[str, Namespace] = {}
        self.nodes: dict[str, Node] = {}
        self.pods: dict[PodKey, Pod] = {}
        self.service_ranges: dict[str, ServiceCIDR] = {}
        self.members: dict[Identity, IdentityPods] = {}
        self.by_label: dict[tuple[str, str], set[Identity]] = {}
        self.by_key: dict[str, set[Identity]] = {}
        self.by_namespace: dict[str, set[Identity]] = {}
        self.by_address: dict[str, tuple[Pod, ...]] = {}
        self.local: dict[PodKey, Pod] = {}
        self.service_index = ServiceIndex()

    @property
    def services(self) -> dict[ObjectRef, Service]:
        """Every Service."""
        return self.service_index.services

    def put(self, item: ClusterObject) -> ClusterDelta:
        """Take in an object, new or changed; an equal one changes nothing."""
        if isinstance(item, Pod):
            return self._put_pod(item)
        if isinstance(item, Node):
            known = self.nodes.get(item.name)
            node = with_last_good(item, known)
            if known == node:
                return NO_CHANGE
            self.nodes[item.name] = node
            return ClusterDelta(node=item.name, node_was=known)
        if isinstance(item, Service):
            self.service_index.put(item)
            return NO_CHANGE
        if isinstance(item, ServiceCIDR):
            before_it = self.service_ranges.get(item.name)
            service_range = with_last_good(item, before_it)
            self.service_ranges[item.name] = service_range
            return NO_CHANGE if service_range == before_it else ClusterDelta(service_range=True)
        before = self.namespace_labels(item.name)
        namespace = with_last_good(item, self.namespaces.get(item.name))
        self.namespaces[item.name] = namespace
        return ClusterDelta(namespace=item.name) if before != namespace.labels else NO_CHANGE

    def remove(self, ref: ObjectRef) -> ClusterDelta:
        """Drop an object; one that isn't there changes nothing."""
        if ref.kind == "Pod":
            key = (ref.namespace, ref.name)
            return self._drop_pod(key) if key in self.pods else NO_CHANGE
        if ref.kind == "Node":
            lost = self.nodes.pop(ref.name, None)
            return ClusterDelta(node=ref.name, node_was=lost) if lost is not None else NO_CHANGE
        if ref.kind == "Service":
            self.service_index.remove(ref)
            return NO_CHANGE
        if ref.kind == "ServiceCIDR":
            return ClusterDelta(service_range=True) if self.service_ranges.pop(ref.name, None) else NO_CHANGE
        gone = self.namespaces.pop(ref.name, None)
        changed = gone is not None and gone.labels != self.namespace_labels(ref.name)
        return ClusterDelta(namespace=ref.name) if changed else NO_CHANGE

    def find(self, ref: ObjectRef) -> ClusterObject | None:
        """Return the object of that name; None where there is none."""
        if ref.kind == "Pod":
            return self.pods.get((ref.namespace, ref.name))
        if ref.kind == "Service":
            return self.services.get(ref)
        if ref.kind == "Node":
            return self.nodes.get(ref.name)
        return self.namespaces.get(ref.name) if ref.kind == "Namespace" else self.service_ranges.get(ref.name)

    def keys(self, kind: str) -> Collection[PodKey]:
        """Return namespace ('' for cluster-scoped kinds) and name of every object of a kind; for Pods a live view."""
        match kind:
            case "Pod":
                return self.pods.keys()
            case "Service":
                return {(ref.namespace, ref.name) for ref in self.services}
            case "Node":
                return {("", name) for name in self.nodes}
            case "Namespace":
                return {("", name) for name in self.namespaces}
            case "ServiceCIDR":
                return {("", name) for name in self.service_ranges}
        return ()

    def namespace_labels(self, name: str) -> Labels:
        """Give a Namespace's labels; one that nobody described has the label of its name alone."""
        known = self.namespaces.get(name)
        return known.labels if known is not None else named_labels(name, ())

    def holder(self, address: str) -> Pod | None:
        """Give the Pod that an address is called by; of two, one of this node, one that isn't deleted, then by name."""
        holders = self.by_address.get(address)
        if holders is None:
            return None
        if len(holders) == 1:
            return holders[0]
        return next((pod for pod in holders if pod.node == self.node), holders[0])

    def holders(self, address: str) -> tuple[Pod, ...]:
        """Give the Pods whose policies judge an address: its holder, and others of that node which hold it as well."""
        first = self.holder(address)
        return () if first is None else tuple(pod for pod in self.by_address[address] if pod.node == first.node)

    def serving_pods(self, service: Service) -> list[Pod]:
        """Give the Pods that a Service's selector takes, by name: those that run and have an address."""
        return sorted((pod for pod in self.selected_pods(service) if pod.runs), key=_pod_key)

    def selected_pods(self, service: Service) -> list[Pod]:
        """Give all Pods that a Service's selector takes, in no order."""
        if service.selector is None:
            return []
        wanted = set(service.selector)
        chosen = [known for known in self.by_namespace.get(service.namespace, ()) if wanted <= set(known.labels)]
        return [pod for known in chosen for pod in self.members[known].values()]

    def rebuilt(self) -> ClusterState:
        """Make the same state anew from its objects alone."""
        fresh = ClusterState(self.node)
        items: list[ClusterObject] = [*self.namespaces.values(), *self.nodes.values(), *self.pods.values()]
        items += [*self.services.values(), *self.service_ranges.values()]
        for item in items:
            fresh.put(item)
        return fresh

    def _put_pod(self, pod: Pod) -> ClusterDelta:
        before = self.pods.get((pod.namespace, pod.name))
        pod = with_last_good(pod, before)
        if before == pod:
            return NO_CHANGE
        old = identity_of(before) if before is not None else None
        new = identity_of(pod)
        appeared = new if new not in self.members else None
        if before is not None:
            self._unindex(before)
        self._index(pod)
        vanished = old if old is not None and old not in self.members else None
        return ClusterDelta(pod=(before, pod), appeared=appeared, vanished=vanished)

    def _drop_pod(self, key: PodKey) -> ClusterDelta:
        pod = self.pods[key]
        self._unindex(pod)
        identity = identity_of(pod)
        return ClusterDelta(pod=(pod, None), vanished=identity if identity not in self.members else None)

    def _index(self, pod: Pod) -> None:
        key, identity = (pod.namespace, pod.name), identity_of(pod)
        self.pods[key] = pod
        if identity not in self.members:
            self.members[identity] = IdentityPods(identity)
            self.by_namespace.setdefault(identity.namespace, set()).add(identity)
            for label in identity.labels:
                self.by_label.setdefault(label, set()).add(identity)
                self.by_key.setdefault(label[0], set()).add(identity)
        self.members[identity][key] = pod
        if pod.holds_addresses:
            for address in pod.addresses:
                others = self.by_address.get(address, ())
                self.by_address[address] = tuple(sorted((*others, pod), key=holder_key)) if others else (pod,)
        if pod.node == self.node and not pod.host_network:
            self.local[key] = pod

    def _unindex(self, pod: Pod) -> None:
        key, identity = (pod.namespace, pod.name), identity_of(pod)
        del self.pods[key]
        self.local.pop(key, None)
        if pod.holds_addresses:
            for address in pod.addresses:
                others = tuple(other for other in self.by_address[address] if _pod_key(other) != key)
                if others:
                    self.by_address[address] = others
                else:
                    del self.by_address[address]
        holders = self.members[identity]
        del holders[key]
        if holders:
            return
        identity = holders.identity
        del self.members[identity]
        _discard(self.by_namespace, identity.namespace, identity)
        for label in identity.labels:
            _discard(self.by_label, label, identity)
            _discard(self.by_key, label[0], identity)


def holder_key(pod: Pod) -> HolderKey:
    """Order the Pods that hold one address: those that are being deleted last, then by namespace and name."""
    return pod.deleting, pod.namespace, pod.name


def _pod_key(pod: Pod) -> PodKey:
    return pod.namespace, pod.name


def _discard(index: dict[_K, set[Identity]], key: _K, identity: Identity) -> None:
    index[key].discard(identity)
    if not index[key]:
        del index[key]
