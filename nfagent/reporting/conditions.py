"""Status conditions of EgressNATPolicy and NetworkGatewayGroup (meta/v1 Condition), for a server-side apply on /status.

`Accepted`: nfagent can read the object. `Programmed`: nodes do what it says. Server-side apply under our own field
manager owns these two entries of the list, a map by `type`, and leaves other writers' alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.objects import ObjectRef
from nfagent.reporting.notice import ExistingEvent, api_version, readable

FIELD_MANAGER = "nfagent"
ACCEPTED = "Accepted"
PROGRAMMED = "Programmed"
APPLY_PATCH = "application/apply-patch+yaml"
KINDS = ("EgressNATPolicy", "NetworkGatewayGroup")
"""Those that have such conditions."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One condition without its times; the message stays under the API's 32,768 characters by far."""

    type: str
    holds: bool
    reason: str
    message: str

    @property
    def status(self) -> Literal["True", "False"]:
        """As the API writes it."""
        return "True" if self.holds else "False"


class ObjectConditions(msgspec.Struct, frozen=True):
    """How it stands with an object, for its status.

    basis: what was read of the object; where that changed, its generation did, and the conditions are written anew
    """

    about: ObjectRef
    conditions: tuple[Condition, ...]
    basis: object = None


def standings(
    faults: Mapping[ObjectRef, Iterable[ValidationIssue]],
    policies: Iterable[EgressNATPolicy],
    gateways: Iterable[NetworkGatewayGroup],
) -> list[ObjectConditions]:
    """Say how it stands with all objects that have conditions.

    faults: objects of any kind that can't be read, each with what is wrong; last good versions don't count for these
    """
    found = [policy_standing(policy) for policy in policies if policy.ref not in faults]
    found += [gateway_standing(group) for group in gateways if group.ref not in faults]
    return found + [rejected_standing(ref, problems) for ref, problems in faults.items() if ref.kind in KINDS]


def policy_standing(policy: EgressNATPolicy) -> ObjectConditions:
    """Say how it stands with an EgressNATPolicy that can be read."""
    return _standing(policy.ref, policy, policy.unenforced, "NoSNAT is enforced on every node that runs nfagent")


def gateway_standing(group: NetworkGatewayGroup) -> ObjectConditions:
    """Say how it stands with a NetworkGatewayGroup that can be read."""
    lacking = "gateways are read and validated, and not enforced yet: no node holds these addresses"
    return _standing(group.ref, group, lacking, "")


def rejected_standing(ref: ObjectRef, problems: Iterable[ValidationIssue]) -> ObjectConditions:
    """Say of an object that can't be read that nothing of this version of it is in force."""
    found = tuple(problems)
    said = "; ".join(str(msgspec.structs.replace(problem, place="", object="")) for problem in found)
    accepted = Condition(type=ACCEPTED, holds=False, reason="Invalid", message=readable(said))
    kept = "the object can't be read; what was read of it before stays in force, and nothing else of it"
    return ObjectConditions(
        ref, (accepted, Condition(type=PROGRAMMED, holds=False, reason="Invalid", message=kept)), basis=found
    )


def _standing(ref: ObjectRef, basis: object, lacking: str, done: str) -> ObjectConditions:
    accepted = Condition(type=ACCEPTED, holds=True, reason="Accepted", message="the object can be read")
    if lacking:
        programmed = Condition(type=PROGRAMMED, holds=False, reason="NotSupported", message=readable(lacking))
    else:
        programmed = Condition(type=PROGRAMMED, holds=True, reason="Programmed", message=done)
    return ObjectConditions(ref, (accepted, programmed), basis)


def status_apply(
    standing: ObjectConditions, found: Iterable[Any], known: ExistingEvent, now: str
) -> dict[str, Any] | None:
    """Give the body that brings an object's conditions up to date; None where they are.

    found: status.conditions as they are; entries that can't be read count as missing
    known: the object's uid, without which a new object of its name could get them, and its generation
    now:   RFC 3339, seconds: when a condition changed whose status isn't as it was
    """
    before = {entry["type"]: entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("type"), str)}
    wanted = [_written(condition, before.get(condition.type), known, now) for condition in standing.conditions]
    if all(before.get(entry["type"]) == entry for entry in wanted):
        return None
    about = standing.about
    metadata = {"name": about.name, "namespace": about.namespace, "uid": known.uid}
    return {
        "apiVersion": api_version(about),
        "kind": about.kind,
        "metadata": {key: value for key, value in metadata.items() if value},
        "status": {"conditions": wanted},
    }


def _written(condition: Condition, before: dict[str, Any] | None, known: ExistingEvent, now: str) -> dict[str, Any]:
    since = (
        before.get("lastTransitionTime") if before is not None and before.get("status") == condition.status else None
    )
    return {
        "type": condition.type,
        "status": condition.status,
        "observedGeneration": known.generation,
        "lastTransitionTime": since if isinstance(since, str) else now,
        "reason": condition.reason,
        "message": condition.message,
    }
