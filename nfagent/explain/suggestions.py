"""Suggestions: the smallest changes of policies that allow a denied connection, or deny an allowed one.

Derived from the verdict alone, and exact: a test applies each change and evaluates the flow again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from nfagent.explain.peer_naming import peer_for_address, peer_for_pod
from nfagent.explain.policy_edits import (
    AddPolicyRule,
    AddPort,
    AddTierRule,
    EndAudit,
    FixField,
    NewPolicy,
    RemoveRules,
    Suggestion,
)
from nfagent.model.admin_policy import Policy, TierAction, TierPolicy
from nfagent.model.networkpolicy import IpBlock, PodPeer, PolicyPort
from nfagent.model.objects import ObjectRef, Protocol
from nfagent.policy.evaluator import DirectionVerdict, Flow, TierResult
from nfagent.state.cluster import ClusterState


def suggest(
    cluster: ClusterState,
    policies: Mapping[ObjectRef, Policy],
    flow: Flow,
    side: DirectionVerdict,
    servers: PodPeer | None = None,
) -> tuple[Suggestion, ...]:
    """Return changes that each reverse the verdict of one end, the smallest first.

    policies: at least those that the verdict names
    flow:     as this end sees it
    servers:  the peer for the Pod at the destination: all Pods of its Service; None: by the Pod's own labels
    """
    if not side.audited:
        return _by_tier(cluster, policies, flow, side, servers)
    if side.enforced is None:
        # A new denial by an audited policy would be audited as well, and enforced ones may allow it elsewhere.
        return ()
    if side.allowed:
        return (_end_audit(cluster, policies, side),)
    found = _by_tier(cluster, policies, flow, side.enforced, servers)
    if cluster.audits_policies(side.pod.namespace):
        # A new NetworkPolicy would be audited: what it allows holds only if no tier before it denies.
        found = tuple(edit for edit in found if not isinstance(edit, NewPolicy))
    return found


def _by_tier(
    cluster: ClusterState,
    policies: Mapping[ObjectRef, Policy],
    flow: Flow,
    side: DirectionVerdict,
    servers: PodPeer | None,
) -> tuple[Suggestion, ...]:
    builder = _SuggestionBuilder(cluster, policies, flow, side, servers)
    decided = side.decided
    if decided is None:
        return builder.isolate()
    match decided.tier, decided.verdict:
        case "network", "deny":
            return builder.allow_in_network_tier(decided)
        case "network", _:
            return (builder.remove_rules(decided),)
        case _, "deny":
            return builder.allow_before_tier(decided)
        case "admin", _:
            return builder.precede(decided, "deny")
    return builder.isolate()


def _end_audit(cluster: ClusterState, policies: Mapping[ObjectRef, Policy], side: DirectionVerdict) -> EndAudit:
    """Return the end of the audit mode of all policies that apply: then they deny as their verdict says."""
    found: dict[ObjectRef, None] = {}
    for ref in side.audited:
        if policies[ref].audit:
            found[ref] = None
        if ref.namespace and cluster.audits_policies(ref.namespace):
            found[ObjectRef("Namespace", "", ref.namespace)] = None
    return EndAudit(side.direction, tuple(found))


class _SuggestionBuilder:
    """Builds the changes for one end: the peer and the port that a rule must have."""

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
        self._is_audited = cluster.audits_policies(side.pod.namespace)
        served = servers if cluster.holder(flow.destination) is not None else None
        own = served if side.direction == "ingress" else None
        # Finding a label that only this Pod has reads its whole Namespace: not for the Pods of a Service.
        self._pods = own or peer_for_pod(cluster, cluster.pods[side.pod.namespace, side.pod.name])
        if side.direction == "ingress":
            self._peer = peer_for_address(cluster, flow.source)
        else:
            self._peer = served or peer_for_address(cluster, flow.destination)

    def isolate(self) -> tuple[NewPolicy, ...]:
        """Return a policy that isolates the Pod and allows nothing; none in a Namespace where it would be audited."""
        return () if self._is_audited else (NewPolicy(self._direction, self._pods),)

    def remove_rules(self, tier_result: TierResult) -> RemoveRules:
        """Return the removal of all NetworkPolicy rules that match."""
        rules = tuple((rule.policy, rule.index) for rule in tier_result.rules if rule.outcome == "matches")
        changed = [policy for policy, _ in rules]
        emptied = any(changed.count(rule.policy) == rule.total for rule in tier_result.rules)
        return RemoveRules(self._direction, rules, keep_type=emptied and self._direction == "egress")

    def allow_in_network_tier(self, tier_result: TierResult) -> tuple[Suggestion, ...]:
        """Return changes of the NetworkPolicies: a port for a rule whose peers match, else a new rule."""
        near = next((rule for rule in tier_result.rules if rule.outcome == "port"), None)
        if near is not None and self._port is not None:
            return (AddPort(self._direction, near.policy, near.index, self._port),)
        faults = {ref: fault for ref in tier_result.policies for fault in self._policies[ref].problems}
        for ref in tier_result.policies:
            if ref not in faults:
                return (AddPolicyRule(self._direction, ref, self._peer, self._port),)
        ref, fault = next(iter(faults.items()))
        fixed = FixField(self._direction, ref, fault.field, fault.reason, self._peer, self._port)
        return (fixed, NewPolicy(self._direction, self._pods, self._peer, self._port))

    def allow_before_tier(self, tier_result: TierResult) -> tuple[Suggestion, ...]:
        """Return changes that allow it before the denying rule of a tier is reached, or that fix that rule."""
        decider = tier_result.rules[-1]
        policy = self._policies[decider.policy]
        found: list[Suggestion] = []
        fault = policy.rules(self._direction)[decider.index].problem if isinstance(policy, TierPolicy) else None
        if fault is not None:
            found.append(FixField(self._direction, decider.policy, fault.field, fault.reason))
        if tier_result.tier == "baseline":
            found.append(NewPolicy(self._direction, self._pods, self._peer, self._port))
        return (*found, *self.precede(tier_result, "allow"))

    def precede(self, tier_result: TierResult, action: TierAction) -> tuple[Suggestion, ...]:
        """Return a rule that precedes the decisive one; none if no rule of a tier can select the other end."""
        decider = tier_result.rules[-1]
        policy = self._policies[decider.policy]
        unselectable = self._direction == "ingress" and isinstance(self._peer, IpBlock)
        if not isinstance(policy, TierPolicy) or unselectable:
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
    """Return the port that a rule must have; None if only a rule without ports matches."""
    if flow.port is None or flow.protocol not in {"tcp", "udp", "sctp"}:
        return None
    return PolicyPort(cast("Protocol", flow.protocol), flow.port, flow.port)
