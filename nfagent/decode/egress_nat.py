"""Decodes EgressNATPolicy and NetworkGatewayGroup (networking.gke.io/v1): source NAT of Pods outside the cluster.

Any error in a document raises an ObjectError, so that the last good version stays in force: a policy applied in part
would show or hide Pod addresses in a combination that no user wrote.
"""

from __future__ import annotations

from typing import Any, get_args

from nfagent.decode.core import document_field, namespaced_name
from nfagent.decode.crd_validation import at_most, entries, known_fields
from nfagent.decode.fields import DocumentField
from nfagent.decode.selectors import decode_selector
from nfagent.model.egress_nat import EgressAction, EgressNATPolicy, EgressSource, NetworkGatewayGroup
from nfagent.model.netaddr import Range, parse_cidr
from nfagent.model.objects import ObjectRef
from nfagent.model.selectors import Requirement, Selector

# Limits of the CRDs in deploy/crds.
_MOST_DESTINATIONS = 1024
_MOST_SOURCES = 64
_MOST_ADDRESSES = 64

# Unspecified, loopback, link-local, multicast and broadcast. A node with such a floating address would keep its own
# services off it.
_NO_HOST = (
    *map(parse_cidr, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32")),
    *map(parse_cidr, ("::/127", "fe80::/10", "ff00::/8")),
)

_ACTIONS: tuple[EgressAction, ...] = get_args(EgressAction)


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


def _action(field: DocumentField) -> EgressAction:
    for known in _ACTIONS:
        if field.value == known:
            return known
    raise field.error(f"is {'missing' if field.missing else 'not an action'}; write NoSNAT or SNAT")


def _destinations(field: DocumentField) -> tuple[Range, ...]:
    if field.missing:
        raise field.error("is missing; list entries like `- cidr: 10.0.0.0/8`, or write [] to mean no destination")
    at_most(field, _MOST_DESTINATIONS)
    return tuple(found for entry in field.items() if (found := _destination(entry)) is not None)


def _destination(field: DocumentField) -> Range | None:
    """Read an entry; None without a known field: it selects nothing."""
    if isinstance(field.value, str):
        raise field.error(f"is a string; write an object, `- cidr: {field.value or '10.0.0.0/8'}`")
    if field.missing:
        raise field.error("is null; write an object, `- cidr: 10.0.0.0/8`")
    cidr = field / "cidr"
    if cidr.missing:
        return None
    # An unknown field beside cidr may restrict it.
    known_fields(field, "cidr")
    return cidr.cidr(strict=True)


def _sources(field: DocumentField) -> tuple[EgressSource, ...]:
    if field.missing:
        return ()
    return tuple(map(_source, entries(field, _MOST_SOURCES, "leave it out for every Pod, or write podSelector")))


def _source(field: DocumentField) -> EgressSource:
    known_fields(field, "namespaceSelector", "podSelector")
    namespaces, pods = field / "namespaceSelector", field / "podSelector"
    if namespaces.missing and pods.missing:
        raise field.error("selects no Pod; write podSelector, namespaceSelector or both, `podSelector: {}` for all")
    return EgressSource(decode_selector(pods), decode_selector(namespaces))


def _gateway(field: DocumentField, action: EgressAction) -> ObjectRef | None:
    if field.missing:
        return None
    if action != "SNAT":
        raise field.error(f"has no meaning with action {action}; delete it, or write action SNAT")
    known_fields(field, "name", "namespace")
    return ObjectRef("NetworkGatewayGroup", (field / "namespace").dns_label(), (field / "name").dns_subdomain())


def decode_gateway_group(document: dict[str, Any]) -> NetworkGatewayGroup:
    """Read a NetworkGatewayGroup; duplicate addresses are an error."""
    top = document_field(document)
    namespace, name = namespaced_name(top)
    spec = top / "spec"
    known_fields(spec, "floatingIPs", "nodeSelector")
    addresses: list[str] = []
    for entry in entries(spec / "floatingIPs", _MOST_ADDRESSES, "write at least one address, like 192.0.2.10"):
        address = entry.address()
        if any(item.contains(address) for item in _NO_HOST):
            raise entry.error("is no address that a node can have for others; write a free one of the nodes' network")
        if address in addresses:
            raise entry.error("is a duplicate; delete one")
        addresses.append(address)
    return NetworkGatewayGroup(namespace, name, tuple(addresses), _node_selector(spec / "nodeSelector"))


def _node_selector(field: DocumentField) -> Selector:
    """Read a map of labels, as spec.nodeSelector of a Pod; a missing one matches every Node."""
    return Selector(tuple(Requirement(key, "In", (value,)) for key, value in field.labels()))
