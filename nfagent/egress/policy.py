"""EgressNATPolicy and NetworkGatewayGroup (networking.gke.io/v1): which Pods leave the cluster under whose address.

A document with a fault raises an ObjectError, so that the last good version stays in force: a policy that half
holds would show Pod addresses to some, or hide them from others, as nobody wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from nfagent.cluster.address import Range
from nfagent.cluster.decode import document_field, namespaced_name
from nfagent.cluster.fields import Field
from nfagent.cluster.model import Ref
from nfagent.cluster.schema import at_most, entries, known_fields
from nfagent.cluster.selectors import Selector, decode_selector
from nfagent.errors import Problem

Action: TypeAlias = Literal["NoSNAT", "SNAT"]

DEFAULT_POLICY = "default"
"""The EgressNATPolicy that stands in place of the ip-masq-agent list."""

# What the CRDs in deploy/crds take at most.
_MOST_DESTINATIONS = 1024
_MOST_SOURCES = 64
_MOST_ADDRESSES = 64

_ACTIONS: tuple[Action, ...] = get_args(Action)


class EgressSource(msgspec.Struct, frozen=True):
    """Pods by label, in the Namespaces that match: both selectors hold; one that is left out takes all."""

    pods: Selector = Selector()
    namespaces: Selector = Selector()

    def selects(self, labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> bool:
        """Judge a Pod by its labels and its Namespace's."""
        return self.pods.matches(labels) and self.namespaces.matches(namespace_labels)

    def __str__(self) -> str:
        """Say it in words: `pods egress=onprem in namespaces team=payments`."""
        pods = f"pods {self.pods}" if self.pods.requirements else "all pods"
        return f"{pods} in {f'namespaces {self.namespaces}' if self.namespaces.requirements else 'all namespaces'}"


class EgressNATPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """An EgressNATPolicy.

    action:       NoSNAT: the destinations see the Pods' addresses; SNAT: they see the gateway's, or the node's
    destinations: outside the cluster
    sources:      the Pods that it is about, any entry selects; empty for every Pod
    gateway:      the NetworkGatewayGroup whose address they leave with; None for the node's own
    """

    name: str
    action: Action
    destinations: tuple[Range, ...] = ()
    sources: tuple[EgressSource, ...] = ()
    gateway: Ref | None = None

    @property
    def ref(self) -> Ref:
        """Name this object."""
        return Ref("EgressNATPolicy", "", self.name)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """None: with any fault the object is refused as a whole."""
        return ()

    @property
    def unenforced(self) -> str:
        """Why nothing is done by it, as its condition says; '' where it is enforced."""
        if self.action == "SNAT":
            return "action SNAT is read and validated, and not enforced yet: its Pods leave as if it weren't there"
        if self.sources:
            return "sources are read and validated, and not enforced yet; without them NoSNAT is, for every Pod"
        return ""


class NetworkGatewayGroup(msgspec.Struct, frozen=True):
    """A NetworkGatewayGroup: addresses that some nodes hold, canonical, in the object's order."""

    namespace: str
    name: str
    addresses: tuple[str, ...]

    @property
    def ref(self) -> Ref:
        """Name this object."""
        return Ref("NetworkGatewayGroup", self.namespace, self.name)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """None: with any fault the object is refused as a whole."""
        return ()


def decode_egress_policy(document: dict[str, Any]) -> EgressNATPolicy:
    """Read an EgressNATPolicy."""
    top = document_field(document)
    name, spec = (top / "metadata" / "name").dns_subdomain(), top / "spec"
    known_fields(spec, "action", "destinations", "sources", "gatewayRef")
    action = _action(spec / "action")
    return EgressNATPolicy(
        name=name,
        action=action,
        destinations=_destinations(spec / "destinations"),
        sources=_sources(spec / "sources"),
        gateway=_gateway(spec / "gatewayRef", action),
    )


def _action(field: Field) -> Action:
    for known in _ACTIONS:
        if field.value == known:
            return known
    raise field.error(f"is {'missing' if field.missing else 'not an action'}; write NoSNAT or SNAT")


def _destinations(field: Field) -> tuple[Range, ...]:
    if field.missing:
        raise field.error("is missing; list entries like `- cidr: 10.0.0.0/8`, or write [] to mean no destination")
    at_most(field, _MOST_DESTINATIONS)
    return tuple(found for entry in field.items() if (found := _destination(entry)) is not None)


def _destination(field: Field) -> Range | None:
    """Read an entry; None where it has no field that is known: it selects nothing."""
    if isinstance(field.value, str):
        raise field.error(f"is a string; write an object, `- cidr: {field.value or '10.0.0.0/8'}`")
    if field.missing:
        raise field.error("is null; write an object, `- cidr: 10.0.0.0/8`")
    cidr = field / "cidr"
    if cidr.missing:
        return None
    # What stands beside it may narrow it.
    known_fields(field, "cidr")
    return cidr.cidr(strict=True)


def _sources(field: Field) -> tuple[EgressSource, ...]:
    if field.missing:
        return ()
    return tuple(map(_source, entries(field, _MOST_SOURCES, "leave it out for every Pod, or write podSelector")))


def _source(field: Field) -> EgressSource:
    known_fields(field, "namespaceSelector", "podSelector")
    namespaces, pods = field / "namespaceSelector", field / "podSelector"
    if namespaces.missing and pods.missing:
        raise field.error("selects nobody; write podSelector, namespaceSelector or both, `podSelector: {}` for all")
    return EgressSource(decode_selector(pods), decode_selector(namespaces))


def _gateway(field: Field, action: Action) -> Ref | None:
    if field.missing:
        return None
    if action != "SNAT":
        raise field.error(f"has no meaning with action {action}; take it away, or write action SNAT")
    known_fields(field, "name", "namespace")
    return Ref("NetworkGatewayGroup", (field / "namespace").dns_label(), (field / "name").dns_subdomain())


def decode_gateway_group(document: dict[str, Any]) -> NetworkGatewayGroup:
    """Read a NetworkGatewayGroup; its addresses are different ones."""
    top = document_field(document)
    namespace, name = namespaced_name(top)
    spec = top / "spec"
    known_fields(spec, "floatingIPs")
    addresses: list[str] = []
    for entry in entries(spec / "floatingIPs", _MOST_ADDRESSES, "write at least one address, like 192.0.2.10"):
        address = entry.address()
        if address in addresses:
            raise entry.error("is in the list twice; take one away")
        addresses.append(address)
    return NetworkGatewayGroup(namespace, name, tuple(addresses))
