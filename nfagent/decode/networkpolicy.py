"""Decodes NetworkPolicies, with the validation and defaults of the API server.

A document without a valid name raises an ObjectError. Any other error results in a policy that fails closed: it has
a problem and no rules, and isolates all Pods that it may select (docs/semantics.md, edge case 19).
"""

from __future__ import annotations

from typing import Any

from nfagent.decode.annotations import has_annotation, policy_audit
from nfagent.decode.core import document_field, namespaced_name
from nfagent.decode.crd_validation import known_fields, known_top_fields
from nfagent.decode.fields import DocumentField
from nfagent.decode.policy_limits import check_size
from nfagent.decode.selectors import decode_selector
from nfagent.errors import ObjectError, ValidationIssue
from nfagent.model.netaddr import subtract
from nfagent.model.networkpolicy import (
    IpBlock,
    NetworkPolicy,
    NetworkPolicyRule,
    Peer,
    PodPeer,
    PolicyPort,
)
from nfagent.model.objects import ALLOW_LOGGING, Direction
from nfagent.model.selectors import Selector

_BOTH: tuple[Direction, ...] = ("ingress", "egress")


def decode_network_policy(document: dict[str, Any]) -> NetworkPolicy:
    """Read a networking.k8s.io/v1 NetworkPolicy; see the module for errors."""
    top = document_field(document)
    namespace, name = namespaced_name(top)
    spec = top / "spec"
    pods, isolates = Selector(), _BOTH
    ingress: tuple[NetworkPolicyRule, ...] = ()
    egress: tuple[NetworkPolicyRule, ...] = ()
    errors: list[ValidationIssue] = []
    # Each part by itself: an error in one must not hide selected Pods and directions of the others.
    try:
        known_top_fields(top)
    except ObjectError as error:
        errors.append(error.problem)
    try:
        # The unknown field may be a misspelt `spec`: then the directions are unknown.
        isolates = _BOTH if errors and spec.missing else _policy_types(spec)
    except ObjectError as error:
        errors.append(error.problem)
    try:
        pods = decode_selector(spec / "podSelector")
        check_size(spec)
        known_fields(spec, "podSelector", "policyTypes", "ingress", "egress")
        ingress, egress = _rules(spec / "ingress", "from", namespace), _rules(spec / "egress", "to", namespace)
    except ObjectError as error:
        errors.append(error.problem)
    audit, audit_problem = policy_audit(top)
    return NetworkPolicy(
        namespace=namespace,
        name=name,
        pods=pods,
        isolates=isolates,
        ingress=() if errors else ingress,
        egress=() if errors else egress,
        problem=errors[0] if errors else None,
        logs_allows=has_annotation(top, ALLOW_LOGGING),
        audit=audit,
        audit_problem=audit_problem,
    )


def _policy_types(spec: DocumentField) -> tuple[Direction, ...]:
    given = []
    for field in (spec / "policyTypes").items():
        name = field.string()
        if name not in {"Ingress", "Egress"}:
            raise field.error("is not a policy type; write Ingress or Egress")
        given.append(name)
    if not given:
        given = ["Ingress", "Egress"] if list((spec / "egress").items()) else ["Ingress"]
    return tuple(direction for direction in _BOTH if direction.capitalize() in given)


def _rules(field: DocumentField, peers: str, namespace: str) -> tuple[NetworkPolicyRule, ...]:
    found = []
    for rule in field.items():
        # `form:` for `from:` would allow every peer; kubectl refuses it too.
        known_fields(rule, peers, "ports")
        peer = dict.fromkeys(_peer(entry, namespace) for entry in (rule / peers).items())
        found.append(
            NetworkPolicyRule(tuple(peer), tuple(dict.fromkeys(_port(entry) for entry in (rule / "ports").items())))
        )
    return tuple(found)


def _peer(field: DocumentField, namespace: str) -> Peer:
    known_fields(field, "ipBlock", "namespaceSelector", "podSelector")
    block, namespaces, pods = field / "ipBlock", field / "namespaceSelector", field / "podSelector"
    if block.missing:
        if namespaces.missing and pods.missing:
            raise field.error("has no known peer; write podSelector, namespaceSelector or ipBlock")
        if namespaces.missing:
            return PodPeer(decode_selector(pods), namespace=namespace)
        return PodPeer(decode_selector(pods), namespaces=decode_selector(namespaces))
    if not (namespaces.missing and pods.missing):
        raise field.error("has ipBlock beside a selector; write two peers")
    return _ip_block(block)


def _ip_block(field: DocumentField) -> IpBlock:
    known_fields(field, "cidr", "except")
    cidr = (field / "cidr").cidr()
    excepts = []
    for entry in (field / "except").items():
        hole = entry.cidr()
        if hole.family != cidr.family or subtract(hole, (cidr,)):
            raise entry.error(f"is not inside the block's cidr {cidr}; delete it, or widen the cidr")
        excepts.append(hole)
    return IpBlock(cidr, tuple(excepts))


def _port(field: DocumentField) -> PolicyPort:
    known_fields(field, "protocol", "port", "endPort")
    protocol = (field / "protocol").protocol()
    port, end = field / "port", field / "endPort"
    if port.missing or isinstance(port.value, str):
        if not end.missing:
            raise end.error("needs a number in `port` beside it; give the range's first port there")
        return PolicyPort(protocol, name="" if port.missing else port.port_name())
    first = port.port_number()
    last = first if end.missing else end.port_number()
    if last < first:
        raise end.error(f"is below port {first}; write {first} or more")
    return PolicyPort(protocol, first, last)
