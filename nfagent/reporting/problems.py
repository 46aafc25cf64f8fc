"""Builds notices from faults of objects and of this node: the texts only, not when and by which agent they are sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from nfagent.egress.gateway_election import GatewayProblem
from nfagent.errors import ValidationIssue
from nfagent.model.admin_policy import POLICY_KINDS, Policy, TierPolicy
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import ALLOW_LOGGING, DENY_LOGGING, LoggingSwitch, NetworkLogging, ObjectRef
from nfagent.reporting.notice import Notice, readable

FAILS_CLOSED = "FailsClosed"
NOT_ENFORCED = "NotEnforced"
INVALID_LOGGING = "InvalidNetworkLogging"
UPDATED_LOGGING = "UpdateNetworkLogging"
INVALID_MASQUERADE = "InvalidMasqueradeList"
INVALID_EGRESS = "InvalidEgressNATPolicy"
INVALID_GATEWAY = "InvalidNetworkGatewayGroup"
ADDRESS_NOT_USED = "FloatingAddressNotUsed"
UNREADABLE = "CannotBeRead"
RULES_REFUSED = "RulesRefused"
LOG_UNAVAILABLE = "VerdictLogUnavailable"
LOG_GROUP_SHARED = "VerdictLogGroupShared"
CONNECTIONS_NOT_REVOKED = "RevokedConnectionsNotEnded"
DRIFT_NOT_MONITORED = "ForeignChangesNotHeard"
BRIDGE_NOT_FILTERED = "BridgeTrafficNotJudged"
RULES_HELD = "RulesHeld"
RULES_CONTESTED = "RulesContested"
CONNTRACK_FULL = "ConntrackFull"
FOREIGN_NAT = "ForeignNatRule"

_LAST_GOOD = "its last good version stays in force; without one, the object counts as absent"
_LAST_GOOD_PARTS = "fields that can't be read keep their last good value, or are left out without one"
_REJECTED: dict[str, tuple[str, str]] = {
    "NetworkLogging": (INVALID_LOGGING, "the previous logging configuration stays in force"),
    "ConfigMap": (INVALID_MASQUERADE, "the previous masquerade configuration stays in force; without one, the default"),
    "EgressNATPolicy": (INVALID_EGRESS, _LAST_GOOD),
    "NetworkGatewayGroup": (INVALID_GATEWAY, _LAST_GOOD),
    **dict.fromkeys(POLICY_KINDS, (NOT_ENFORCED, _LAST_GOOD)),
}
"""Kind -> reason of the Event, and what is in force instead."""


def cluster_notices(
    faults: Mapping[ObjectRef, Sequence[ValidationIssue]],
    in_force: Mapping[ObjectRef, Item],
    logging: NetworkLogging | None,
) -> list[Notice]:
    """Return all notices that the leader publishes; the cost grows with `faults`.

    faults:   objects that can't be read, or only in part, and those that fail closed, each with its issues
    in_force: these objects as they are in force; one with the same issues fails closed, or was read in part, and any
              other can't be read
    logging:  the NetworkLogging object in force; None without one
    """
    found = []
    for ref, problems in faults.items():
        item = in_force.get(ref)
        if item is None or item.problems != tuple(problems):
            found.append(rejected_notice(ref, problems))
        elif isinstance(item, NetworkPolicy | TierPolicy) and item.problems != (item.audit_problem,):
            found.append(policy_notice(item))
        else:
            found.append(partial_notice(ref, problems))
    if logging is not None and logging.ref not in faults:
        found.append(logging_notice(logging))
    return found


def gateway_notices(found: Iterable[GatewayProblem]) -> list[Notice]:
    """Return a notice for each NetworkGatewayGroup with addresses that are not used."""
    said: dict[ObjectRef, list[str]] = {}
    for problem in found:
        said.setdefault(problem.group, []).append(f"{problem.address}: {problem.reason}")
    return [
        Notice(about=ref, reason=ADDRESS_NOT_USED, message=readable(f"No node holds {'; '.join(texts)}"))
        for ref, texts in said.items()
    ]


def policy_notice(policy: Policy) -> Notice:
    """Return why a policy can't be enforced as written, and what it does instead."""
    issues = _describe(policy.problems)
    if isinstance(policy, TierPolicy) and policy.subject is None:
        message = readable(f"The policy selects no Pod: {issues}")
        return Notice(about=policy.ref, reason=NOT_ENFORCED, message=message)
    if not isinstance(policy, TierPolicy):
        closed = "it isolates its Pods and allows them nothing"
    elif policy.problem is not None:
        closed = "it denies its Pods everything"
    else:
        closed = "rules that can't be read allow nothing, or deny everything where they deny or pass; the others hold"
    text = f"The policy fails closed, {closed}: {issues}"
    return Notice(about=policy.ref, reason=FAILS_CLOSED, message=readable(text))


def rejected_notice(ref: ObjectRef, problems: Iterable[ValidationIssue]) -> Notice:
    """Return why an object can't be read, and what is in force instead."""
    reason, instead = _REJECTED.get(ref.kind, (UNREADABLE, _LAST_GOOD))
    message = readable(f"The object can't be read: {_describe(problems)}. Until it is fixed, {instead}.")
    return Notice(about=ref, reason=reason, message=message)


def partial_notice(ref: ObjectRef, problems: Iterable[ValidationIssue]) -> Notice:
    """Return which fields of an object can't be read, and what is in force instead."""
    reason, _ = _REJECTED.get(ref.kind, (UNREADABLE, _LAST_GOOD))
    reason = UNREADABLE if reason == NOT_ENFORCED else reason  # the policy is enforced, or still audited
    issues = _describe(problems)
    message = readable(f"Part of the object can't be read: {issues}. The rest is in force; {_LAST_GOOD_PARTS}.")
    return Notice(about=ref, reason=reason, message=message)


def logging_notice(logging: NetworkLogging) -> Notice:
    """Return that NetworkLogging `default` is in force (policy-logging)."""
    allows = _logged(logging.allow, f"logged where a NetworkPolicy annotated {ALLOW_LOGGING} allows them")
    denies = _logged(logging.deny, f"logged where the Pod's Namespace is annotated {DENY_LOGGING}")
    text = f"allowed connections: {allows}; denied connections: {denies}"
    return Notice(
        about=logging.ref,
        reason=UPDATED_LOGGING,
        message=readable(f"Logging is set; {text}"),
        event_type="Normal",
        once=True,
    )


def _logged(switch: LoggingSwitch, delegated: str) -> str:
    if not switch.log:
        return "not logged"
    return delegated if switch.delegate else "logged"


class NodeFaults(msgspec.Struct, frozen=True):
    """Faults of this node; each '' where there is none.

    commit_error:     why the kernel rejects transactions
    verdict_log: why the verdict log can't be written, or not all of it
    log_group: which other programs log to its NFLOG group
    revocation_error:     why connections that a change revoked can't be ended
    monitor_error:     why changes of the table by other programs aren't reported by the kernel
    table_contest:     the program that keeps changing the table
    conntrack_full:    whether the kernel's table of connections is full
    unfiltered_bridges:    bridges whose traffic between Pods isn't filtered, as text
    fix_command:     the command that has it filtered
    hold_reason:        why the ruleset isn't updated
    masquerade_file:    what is wrong with the file of the ip-masq-agent configuration
    foreign_nat:        nat rules of other programs that translate Pods' traffic otherwise, one text each
    """

    commit_error: str = ""
    verdict_log: str = ""
    log_group: str = ""
    revocation_error: str = ""
    monitor_error: str = ""
    table_contest: str = ""
    conntrack_full: bool = False
    unfiltered_bridges: str = ""
    fix_command: str = ""
    hold_reason: str = ""
    masquerade_file: str = ""
    foreign_nat: tuple[str, ...] = ()


def node_notices(node: str, faults: NodeFaults) -> list[Notice]:
    """Return the notices about a Node."""
    notices = (
        (
            faults.commit_error,
            RULES_REFUSED,
            "The kernel rejects the ruleset; changes don't take effect on this node: {}",
        ),
        (faults.hold_reason, RULES_HELD, "No change takes effect on this node: {}"),
        (
            faults.table_contest,
            RULES_CONTESTED,
            "{} keeps changing nfagent's rules; its repairs are spaced, and policies may not hold in between",
        ),
        (
            "net.netfilter.nf_conntrack_max" if faults.conntrack_full else "",
            CONNTRACK_FULL,
            "The node's table of connections is full; the kernel drops packets of new connections. Raise {}",
        ),
        (
            faults.masquerade_file,
            INVALID_MASQUERADE,
            "Of the masquerade configuration, what can't be read keeps its previous value: {}",
        ),
        (faults.verdict_log, LOG_UNAVAILABLE, "Policies are enforced, but verdicts aren't logged: {}"),
        (faults.log_group, LOG_GROUP_SHARED, "Records that aren't nfagent's are counted, and not attributed: {}"),
        (
            faults.revocation_error,
            CONNECTIONS_NOT_REVOKED,
            "Revoked connections can't be ended; their Pods stay in re-check: {}",
        ),
        (
            faults.monitor_error,
            DRIFT_NOT_MONITORED,
            "Changes of the nftables table by other programs are found once a minute only: {}",
        ),
        (
            faults.unfiltered_bridges,
            BRIDGE_NOT_FILTERED,
            f"Traffic between Pods on {{}} is not filtered; to enforce policies there: {faults.fix_command}",
        ),
    )
    about = ObjectRef("Node", "", node)
    return [
        Notice(about=about, reason=reason, message=readable(text.format(fault)), scope="node")
        for fault, reason, text in notices
        if fault
    ] + [
        Notice(about=about, reason=FOREIGN_NAT, message=readable(rule), scope="node", once=True, finding=rule)
        for rule in faults.foreign_nat
    ]


def _describe(problems: Iterable[ValidationIssue]) -> str:
    """Return issues without the object's name, which the Event has, and without the file's, unknown to its readers."""
    return "; ".join(str(msgspec.structs.replace(problem, place="", object="")) for problem in problems)
