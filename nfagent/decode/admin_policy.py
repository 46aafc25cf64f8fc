"""Decodes the three kinds of tier policies, with the validation of their CRDs, since no API server has checked a file.

A document without a valid name raises an ObjectError. Any other error fails closed, with limited effect:

- An error in a rule: an Allow or Accept rule matches nothing; a Deny or Pass rule, or one with an unknown action,
  denies everything. The other rules apply. (The API types require this for unknown peers; other errors do the same.)
- An error in the policy itself: it denies everything to its subject's Pods, in the directions of its rules, or in both
  if an unknown field may be a misspelt direction. With an invalid priority or tier, it comes after all valid policies;
  with an invalid tier, it is in the admin tier.
- An invalid subject: the policy applies to no Pod, and has a problem.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from nfagent.decode.admin_peers import decode_peer, decode_subject
from nfagent.decode.admin_ports import decode_v1alpha1_port, decode_v1alpha2_port
from nfagent.decode.annotations import policy_audit
from nfagent.decode.core import document_field
from nfagent.decode.crd_validation import at_most, entries, known_fields, known_top_fields
from nfagent.decode.fields import DocumentField
from nfagent.errors import ObjectError, ValidationIssue
from nfagent.model.admin_policy import (
    LAST_PRIORITY,
    NO_PRIORITY,
    UNPLACED,
    Tier,
    TierAction,
    TierKind,
    TierPeer,
    TierPolicy,
    TierRule,
)
from nfagent.model.networkpolicy import PodPeer, PolicyPort
from nfagent.model.objects import Direction

T = TypeVar("T")

_LONGEST_NAME = 100
_PEERS: dict[Direction, str] = {"ingress": "from", "egress": "to"}
_TIERS: dict[str, Tier] = {"Admin": "admin", "Baseline": "baseline"}


class _Kind(msgspec.Struct, frozen=True, kw_only=True):
    """The differences of the three kinds.

    tier:                None if spec.tier has it
    fields:              known fields of spec
    most:                maximum rules of a direction, peers of a rule, ports of a rule
    ports, decode_port:  the field of a rule that lists ports, and its decoder
    namespaces_required: whether `pods` requires a namespaceSelector
    """

    name: TierKind
    tier: Tier | None
    fields: tuple[str, ...]
    actions: dict[str, TierAction]
    most: int
    ports: str
    decode_port: Callable[[DocumentField], PolicyPort]
    namespaces_required: bool


_ADMIN = _Kind(
    name="AdminNetworkPolicy",
    tier="admin",
    fields=("priority", "subject", "ingress", "egress"),
    actions={"Allow": "allow", "Deny": "deny", "Pass": "pass"},
    most=100,
    ports="ports",
    decode_port=decode_v1alpha1_port,
    namespaces_required=True,
)
_BASELINE = msgspec.structs.replace(
    _ADMIN,
    name="BaselineAdminNetworkPolicy",
    tier="baseline",
    fields=("subject", "ingress", "egress"),
    actions={"Allow": "allow", "Deny": "deny"},
)
_CLUSTER = _Kind(
    name="ClusterNetworkPolicy",
    tier=None,
    fields=("tier", "priority", "subject", "ingress", "egress"),
    actions={"Accept": "allow", "Deny": "deny", "Pass": "pass"},
    most=25,
    ports="protocols",
    decode_port=decode_v1alpha2_port,
    namespaces_required=False,
)


def decode_admin_policy(document: dict[str, Any]) -> TierPolicy:
    """Read a policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy; see the module for errors."""
    return _decode(document, _ADMIN)


def decode_baseline_policy(document: dict[str, Any]) -> TierPolicy:
    """Read a policy.networking.k8s.io/v1alpha1 BaselineAdminNetworkPolicy; see the module for errors.

    The only valid name is `default`; the API server refuses any other, so only a file can have one. Its rules don't
    apply, since two baselines would then be in force; ignoring it would leave open what it should deny. So it is an
    invalid policy: it denies everything to its Pods in the baseline tier, after the admin tier and NetworkPolicies,
    whose verdicts still apply.
    """
    return _decode(document, _BASELINE)


def decode_cluster_policy(document: dict[str, Any]) -> TierPolicy:
    """Read a policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy; see the module for errors."""
    return _decode(document, _CLUSTER)


def _decode(document: dict[str, Any], kind: _Kind) -> TierPolicy:
    top = document_field(document)
    named = top / "metadata" / "name"
    name = named.dns_subdomain()
    spec = top / "spec"
    faults: list[ValidationIssue] = []
    _attempt(faults, lambda: known_top_fields(top))
    misspelt = bool(faults) and spec.missing
    before = len(faults)
    _attempt(faults, lambda: _singleton(named, kind))
    misnamed = len(faults) > before
    tier = kind.tier or _attempt(faults, lambda: _tier(spec / "tier"))
    priority: int | None = NO_PRIORITY
    if "priority" in kind.fields:
        priority = _attempt(faults, lambda: _priority(spec / "priority"))
    subject = _attempt(faults, lambda: _subject(spec, kind))
    _attempt(faults, lambda: known_fields(spec, *kind.fields))
    ingress = _attempt(faults, lambda: _rules(spec, "ingress", kind))
    egress = _attempt(faults, lambda: _rules(spec, "egress", kind))
    problem = faults[0] if faults else None
    if problem is not None:
        ingress, egress = (_closed(spec, direction, kind, problem, misspelt=misspelt) for direction in _PEERS)
    audit, audit_problem = policy_audit(top)
    return TierPolicy(
        kind=kind.name,
        name=name,
        tier=tier or "admin",
        priority=UNPLACED if misnamed or tier is None or priority is None else priority,
        subject=subject,
        ingress=ingress or (),
        egress=egress or (),
        problem=problem,
        audit=audit,
        audit_problem=audit_problem,
    )


def _attempt(faults: list[ValidationIssue], read: Callable[[], T]) -> T | None:
    """Return a part of the policy; on an error, add it to `faults` and return None."""
    try:
        return read()
    except ObjectError as error:
        faults.append(error.problem)
        return None


def _closed(
    spec: DocumentField, direction: Direction, kind: _Kind, problem: ValidationIssue, *, misspelt: bool
) -> tuple[TierRule, ...]:
    """Return the rules of an invalid policy: deny everything, or none if it has no rules in this direction.

    misspelt: the field `spec` itself may be misspelt
    """
    try:
        known_fields(spec, *kind.fields)
        applies = misspelt or (spec / direction).value not in (None, [])
    except ObjectError:
        applies = True  # the unknown field may be a misspelt direction
    return (TierRule("deny", problem=problem),) if applies else ()


def _singleton(name: DocumentField, kind: _Kind) -> None:
    if kind is _BASELINE and name.value != "default":
        raise name.error("is not the name of the one BaselineAdminNetworkPolicy; name it default")


def _tier(field: DocumentField) -> Tier:
    for name, tier in _TIERS.items():
        if field.value == name:
            return tier
    raise field.error(f"is {'missing' if field.missing else 'not a tier'}; write Admin or Baseline")


def _priority(field: DocumentField) -> int:
    if field.missing:
        raise field.error(f"is missing; write 0 to {LAST_PRIORITY}, the lowest is evaluated first")
    priority = field.integer()
    if not 0 <= priority <= LAST_PRIORITY:
        raise field.error(f"is not a priority; write 0 to {LAST_PRIORITY}")
    return priority


def _subject(spec: DocumentField, kind: _Kind) -> PodPeer:
    return decode_subject(spec / "subject", namespaces_required=kind.namespaces_required)


def _rules(spec: DocumentField, direction: Direction, kind: _Kind) -> tuple[TierRule, ...]:
    field = spec / direction
    at_most(field, kind.most)
    return tuple(_rule(entry, direction, kind) for entry in field.items())


def _rule(field: DocumentField, direction: Direction, kind: _Kind) -> TierRule:
    action: TierAction = "deny"
    name = ""
    try:
        action = _action(field / "action", kind)
        name = _rule_name(field / "name")
        known_fields(field, "name", "action", _PEERS[direction], kind.ports)
        peers = _peers(field / _PEERS[direction], direction, kind)
        return TierRule(action, peers, _ports(field / kind.ports, peers, kind), name)
    except ObjectError as error:
        return TierRule("allow" if action == "allow" else "deny", name=name, problem=error.problem)


def _action(field: DocumentField, kind: _Kind) -> TierAction:
    for name, action in kind.actions.items():
        if field.value == name:
            return action
    *others, last = kind.actions
    wrong = "missing" if field.missing else "not an action here"
    raise field.error(f"is {wrong}; write {', '.join(others)} or {last}")


def _rule_name(field: DocumentField) -> str:
    name = field.string()
    if len(name) > _LONGEST_NAME:
        raise field.error(f"has {len(name)} characters; write at most {_LONGEST_NAME}")
    return name


def _peers(field: DocumentField, direction: Direction, kind: _Kind) -> tuple[TierPeer, ...]:
    found: dict[TierPeer, None] = {}
    for entry in entries(field, kind.most, "write peers, `namespaces: {}` for every Pod"):
        found |= dict.fromkeys(decode_peer(entry, direction, namespaces_required=kind.namespaces_required))
    return tuple(found)


def _ports(field: DocumentField, peers: tuple[TierPeer, ...], kind: _Kind) -> tuple[PolicyPort, ...]:
    if field.missing:
        return ()
    nameless = not all(isinstance(peer, PodPeer) for peer in peers)
    found: dict[PolicyPort, None] = {}
    for entry in entries(field, kind.most, "write ports, or leave it out for every port and protocol"):
        port = kind.decode_port(entry)
        if port.name and nameless:
            raise entry.error("is a port's name, and nodes and networks have none; write a number, or two rules")
        found[port] = None
    return tuple(found)
