"""What is wrong, or news, in statements. Pure words: who says them, and when, is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.admin_policy import SHORT_KINDS, Policy, TierPolicy
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import LoggingSwitch, NetworkLogging, ObjectRef
from nfagent.reporting.notice import Notice, readable

FAILS_CLOSED = "FailsClosed"
NOT_ENFORCED = "NotEnforced"
INVALID_LOGGING = "InvalidNetworkLogging"
UPDATED_LOGGING = "UpdateNetworkLogging"
INVALID_MASQUERADE = "InvalidMasqueradeList"
INVALID_EGRESS = "InvalidEgressNATPolicy"
INVALID_GATEWAY = "InvalidNetworkGatewayGroup"
UNREADABLE = "CannotBeRead"
RULES_REFUSED = "RulesRefused"
LOG_UNAVAILABLE = "VerdictLogUnavailable"
CONNECTIONS_NOT_ENDED = "RevokedConnectionsNotEnded"
CHANGES_NOT_HEARD = "ForeignChangesNotHeard"
BRIDGE_UNJUDGED = "BridgeTrafficNotJudged"
RULES_HELD = "RulesHeld"

_KEPT = "what was read of it before stays in force; where nothing was, it counts as absent"
_PART_KEPT = "what can't be read stays as it was read before, or is left out where nothing was"
_REJECTED: dict[str, tuple[str, str]] = {
    "NetworkLogging": (INVALID_LOGGING, "logging stays as it was"),
    "ConfigMap": (INVALID_MASQUERADE, "the previous masquerade configuration stays in force; without one, the default"),
    "EgressNATPolicy": (INVALID_EGRESS, _KEPT),
    "NetworkGatewayGroup": (INVALID_GATEWAY, _KEPT),
    **dict.fromkeys(("NetworkPolicy", *SHORT_KINDS), (NOT_ENFORCED, _KEPT)),
}
"""Kind -> reason, and what holds instead."""


def cluster_statements(
    faults: Mapping[ObjectRef, Sequence[ValidationIssue]],
    in_force: Mapping[ObjectRef, Item],
    logging: NetworkLogging | None,
) -> list[Notice]:
    """Say all that the elected agent has to say; costs the size of `faults`.

    faults:   objects that can't be read, be it in part, or that fail closed, each with what is wrong
    in_force: these objects as they hold now; one whose own problems these are fails closed, or was read in part, any
              other can't be read
    logging:  the NetworkLogging object in force; None where there is none
    """
    found = []
    for ref, problems in faults.items():
        item = in_force.get(ref)
        if item is None or item.problems != tuple(problems):
            found.append(rejected(ref, problems))
        elif isinstance(item, NetworkPolicy | TierPolicy):
            found.append(failing_policy(item))
        else:
            found.append(read_in_part(ref, problems))
    if logging is not None and logging.ref not in faults:
        found.append(logging_statement(logging))
    return found


def failing_policy(policy: Policy) -> Notice:
    """Say of a policy that can't be enforced as it is written why, and what it does instead."""
    said = _listed(policy.problems)
    if isinstance(policy, TierPolicy) and policy.subject is None:
        return Notice(about=policy.ref, reason=NOT_ENFORCED, message=readable(f"The policy judges no Pod: {said}"))
    if not isinstance(policy, TierPolicy):
        closed = "it isolates its Pods and allows them nothing"
    elif policy.problem is not None:
        closed = "it denies its Pods everything"
    else:
        closed = "rules that can't be read allow nothing, or deny everything where they deny or pass; the others hold"
    return Notice(about=policy.ref, reason=FAILS_CLOSED, message=readable(f"The policy fails closed, {closed}: {said}"))


def rejected(ref: ObjectRef, problems: Iterable[ValidationIssue]) -> Notice:
    """Say why an object can't be read, and what holds instead."""
    reason, instead = _REJECTED.get(ref.kind, (UNREADABLE, _KEPT))
    message = readable(f"The object can't be read: {_listed(problems)}. Until it is mended, {instead}.")
    return Notice(about=ref, reason=reason, message=message)


def read_in_part(ref: ObjectRef, problems: Iterable[ValidationIssue]) -> Notice:
    """Say which fields of an object can't be read, and what holds instead."""
    reason, _ = _REJECTED.get(ref.kind, (UNREADABLE, _KEPT))
    message = readable(f"A part of the object can't be read: {_listed(problems)}. Everything else holds; {_PART_KEPT}.")
    return Notice(about=ref, reason=reason, message=message)


def logging_statement(logging: NetworkLogging) -> Notice:
    """Say that NetworkLogging `default`, which is there and can be read, is in force (policy-logging)."""
    said = f"allowed connections: {_switched(logging.allow)}; denied connections: {_switched(logging.deny)}"
    return Notice(
        about=logging.ref,
        reason=UPDATED_LOGGING,
        message=readable(f"Logging is set; {said}"),
        weight="Normal",
        once=True,
    )


def _switched(switch: LoggingSwitch) -> str:
    if not switch.log:
        return "not logged"
    return "all logged, since delegate isn't followed yet" if switch.delegate else "logged"


class NodeFaults(msgspec.Struct, frozen=True):
    """What goes wrong on this node; each '' where nothing does.

    refused:     why the kernel refuses transactions
    verdict_log: why the verdict log can't be written, or not all of it
    unended:     why live connections that a change revoked can't be ended
    unheard:     why it isn't heard when others change the table
    unjudged:    the bridges whose Pods reach each other past the rules, in words
    mending:     the command that has their packets judged
    held:        why the rules stay as they are, whatever changes
    """

    refused: str = ""
    verdict_log: str = ""
    unended: str = ""
    unheard: str = ""
    unjudged: str = ""
    mending: str = ""
    held: str = ""


def node_statements(node: str, faults: NodeFaults) -> list[Notice]:
    """Say on a Node what goes wrong there."""
    about = ObjectRef("Node", "", node)
    found = []
    if faults.refused:
        said = f"The kernel refuses the rules, so changes of policies don't take effect on this node: {faults.refused}"
        found.append(Notice(about=about, reason=RULES_REFUSED, message=readable(said), scope="node"))
    if faults.held:
        said = f"No change takes effect on this node: {faults.held}"
        found.append(Notice(about=about, reason=RULES_HELD, message=readable(said), scope="node"))
    if faults.verdict_log:
        said = f"Policies are enforced, but verdicts aren't logged: {faults.verdict_log}"
        found.append(Notice(about=about, reason=LOG_UNAVAILABLE, message=readable(said), scope="node"))
    if faults.unended:
        said = (
            f"Live connections that a change revoked can't be ended, their Pods stay under re-check: {faults.unended}"
        )
        found.append(Notice(about=about, reason=CONNECTIONS_NOT_ENDED, message=readable(said), scope="node"))
    if faults.unheard:
        said = f"What others change in the table is found late, once a minute: {faults.unheard}"
        found.append(Notice(about=about, reason=CHANGES_NOT_HEARD, message=readable(said), scope="node"))
    if faults.unjudged:
        said = f"Packets between Pods on {faults.unjudged} pass the rules by; for policies to hold: {faults.mending}"
        found.append(Notice(about=about, reason=BRIDGE_UNJUDGED, message=readable(said), scope="node"))
    return found


def _listed(problems: Iterable[ValidationIssue]) -> str:
    """Say problems without the object's name, which an Event has, and the file's, which its readers don't have."""
    return "; ".join(str(msgspec.structs.replace(problem, place="", object="")) for problem in problems)
