"""EgressNATPolicy and NetworkGatewayGroup (networking.gke.io/v1): which Pods leave the cluster under which address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.netaddr import Range
from nfagent.model.objects import ObjectRef
from nfagent.model.selectors import Selector

EgressAction: TypeAlias = Literal["NoSNAT", "SNAT"]


DEFAULT_POLICY = "default"
"""Name of the EgressNATPolicy that replaces the list of ip-masq-agent."""


class EgressSource(msgspec.Struct, frozen=True):
    """Pods by label, in the Namespaces that match: both selectors must match; an omitted one matches all."""

    pods: Selector = Selector()
    namespaces: Selector = Selector()

    def selects(self, labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> bool:
        """Return whether it selects a Pod, by the labels of Pod and Namespace."""
        return self.pods.matches(labels) and self.namespaces.matches(namespace_labels)

    def __str__(self) -> str:
        """Return it as text: `pods egress=onprem in namespaces team=payments`."""
        pods = f"pods {self.pods}" if self.pods.requirements else "all pods"
        return f"{pods} in {f'namespaces {self.namespaces}' if self.namespaces.requirements else 'all namespaces'}"


class EgressNATPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """An EgressNATPolicy.

    action:       NoSNAT: the destinations see the Pods' addresses; SNAT: they see the gateway's, or the node's
    destinations: outside the cluster
    sources:      the Pods that it applies to: those that any entry selects; empty for every Pod
    gateway:      the NetworkGatewayGroup of the source address; None for the node's own address
    """

    name: str
    action: EgressAction
    destinations: tuple[Range, ...] = ()
    sources: tuple[EgressSource, ...] = ()
    gateway: ObjectRef | None = None

    @property
    def ref(self) -> ObjectRef:
        """The reference of this object."""
        return ObjectRef("EgressNATPolicy", "", self.name)

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """Always empty: any error rejects the object as a whole."""
        return ()

    @property
    def outcome(self) -> tuple[EgressAction, ObjectRef | None]:
        """What it does with its destinations: the action and the gateway. Policies of different outcomes disagree."""
        return self.action, self.gateway

    def selects(self, labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> bool:
        """Return whether it applies to a Pod, by the labels of Pod and Namespace."""
        return not self.sources or any(source.selects(labels, namespace_labels) for source in self.sources)


class NetworkGatewayGroup(msgspec.Struct, frozen=True):
    """A NetworkGatewayGroup: addresses that some nodes hold, canonical, in the object's order.

    nodes: selects the Nodes that may hold them, by label
    """

    namespace: str
    name: str
    addresses: tuple[str, ...]
    nodes: Selector = Selector()

    @property
    def ref(self) -> ObjectRef:
        """The reference of this object."""
        return ObjectRef("NetworkGatewayGroup", self.namespace, self.name)

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """Always empty: any error rejects the object as a whole."""
        return ()
