"""The tiers before and after NetworkPolicy: cluster-wide policies with priorities and actions.

policy.networking.k8s.io: AdminNetworkPolicy and BaselineAdminNetworkPolicy (v1alpha1), ClusterNetworkPolicy (v1alpha2).
One struct serves all three: a tier, a priority in it, a subject, and rules, of which the first match gives the verdict.

    admin tier     deny, allow: final; pass, or no rule matches: NetworkPolicy applies
    NetworkPolicy  final if any policy isolates the Pod in this direction; otherwise the baseline tier applies
    baseline tier  as the admin tier; pass, or no rule matches: allowed
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy, PodPeer, PolicyPort
from nfagent.model.objects import Direction, ObjectRef
from nfagent.model.selectors import Selector

Tier: TypeAlias = Literal["admin", "baseline"]
TierAction: TypeAlias = Literal["allow", "deny", "pass"]
"""v1alpha1's Allow and v1alpha2's Accept are one."""

TierKind: TypeAlias = Literal["AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"]

SHORT_KINDS: dict[str, str] = {
    "AdminNetworkPolicy": "anp",
    "BaselineAdminNetworkPolicy": "banp",
    "ClusterNetworkPolicy": "cnp",
}
"""The CRDs' own short names."""

POLICY_KINDS = ("NetworkPolicy", *SHORT_KINDS)
"""The kinds whose rules decide about packets."""

LAST_PRIORITY = 1000
NO_PRIORITY = LAST_PRIORITY + 1
"""The rank of BaselineAdminNetworkPolicy, which has no priority: after all others."""
UNPLACED = LAST_PRIORITY + 2
"""The rank of a policy with an invalid tier or priority: after all others of its tier."""


class NodePeer(msgspec.Struct, frozen=True, order=True, tag=True):
    """The addresses of the Nodes that a selector matches, with their host-network Pods; egress only."""

    nodes: Selector

    def __str__(self) -> str:
        """Return it as text: `nodes role=edge`."""
        return f"nodes {self.nodes}" if self.nodes.requirements else "all nodes"


TierPeer: TypeAlias = PodPeer | NodePeer | IpBlock


class TierRule(msgspec.Struct, frozen=True):
    """One rule: the action for connections whose peer and port match.

    peers:   one of them must match; empty only if the rule fails closed: then every peer matches
    ports:   empty for every port and protocol
    problem: why the rule is invalid. An invalid allow rule matches nothing; any other denies everything
    """

    action: TierAction
    peers: tuple[TierPeer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()
    name: str = ""
    problem: ValidationIssue | None = None

    @property
    def matches_nothing(self) -> bool:
        """Return whether it matches nothing: an invalid allow rule."""
        return self.problem is not None and self.action == "allow"

    def __str__(self) -> str:
        """Return peers and ports as text: `pods app=web in all namespaces on 80/tcp`."""
        who = " or ".join(map(str, self.peers)) or "anywhere"
        return f"{who} on {', '.join(map(str, self.ports))}" if self.ports else who


class TierPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy of the admin or the baseline tier.

    priority: 0 to 1000, lower first; NO_PRIORITY for a kind without one, UNPLACED for an invalid tier or priority
    subject:  the Pods that it applies to; None if invalid: then it applies to none
    problem:  why the policy as a whole is invalid; problems of single rules are in the rules
    audit:    it is annotated `nfagent.io/audit: "true"` (docs/audit-mode.md)
    audit_problem: why that annotation can't be read
    """

    kind: TierKind
    name: str
    tier: Tier
    priority: int = NO_PRIORITY
    subject: PodPeer | None = None
    ingress: tuple[TierRule, ...] = ()
    egress: tuple[TierRule, ...] = ()
    problem: ValidationIssue | None = None
    audit: bool = False
    audit_problem: ValidationIssue | None = None

    @property
    def ref(self) -> ObjectRef:
        """The reference of this object."""
        return ObjectRef(self.kind, "", self.name)

    @property
    def rank(self) -> tuple[int, str, str]:
        """Sort key in its tier: priority, then name (the API leaves ties open), then kind."""
        return (self.priority, self.name, self.kind)

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """All problems of the policy, its rules and its annotation."""
        found = [self.problem, *(rule.problem for rule in (*self.ingress, *self.egress)), self.audit_problem]
        return tuple(dict.fromkeys(problem for problem in found if problem is not None))

    def with_last_good(self, before: Policy | None) -> TierPolicy:
        """Return the policy with subject and audit mode of the version before, where its own can't be read.

        With an unreadable subject, it denies everything in the directions of its rules, to the Pods of that subject.
        """
        if not isinstance(before, TierPolicy):
            return self
        subject = before.subject if self.subject is None else self.subject
        audit = self.audit if self.audit_problem is None else before.audit
        return msgspec.structs.replace(self, subject=subject, audit=audit)

    def rules(self, direction: Direction) -> tuple[TierRule, ...]:
        """Return the rules of one direction; empty if the policy doesn't apply to it."""
        return self.ingress if direction == "ingress" else self.egress


Policy: TypeAlias = NetworkPolicy | TierPolicy
"""Every kind of policy."""


def applies(policy: Policy, direction: Direction) -> bool:
    """Return whether a policy that selects a Pod applies to it in a direction."""
    return direction in policy.isolates if isinstance(policy, NetworkPolicy) else bool(policy.rules(direction))
