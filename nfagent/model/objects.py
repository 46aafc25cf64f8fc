"""The Kubernetes objects that nfagent reads, with only the fields that it reads.

Immutable and hashable, so that equal objects are equal state. Field names follow the API's, in snake case;
each class names the API fields that it comes from. Besides these:

problems: problems of invalid fields; the other fields apply
unread:   names of invalid fields, which keep their last good value (`retained_fields.with_last_good`)
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.netaddr import Range

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Label pairs, sorted by key: equal label sets are equal values."""

Protocol: TypeAlias = Literal["tcp", "udp", "sctp"]
"""Transport protocol of a port, in nft's spelling."""

Direction: TypeAlias = Literal["ingress", "egress"]
"""Seen from the Pod that a policy selects."""

DIRECTIONS: tuple[Direction, Direction] = ("egress", "ingress")
"""In the order in which they apply to a connection."""

UNREADABLE = "?"
"""Stands for an invalid label value, which no selector matches; as key and value, for an invalid label map."""

METADATA_NAME = "kubernetes.io/metadata.name"
"""Label that the API server puts on every Namespace; file input lacks it (docs/semantics.md, edge case 17)."""

ALLOW_LOGGING = "policy.network.gke.io/enable-logging"
"""Annotation of a NetworkPolicy: where NetworkLogging delegates allows, the connections that it allows are logged."""

DENY_LOGGING = "policy.network.gke.io/enable-deny-logging"
"""Annotation of a Namespace: where NetworkLogging delegates denies, those of its Pods are logged."""


class ObjectRef(msgspec.Struct, frozen=True, order=True):
    """The reference of an object: kind, namespace ('' for cluster-scoped kinds), name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """Return `Kind namespace/name`."""
        return f"{self.kind} {self.path}"

    @property
    def path(self) -> str:
        """The qualified name: `namespace/name`, or the name of a cluster-scoped object."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Namespace(msgspec.Struct, frozen=True):
    """v1 Namespace: metadata.name, metadata.labels with kubernetes.io/metadata.name always present.

    logs_denies: annotated DENY_LOGGING: where NetworkLogging delegates, what is denied at its Pods is logged
    audits_policies: its annotation `nfagent.io/audit: "true"` audits its NetworkPolicies (docs/audit-mode.md)
    """

    name: str
    labels: Labels
    problems: tuple[ValidationIssue, ...] = ()
    unread: tuple[str, ...] = ()
    logs_denies: bool = False
    audits_policies: bool = False

    @property
    def ref(self) -> ObjectRef:
        """The reference of this object."""
        return ObjectRef("Namespace", "", self.name)


class Node(msgspec.Struct, frozen=True):
    """v1 Node: metadata.name and labels, spec.podCIDRs, all status.addresses that are IP addresses.

    ready: whether status.conditions has Ready with status True, or no condition at all, as in a folder of manifests
    """

    name: str
    labels: Labels = ()
    pod_cidrs: tuple[Range, ...] = ()
    addresses: tuple[str, ...] = ()
    problems: tuple[ValidationIssue, ...] = ()
    unread: tuple[str, ...] = ()
    ready: bool = True

    @property
    def ref(self) -> ObjectRef:
        """The reference of this object."""
        return ObjectRef("Node", "", self.name)


class ContainerPort(msgspec.Struct, frozen=True, gc=False):
    """v1 ContainerPort with a name, of a container or a sidecar (an init container that restarts always)."""

    name: str
    port: int
    protocol: Protocol


class Pod(msgspec.Struct, frozen=True, gc=False):
    """v1 Pod: metadata, spec.nodeName, spec.hostNetwork, container ports, status.phase, status.podIPs.

    addresses:     canonical, in the order of the API; empty before the Pod has one
    workload_kind: kind and name of the controlling owner reference, of the Pod itself without one
    deleting:      it has a metadata.deletionTimestamp
    """

    namespace: str
    name: str
    labels: Labels = ()
    node: str = ""
    addresses: tuple[str, ...] = ()
    host_network: bool = False
    phase: str = "Running"
    ports: tuple[ContainerPort, ...] = ()
    workload_kind: str = "Pod"
    workload_name: str = ""
    deleting: bool = False
    problems: tuple[ValidationIssue, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def ref(self) -> ObjectRef:
        """The reference of this object."""
        return ObjectRef("Pod", self.namespace, self.name)

    @property
    def runs(self) -> bool:
        """Return whether it is running and has an address."""
        return self.phase == "Running" and bool(self.addresses)

    @property
    def has_ended(self) -> bool:
        """Return whether all of its containers have ended, and none is started again."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def holds_addresses(self) -> bool:
        """Return whether it has addresses of its own: not the node's, and not released by a Pod that has ended.

        See docs/semantics.md, edge cases 40 and 41.
        """
        return not self.host_network and not self.has_ended and bool(self.addresses)


class ServiceCIDR(msgspec.Struct, frozen=True):
    """networking.k8s.io/v1 ServiceCIDR: spec.cidrs, which Services' addresses come from."""

    name: str
    cidrs: tuple[Range, ...]
    problems: tuple[ValidationIssue, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def ref(self) -> ObjectRef:
        """The reference of this object."""
        return ObjectRef("ServiceCIDR", "", self.name)


class LoggingSwitch(msgspec.Struct, frozen=True):
    """One half of NetworkLogging: `log`, and `delegate`: only where annotated objects are concerned."""

    log: bool = False
    delegate: bool = False


class NetworkLogging(msgspec.Struct, frozen=True):
    """networking.gke.io/v1alpha1 NetworkLogging `default`: spec.cluster.allow and spec.cluster.deny."""

    allow: LoggingSwitch = LoggingSwitch()
    deny: LoggingSwitch = LoggingSwitch()
    problems: tuple[ValidationIssue, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def ref(self) -> ObjectRef:
        """The reference of this object; there is only one."""
        return ObjectRef("NetworkLogging", "", "default")
