"""Status conditions of EgressNATPolicy and NetworkGatewayGroup (meta/v1 Condition), for a server-side apply on /status.

`Accepted`: nfagent can read the object. `Programmed`: nodes enforce it. A server-side apply with our own field manager
owns these two entries of the list, which is a map by `type`, and leaves other writers' entries alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from nfagent.desired.egress_nat_ties import Tie
from nfagent.egress.gateway_status import NO_GATEWAYS, GatewayFault, GatewayStatus
from nfagent.errors import ValidationIssue
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.objects import ObjectRef
from nfagent.reporting.notice import ObjectMeta, api_version, readable

FIELD_MANAGER = "nfagent"
ACCEPTED = "Accepted"
PROGRAMMED = "Programmed"
APPLY_PATCH = "application/apply-patch+yaml"
KINDS = ("EgressNATPolicy", "NetworkGatewayGroup")
"""The kinds with such conditions."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """A condition without its times; its message is far shorter than the API's limit of 32,768 characters.

    holds: status True
    """

    type: str
    holds: bool
    reason: str
    message: str

    @property
    def status(self) -> Literal["True", "False"]:
        """The status as the API writes it."""
        return "True" if self.holds else "False"


class ObjectConditions(msgspec.Struct, frozen=True):
    """The desired status conditions of an object.

    basis: the decoded object, or its faults. Where it changed, the object's generation changed, and its conditions are
           written again
    """

    about: ObjectRef
    conditions: tuple[Condition, ...]
    basis: object = None


_ACCEPTED = Condition(type=ACCEPTED, holds=True, reason="Accepted", message="the object can be read")
_MOST_DISPUTES = 10
"""Other policies that a message names."""


def build_conditions(
    faults: Mapping[ObjectRef, Iterable[ValidationIssue]],
    policies: Iterable[EgressNATPolicy],
    gateways: Iterable[NetworkGatewayGroup],
    ties: Iterable[Tie] = (),
    *,
    replaced: ObjectRef | None = None,
    elected: GatewayStatus = NO_GATEWAYS,
) -> list[ObjectConditions]:
    """Return the desired conditions of all objects that have conditions.

    faults:   objects of any kind that can't be read, each with its issues; last good versions of these are ignored
    ties:     the policies that disagree
    replaced: the policy that the ip-masq-agent list replaces
    elected:  the holders of floating addresses
    """
    disputes: dict[str, list[str]] = {}
    for tie in ties:
        for name in tie.policies:
            disputes.setdefault(name, []).append(tie.text_for(name))
    read = [policy for policy in policies if policy.ref not in faults]
    found = [
        policy_conditions(policy, disputes.get(policy.name, ()), elected) for policy in read if policy.ref != replaced
    ]
    found += [replaced_conditions(policy) for policy in read if policy.ref == replaced]
    found += [gateway_conditions(group, elected) for group in gateways if group.ref not in faults]
    return found + [rejected_conditions(ref, problems) for ref, problems in faults.items() if ref.kind in KINDS]


def policy_conditions(
    policy: EgressNATPolicy, disputes: Sequence[str] = (), elected: GatewayStatus = NO_GATEWAYS
) -> ObjectConditions:
    """Return the conditions of an EgressNATPolicy that can be read.

    disputes: what other policies have it not apply to; the rest of it is enforced
    """
    if disputes:
        said = "; ".join(disputes[:_MOST_DISPUTES])
        more = len(disputes) - _MOST_DISPUTES
        message = readable(said + (f"; and {more} more policies" if more > 0 else ""))
        conflict = Condition(type=PROGRAMMED, holds=False, reason="Conflict", message=message)
        return ObjectConditions(policy.ref, (_ACCEPTED, conflict), policy)
    by = f" by {policy.gateway}" if policy.gateway is not None else ""
    done = f"{policy.action}{by} is enforced on every node that runs nfagent"
    return _accepted(policy.ref, policy, elected.policy_fault(policy), done)


def replaced_conditions(policy: EgressNATPolicy) -> ObjectConditions:
    """Return the conditions of a policy `default` that only repeats the built-in list, where another list exists."""
    message = (
        "the ip-masq-agent configuration has a list, which replaces this one: it only repeats the built-in list; "
        "with other destinations this policy replaces that list"
    )
    replaced = Condition(type=PROGRAMMED, holds=False, reason="Replaced", message=message)
    return ObjectConditions(policy.ref, (_ACCEPTED, replaced), policy)


def gateway_conditions(group: NetworkGatewayGroup, elected: GatewayStatus = NO_GATEWAYS) -> ObjectConditions:
    """Return the conditions of a NetworkGatewayGroup that can be read."""
    done = f"the addresses are held: {elected.held_text(group)}"
    return _accepted(group.ref, group, elected.group_fault(group), done)


def rejected_conditions(ref: ObjectRef, problems: Iterable[ValidationIssue]) -> ObjectConditions:
    """Return the conditions of an object that can't be read: neither accepted nor programmed."""
    found = tuple(problems)
    message = "; ".join(str(msgspec.structs.replace(problem, place="", object="")) for problem in found)
    accepted = Condition(type=ACCEPTED, holds=False, reason="Invalid", message=readable(message))
    kept = "the object can't be read; its last good version, if there was one, stays in force"
    return ObjectConditions(
        ref, (accepted, Condition(type=PROGRAMMED, holds=False, reason="Invalid", message=kept)), basis=found
    )


def _accepted(ref: ObjectRef, basis: object, fault: GatewayFault | None, done: str) -> ObjectConditions:
    if fault is not None:
        programmed = Condition(type=PROGRAMMED, holds=False, reason=fault.reason, message=readable(fault.text))
    else:
        programmed = Condition(type=PROGRAMMED, holds=True, reason="Programmed", message=readable(done))
    return ObjectConditions(ref, (_ACCEPTED, programmed), basis)


def status_apply(desired: ObjectConditions, found: Iterable[Any], meta: ObjectMeta, now: str) -> dict[str, Any] | None:
    """Return the server-side apply that makes an object's conditions the desired ones; None where they are already.

    found: status.conditions of the object; entries that can't be read count as missing
    meta:  the object's uid, so that a new object of the same name doesn't get them, and its generation
    now:   RFC 3339, seconds: lastTransitionTime of a condition whose status changes
    """
    before = {entry["type"]: entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("type"), str)}
    entries = [_with_times(condition, before.get(condition.type), meta, now) for condition in desired.conditions]
    if all(before.get(entry["type"]) == entry for entry in entries):
        return None
    about = desired.about
    metadata = {"name": about.name, "namespace": about.namespace, "uid": meta.uid}
    return {
        "apiVersion": api_version(about),
        "kind": about.kind,
        "metadata": {key: value for key, value in metadata.items() if value},
        "status": {"conditions": entries},
    }


def _with_times(condition: Condition, before: dict[str, Any] | None, meta: ObjectMeta, now: str) -> dict[str, Any]:
    since = (
        before.get("lastTransitionTime") if before is not None and before.get("status") == condition.status else None
    )
    return {
        "type": condition.type,
        "status": condition.status,
        "observedGeneration": meta.generation,
        "lastTransitionTime": since if isinstance(since, str) else now,
        "reason": condition.reason,
        "message": condition.message,
    }
