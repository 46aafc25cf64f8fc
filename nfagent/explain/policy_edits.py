"""Changes of policies, as values and in words: each of them turns the verdict of one end of a connection.

`remedy` finds those that would turn a judgement.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from nfagent.model.admin_policy import LAST_PRIORITY, Action, Tier
from nfagent.model.networkpolicy import IpBlock, Peer, PodPeer, PolicyPort
from nfagent.model.objects import Direction, ObjectRef

_NAMED = 5
"""Rules that are named one by one."""


class PolicyEdit(msgspec.Struct, frozen=True, tag=True):
    """One change that turns the verdict of one end."""

    direction: Direction


class AddPort(PolicyEdit, frozen=True, tag=True):
    """A port more for a rule of a NetworkPolicy whose peers match; `rule` counts from 0."""

    policy: ObjectRef
    rule: int
    port: PolicyPort

    def __str__(self) -> str:
        """Say it as an instruction."""
        return f"add {self.port} to {self.direction} rule {self.rule + 1} of {self.policy}"


class AddRule(PolicyEdit, frozen=True, tag=True):
    """A rule more for a NetworkPolicy that isolates; no port: a rule without ports."""

    policy: ObjectRef
    peer: Peer
    port: PolicyPort | None

    def __str__(self) -> str:
        """Say it as an instruction."""
        return f"let an {self.direction} rule of {self.policy} allow {_traffic(self.peer, self.port)}"


class NewPolicy(PolicyEdit, frozen=True, tag=True):
    """A NetworkPolicy more, which selects `pods` and isolates them; no peer: it allows nothing this way."""

    pods: PodPeer
    peer: Peer | None = None
    port: PolicyPort | None = None

    def __str__(self) -> str:
        """Say it as an instruction, and what comes with it."""
        if self.peer is None:
            return f"isolate {self.direction} of {self.pods} by a NetworkPolicy"
        way = "from" if self.direction == "ingress" else "to"
        traffic = _traffic(self.peer, self.port)
        return f"let a new NetworkPolicy allow {self.direction} of {self.pods} {way} {traffic}; it denies the rest"


class AddTierRule(PolicyEdit, frozen=True, tag=True):
    """A rule that comes before the one that decides in a tier.

    policy, rule: the rule that decides, counted from 0; the new one comes before it, unless `closed`: the policy can't
                  be read as a whole
    priority:     the rule may as well be in a policy of the tier with a priority below this one; 0: there is none
    """

    policy: ObjectRef
    rule: int
    action: Action
    peer: Peer
    port: PolicyPort | None
    tier: Tier
    priority: int
    closed: bool

    def __str__(self) -> str:
        """Say it as an instruction."""
        places = []
        if not self.closed:
            places.append(f"before {self.direction} rule {self.rule + 1} of {self.policy}")
        if self.priority:
            places.append(self._elsewhere())
        allow = "Accept" if self.policy.kind == "ClusterNetworkPolicy" else "Allow"
        action = "Deny" if self.action == "deny" else allow
        article = "a" if action == "Deny" else "an"
        return f"put {article} {action} rule for {_traffic(self.peer, self.port)} {', or '.join(places)}"

    def _elsewhere(self) -> str:
        """Say in which other policy the rule may stand."""
        if self.tier == "baseline":
            which = "a ClusterNetworkPolicy of tier Baseline"
        else:
            which = "a policy of the admin tier" if self.closed else "one"
        below = f" and a priority below {self.priority}" if self.priority <= LAST_PRIORITY else ""
        return f"in {which} with the same subject{below}"


class RemoveRules(PolicyEdit, frozen=True, tag=True):
    """Rules of NetworkPolicies to be taken away, counted from 0: every one that allows it.

    keep_type: a policy has no egress rule left then, and isolates egress only where its policyTypes say so
    """

    rules: tuple[tuple[ObjectRef, int], ...]
    keep_type: bool = False

    def __str__(self) -> str:
        """Say it as an instruction."""
        named = [f"rule {index + 1} of {policy}" for policy, index in self.rules[:_NAMED]]
        more = len(self.rules) - _NAMED
        if more > 0:
            named.append(f"{more} more")
        shown = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}: each of them allows it"
        kept = "; keep Egress in policyTypes" if self.keep_type else ""
        return f"take away {self.direction} {shown}{kept}"


class FixField(PolicyEdit, frozen=True, tag=True):
    """A fault to be mended in a policy that fails closed.

    field, reason: the path of the field at fault, and what is wrong with it
    peer, port:    what a NetworkPolicy has to allow then; no peer: a policy of a tier, and what it then says decides
    """

    policy: ObjectRef
    field: str
    reason: str
    peer: Peer | None = None
    port: PolicyPort | None = None

    def __str__(self) -> str:
        """Say it as an instruction."""
        where = f"{self.field} of {self.policy}" if self.field else str(self.policy)
        then = "what it says then decides" if self.peer is None else f"let it allow {_traffic(self.peer, self.port)}"
        return f"mend {where} (it {self.reason}), and {then}"


Suggestion: TypeAlias = AddPort | AddRule | NewPolicy | AddTierRule | RemoveRules | FixField
"""Whatever may turn a verdict."""


def _traffic(peer: Peer, port: PolicyPort | None) -> str:
    """Say whom and what a rule has to be about: `pods app=web in namespace shop on 80/tcp`."""
    who = str(peer) if isinstance(peer, PodPeer) else _cidr(peer)
    return f"{who} on {port}" if port is not None else f"{who} on every port and protocol"


def _cidr(block: IpBlock) -> str:
    """Write one address as a policy has to: as a CIDR."""
    shown = str(block)
    return shown if "/" in shown else f"{shown}/{128 if ':' in shown else 32}"
