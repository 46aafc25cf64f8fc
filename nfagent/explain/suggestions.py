"""What would turn a verdict: the smallest change of policies that allows what is denied, or denies what is allowed.

Found from the judgement alone, and exact: a test makes each change and judges again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from nfagent.explain.peer_naming import peer_for_address, peer_for_pod
from nfagent.explain.policy_edits import AddPort, AddRule, AddTierRule, FixField, NewPolicy, RemoveRules, Suggestion
from nfagent.model.admin_policy import Action, Policy, TierPolicy
from nfagent.model.networkpolicy import IpBlock, PodPeer, PolicyPort
from nfagent.model.objects import ObjectRef, Protocol
from nfagent.policy.evaluator import DirectionVerdict, Flow, TierResult
from nfagent.state.cluster import ClusterState


def remedies(
    cluster: ClusterState,
    policies: Mapping[ObjectRef, Policy],
    flow: Flow,
    side: DirectionVerdict,
    servers: PodPeer | None = None,
) -> tuple[Suggestion, ...]:
    """Give the changes of which each one turns the verdict of this end, the smallest first.

    policies: those that the end was judged by
    flow:     as it was judged there
    servers:  how to name the Pod at the destination: with all others behind its Service; None: by its own labels
    """
    found = _Finder(cluster, policies, flow, side, servers)
    decided = side.decided
    if decided is None:
        return (found.isolate(),)
    match decided.tier, decided.verdict:
        case "network", "deny":
            return found.allow_in(decided)
        case "network", _:
            return (found.take_away(decided),)
        case _, "deny":
            return found.allow_before(decided)
        case "admin", _:
            return found.before(decided, "deny")
    return (found.isolate(),)


class _Finder:
    """Makes the changes for one end: whom a rule would have to name, and on which port."""

    def __init__(
        self,
        cluster: ClusterState,
        policies: Mapping[ObjectRef, Policy],
        flow: Flow,
        side: DirectionVerdict,
        servers: PodPeer | None,
    ) -> None:
        self._policies = policies
        self._direction = side.direction
        self._port = _port_of(flow)
        served = servers if cluster.holder(flow.destination) is not None else None
        own = served if side.direction == "ingress" else None
        # To tell a Pod's labels from others' takes a look at its whole Namespace.
        self._pods = own or peer_for_pod(cluster, cluster.pods[side.pod.namespace, side.pod.name])
        if side.direction == "ingress":
            self._peer = peer_for_address(cluster, flow.source)
        else:
            self._peer = served or peer_for_address(cluster, flow.destination)

    def isolate(self) -> NewPolicy:
        """Isolate the Pod, allowing nothing."""
        return NewPolicy(self._direction, self._pods)

    def take_away(self, stage: TierResult) -> RemoveRules:
        """Take away all rules of NetworkPolicies that match."""
        rules = tuple((rule.policy, rule.index) for rule in stage.rules if rule.outcome == "matches")
        taken = [policy for policy, _ in rules]
        left = any(taken.count(rule.policy) == rule.total for rule in stage.rules)
        return RemoveRules(self._direction, rules, keep_type=left and self._direction == "egress")

    def allow_in(self, stage: TierResult) -> tuple[Suggestion, ...]:
        """Have one of the NetworkPolicies allow it: by a port more where a rule's peers match, else by a rule more."""
        near = next((rule for rule in stage.rules if rule.outcome == "port"), None)
        if near is not None and self._port is not None:
            return (AddPort(self._direction, near.policy, near.index, self._port),)
        faults = {ref: fault for ref in stage.policies for fault in self._policies[ref].problems}
        for ref in stage.policies:
            if ref not in faults:
                return (AddRule(self._direction, ref, self._peer, self._port),)
        ref, fault = next(iter(faults.items()))
        mended = FixField(self._direction, ref, fault.field, fault.reason, self._peer, self._port)
        return (mended, NewPolicy(self._direction, self._pods, self._peer, self._port))

    def allow_before(self, stage: TierResult) -> tuple[Suggestion, ...]:
        """Have it allowed where the rule of a tier that denies isn't reached, or mend that rule."""
        decider = stage.rules[-1]
        policy = self._policies[decider.policy]
        found: list[Suggestion] = []
        fault = policy.rules(self._direction)[decider.index].problem if isinstance(policy, TierPolicy) else None
        if fault is not None:
            found.append(FixField(self._direction, decider.policy, fault.field, fault.reason))
        if stage.tier == "baseline":
            found.append(NewPolicy(self._direction, self._pods, self._peer, self._port))
        return (*found, *self.before(stage, "allow"))

    def before(self, stage: TierResult, action: Action) -> tuple[Suggestion, ...]:
        """Put a rule before the one that decides; none where no rule of the tiers can name the other end."""
        decider = stage.rules[-1]
        policy = self._policies[decider.policy]
        nameless = self._direction == "ingress" and isinstance(self._peer, IpBlock)
        if not isinstance(policy, TierPolicy) or nameless:
            return ()
        closed = policy.problem is not None
        if closed and not policy.priority:
            return ()
        return (
            AddTierRule(
                self._direction,
                decider.policy,
                decider.index,
                action,
                self._peer,
                self._port,
                tier=policy.tier,
                priority=policy.priority,
                closed=closed,
            ),
        )


def _port_of(flow: Flow) -> PolicyPort | None:
    """Give the port that a rule has to name; None where only a rule without ports matches."""
    if flow.port is None or flow.protocol not in {"tcp", "udp", "sctp"}:
        return None
    return PolicyPort(cast("Protocol", flow.protocol), flow.port, flow.port)
