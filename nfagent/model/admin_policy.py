"""The tiers around NetworkPolicy as nfagent reads them: policies of whole clusters, with priorities and actions.

policy.networking.k8s.io: AdminNetworkPolicy and BaselineAdminNetworkPolicy (v1alpha1), ClusterNetworkPolicy (v1alpha2).
One shape serves all three: a tier, a priority in it, a subject, and rules of which the first that matches decides.

    admin tier     deny, allow: final; pass, or no rule matches: on to NetworkPolicy
    NetworkPolicy  where any isolates the Pod in this direction, its verdict is final
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
Action: TypeAlias = Literal["allow", "deny", "pass"]
"""v1alpha1's Allow and v1alpha2's Accept are one."""

TierKind: TypeAlias = Literal["AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"]

SHORT_KINDS: dict[str, str] = {
    "AdminNetworkPolicy": "anp",
    "BaselineAdminNetworkPolicy": "banp",
    "ClusterNetworkPolicy": "cnp",
}
"""The CRDs' own short names."""

LAST_PRIORITY = 1000
NO_PRIORITY = LAST_PRIORITY + 1
"""Where BaselineAdminNetworkPolicy stands, which has none: behind all that have one."""
UNPLACED = LAST_PRIORITY + 2
"""Where a policy stands whose place can't be read: behind all others of its tier."""


class NodePeer(msgspec.Struct, frozen=True, order=True, tag=True):
    """The addresses of the Nodes that a selector takes, host-network Pods there included; egress only."""

    nodes: Selector

    def __str__(self) -> str:
        """Say it in words: `nodes role=edge`."""
        return f"nodes {self.nodes}" if self.nodes.requirements else "all nodes"


TierPeer: TypeAlias = PodPeer | NodePeer | IpBlock


class TierRule(msgspec.Struct, frozen=True):
    """One rule: what becomes of a connection whose peer and port match.

    peers:   any of them matches; none at all only where a rule fails closed: then everything matches
    ports:   none means every port and protocol
    problem: why the rule can't be read. An allow rule then matches nothing; any other became `deny` of everything
    """

    action: Action
    peers: tuple[TierPeer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()
    name: str = ""
    problem: ValidationIssue | None = None

    @property
    def void(self) -> bool:
        """Tell whether it matches nothing: an allow rule that can't be read."""
        return self.problem is not None and self.action == "allow"

    def __str__(self) -> str:
        """Say whom and which ports it is about: `pods app=web in all namespaces on 80/tcp`."""
        who = " or ".join(map(str, self.peers)) or "anywhere"
        return f"{who} on {', '.join(map(str, self.ports))}" if self.ports else who


class TierPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy of the admin or the baseline tier.

    priority: 0 to 1000, lower first; NO_PRIORITY for a kind without one, UNPLACED for a place that can't be read
    subject:  the Pods that it judges; None where it can't be read: then nobody is known to be judged
    problem:  what is wrong with the policy as a whole; faults of single rules are in the rules
    """

    kind: TierKind
    name: str
    tier: Tier
    priority: int = NO_PRIORITY
    subject: PodPeer | None = None
    ingress: tuple[TierRule, ...] = ()
    egress: tuple[TierRule, ...] = ()
    problem: ValidationIssue | None = None

    @property
    def ref(self) -> ObjectRef:
        """Name this object."""
        return ObjectRef(self.kind, "", self.name)

    @property
    def rank(self) -> tuple[int, str, str]:
        """Where it stands in its tier: by priority, then name (the API leaves ties open), then kind."""
        return (self.priority, self.name, self.kind)

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """Everything that is wrong with it."""
        found = [self.problem, *(rule.problem for rule in (*self.ingress, *self.egress))]
        return tuple(dict.fromkeys(problem for problem in found if problem is not None))

    def with_last_good(self, before: Policy | None) -> TierPolicy:
        """Return the policy with its subject as the version before has it, where it can't be read now.

        Such a policy denies everything in the directions of its rules: to those Pods, rather than to nobody.
        """
        if self.subject is not None or not isinstance(before, TierPolicy):
            return self
        return msgspec.structs.replace(self, subject=before.subject)

    def rules(self, direction: Direction) -> tuple[TierRule, ...]:
        """Give the rules of one direction; none: the policy doesn't touch it."""
        return self.ingress if direction == "ingress" else self.egress


Policy: TypeAlias = NetworkPolicy | TierPolicy
"""Whatever judges connections."""
