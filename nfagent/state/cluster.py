"""The state of the cluster, with indexes by label, namespace and address.

Pods with the same namespace and labels share one *identity*: selectors are matched with identities instead of single
Pods, and inverted indexes keep the candidates few. Each event updates the indexes. `rebuilt` computes them from the
objects alone; tests compare the two.
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
"""From this number of labels on, finding a cached dictionary is faster than building one."""

_K = TypeVar("_K")


class Identity(msgspec.Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """Namespace and labels of Pods; as many labels as an API server accepts."""

    namespace: str
    labels: Labels


class IdentityPods(dict[PodKey, Pod]):
    """The Pods of an identity, and the one Identity object that all indexes share, so that look-ups compare by `is`."""

    __slots__ = ("identity",)

    def __init__(self, identity: Identity) -> None:
        """Start without Pods."""
        super().__init__()
        self.identity = identity


class ClusterDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What one event changed, as other indexes need it.

    pod:           the Pod before and after; None for a Pod that did not exist
    appeared:      an identity that got its first Pod
    vanished:      an identity that lost its last Pod
    namespace:     a Namespace whose labels changed, or its audit mode
    audit_changed: whether that Namespace's NetworkPolicies are audited now and weren't before, or the reverse
    node:          a Node that was added, changed or removed
    node_was:      that Node before; None if it did not exist
    service_range: whether a ServiceCIDR was added, changed or removed
    """

    pod: tuple[Pod | None, Pod | None] | None = None
    appeared: Identity | None = None
    vanished: Identity | None = None
    namespace: str | None = None
    audit_changed: bool = False
    node: str | None = None
    node_was: Node | None = None
    service_range: bool = False


NO_CHANGE = ClusterDelta()


def identity_of(pod: Pod) -> Identity:
    """Return the identity of a Pod."""
    return Identity(pod.namespace, pod.labels)


def labels_of(identity: Identity) -> Mapping[str, str]:
    """Return an identity's labels as a dictionary; the last large one is cached."""
    return dict(identity.labels) if len(identity.labels) < _MANY_LABELS else _many_labels_of(identity)


@lru_cache(maxsize=1)
def _many_labels_of(identity: Identity) -> Mapping[str, str]:
    return dict(identity.labels)


class ClusterState:
    """The present Namespaces, Nodes, Pods, Services and ServiceCIDRs.

    members:       identity -> its Pods
    by_label:      (key, value) -> identities with the label
    by_key:        key -> identities with the label key
    by_namespace:  namespace -> its identities
    by_address:    address -> its Pods, in the order of `holder_key` (two while an address is reused)
    local:         this node's Pods outside the host network, with or without an address
    service_index:     the Services by address and node port: no rule depends on them, so they make no delta
    """

    def __init__(self, node: str) -> None:
        """Start empty, seen from a node."""
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
        """Add or replace an object. Return NO_CHANGE for an equal one."""
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
        before, audited = self.namespace_labels(item.name), self.audits_policies(item.name)
        namespace = with_last_good(item, self.namespaces.get(item.name))
        self.namespaces[item.name] = namespace
        return self._namespace_delta(item.name, before, audited=audited)

    def _namespace_delta(self, name: str, before: Labels, *, audited: bool) -> ClusterDelta:
        """Return what changed of a Namespace with these labels; `audited`: whether its policies were audited."""
        audit_changed = audited != self.audits_policies(name)
        if before == self.namespace_labels(name) and not audit_changed:
            return NO_CHANGE
        return ClusterDelta(namespace=name, audit_changed=audit_changed)

    def remove(self, ref: ObjectRef) -> ClusterDelta:
        """Remove an object. Return NO_CHANGE if it does not exist."""
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
        before, audited = self.namespace_labels(ref.name), self.audits_policies(ref.name)
        self.namespaces.pop(ref.name, None)
        return self._namespace_delta(ref.name, before, audited=audited)

    def find(self, ref: ObjectRef) -> ClusterObject | None:
        """Return the object of that name; None if there is none."""
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
        """Return a Namespace's labels; an unknown Namespace has only `kubernetes.io/metadata.name`."""
        known = self.namespaces.get(name)
        return known.labels if known is not None else named_labels(name, ())

    def audits_policies(self, name: str) -> bool:
        """Return whether a Namespace has its NetworkPolicies audited; an unknown one hasn't."""
        known = self.namespaces.get(name)
        return known is not None and known.audits_policies

    def holder(self, address: str) -> Pod | None:
        """Return the Pod with an address: this node's first, then one that is not being deleted, then by name."""
        holders = self.by_address.get(address)
        if holders is None:
            return None
        if len(holders) == 1:
            return holders[0]
        return next((pod for pod in holders if pod.node == self.node), holders[0])

    def holders(self, address: str) -> tuple[Pod, ...]:
        """Return the Pods whose policies apply to an address: its holder, and others of the same node that have it."""
        first = self.holder(address)
        return () if first is None else tuple(pod for pod in self.by_address[address] if pod.node == first.node)

    def serving_pods(self, service: Service) -> list[Pod]:
        """Return the Pods that serve a Service, by name: selected, running, with an address."""
        return sorted((pod for pod in self.selected_pods(service) if pod.runs), key=_pod_key)

    def selected_pods(self, service: Service) -> list[Pod]:
        """Return all Pods that a Service selects, in no order."""
        if service.selector is None:
            return []
        wanted = set(service.selector)
        chosen = [known for known in self.by_namespace.get(service.namespace, ()) if wanted <= set(known.labels)]
        return [pod for known in chosen for pod in self.members[known].values()]

    def rebuilt(self) -> ClusterState:
        """Compute the same state from the objects alone."""
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
    """Return the sort key for Pods with the same address: Pods being deleted last, then by namespace and name."""
    return pod.deleting, pod.namespace, pod.name


def _pod_key(pod: Pod) -> PodKey:
    return pod.namespace, pod.name


def _discard(index: dict[_K, set[Identity]], key: _K, identity: Identity) -> None:
    index[key].discard(identity)
    if not index[key]:
        del index[key]
