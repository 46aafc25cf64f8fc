"""Changes of policies, as values and as text: each of them reverses the verdict at one end of a connection.

`suggestions` finds the changes that reverse a given verdict.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from nfagent.model.admin_policy import LAST_PRIORITY, Tier, TierAction
from nfagent.model.networkpolicy import IpBlock, Peer, PodPeer, PolicyPort
from nfagent.model.objects import Direction, ObjectRef

_NAMED = 5
"""Rules to remove that are listed; more are counted."""


class PolicyEdit(msgspec.Struct, frozen=True, tag=True):
    """A change that reverses the verdict at one end."""

    direction: Direction


class AddPort(PolicyEdit, frozen=True, tag=True):
    """Adds a port to a NetworkPolicy rule whose peers match; `rule` counts from 0."""

    policy: ObjectRef
    rule: int
    port: PolicyPort

    def __str__(self) -> str:
        """Return it as an instruction."""
        return f"add {self.port} to {self.direction} rule {self.rule + 1} of {self.policy}"


class AddPolicyRule(PolicyEdit, frozen=True, tag="AddRule"):
    """Adds a rule to a NetworkPolicy that isolates the Pod; no port: a rule without ports."""

    policy: ObjectRef
    peer: Peer
    port: PolicyPort | None

    def __str__(self) -> str:
        """Return it as an instruction."""
        return f"add an {self.direction} rule to {self.policy} that allows {_traffic(self.peer, self.port)}"


class NewPolicy(PolicyEdit, frozen=True, tag=True):
    """Adds a NetworkPolicy that selects `pods` and isolates them in this direction; no peer: it allows nothing."""

    pods: PodPeer
    peer: Peer | None = None
    port: PolicyPort | None = None

    def __str__(self) -> str:
        """Return it as an instruction, with the side effect."""
        if self.peer is None:
            return f"add a NetworkPolicy that isolates {self.direction} of {self.pods}"
        preposition = "from" if self.direction == "ingress" else "to"
        traffic = _traffic(self.peer, self.port)
        allowed = f"{self.direction} of {self.pods} {preposition} {traffic}"
        return f"add a NetworkPolicy that allows {allowed}; it denies the rest"


class AddTierRule(PolicyEdit, frozen=True, tag=True):
    """Adds a rule that precedes the decisive rule of a tier.

    policy, rule: the decisive rule, counted from 0; the new one precedes it, unless `closed`
    priority:     the new rule may also be in a policy of the tier with a lower priority than this; 0: it may not
    closed:       the policy fails closed as a whole, so a rule in it has no effect
    """

    policy: ObjectRef
    rule: int
    action: TierAction
    peer: Peer
    port: PolicyPort | None
    tier: Tier
    priority: int
    closed: bool

    def __str__(self) -> str:
        """Return it as an instruction."""
        places = []
        if not self.closed:
            places.append(f"before {self.direction} rule {self.rule + 1} of {self.policy}")
        if self.priority:
            places.append(self._elsewhere())
        allow = "Accept" if self.policy.kind == "ClusterNetworkPolicy" else "Allow"
        action = "Deny" if self.action == "deny" else allow
        article = "a" if action == "Deny" else "an"
        return f"add {article} {action} rule for {_traffic(self.peer, self.port)} {', or '.join(places)}"

    def _elsewhere(self) -> str:
        """Return the other policies that the rule may be in."""
        if self.tier == "baseline":
            which = "a ClusterNetworkPolicy of tier Baseline"
        else:
            which = "a policy of the admin tier" if self.closed else "one"
        below = f" and a priority below {self.priority}" if self.priority <= LAST_PRIORITY else ""
        return f"in {which} with the same subject{below}"


class RemoveRules(PolicyEdit, frozen=True, tag=True):
    """Removes rules of NetworkPolicies, counted from 0: every one that allows the connection.

    keep_type: a policy then has no egress rule left, and isolates egress only if its policyTypes include it
    """

    rules: tuple[tuple[ObjectRef, int], ...]
    keep_type: bool = False

    def __str__(self) -> str:
        """Return it as an instruction."""
        named = [f"rule {index + 1} of {policy}" for policy, index in self.rules[:_NAMED]]
        more = len(self.rules) - _NAMED
        if more > 0:
            named.append(f"{more} more")
        shown = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}: each of them allows it"
        kept = "; keep Egress in policyTypes" if self.keep_type else ""
        return f"remove {self.direction} {shown}{kept}"


class FixField(PolicyEdit, frozen=True, tag=True):
    """Fixes a field of a policy that fails closed.

    field, reason: the path of the invalid field, and what is wrong with it
    peer, port:    what the fixed NetworkPolicy must allow; no peer: an admin tier policy, whose fixed rules decide
    """

    policy: ObjectRef
    field: str
    reason: str
    peer: Peer | None = None
    port: PolicyPort | None = None

    def __str__(self) -> str:
        """Return it as an instruction."""
        where = f"{self.field} of {self.policy}" if self.field else str(self.policy)
        then = "its fixed rules decide" if self.peer is None else f"let it allow {_traffic(self.peer, self.port)}"
        return f"fix {where} (it {self.reason}), and {then}"


class EndAudit(PolicyEdit, frozen=True, tag=True):
    """Ends the audit mode of policies, so that they are enforced.

    objects: the policies and Namespaces that have the annotation
    """

    objects: tuple[ObjectRef, ...]

    def __str__(self) -> str:
        """Return it as an instruction."""
        named = [str(ref) for ref in self.objects[:_NAMED]]
        more = len(self.objects) - _NAMED
        if more > 0:
            named.append(f"{more} more")
        shown = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
        return f"remove the annotation nfagent.io/audit from {shown}"


Suggestion: TypeAlias = AddPort | AddPolicyRule | NewPolicy | AddTierRule | RemoveRules | FixField | EndAudit
"""Any change that reverses a verdict."""


def _traffic(peer: Peer, port: PolicyPort | None) -> str:
    """Return the traffic that a rule must match as text: `pods app=web in namespace shop on 80/tcp`."""
    who = str(peer) if isinstance(peer, PodPeer) else _cidr(peer)
    return f"{who} on {port}" if port is not None else f"{who} on every port and protocol"


def _cidr(block: IpBlock) -> str:
    """Return an address as a CIDR, as policies require."""
    shown = str(block)
    return shown if "/" in shown else f"{shown}/{128 if ':' in shown else 32}"
