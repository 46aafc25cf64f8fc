"""The verdict on one flow, with its reasons: the second implementation of policies.

Independent of the compiler: it evaluates the objects themselves, with no index but the Pods' addresses, one flow at a
time. Tests use it as oracle, `nfagent explain` for its answers, and the verdict log for every policy that allowed a
connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Literal, TypeAlias

import msgspec

from nfagent.model.admin_policy import Policy, Tier, TierAction, TierPolicy, TierRule
from nfagent.model.netaddr import endpoint, is_link_local
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer
from nfagent.model.objects import Direction, ObjectRef, Pod
from nfagent.policy.held_addresses import held_reason
from nfagent.policy.matching import EVERY_POD, FlowEndpoint, PodLabels, port_matches
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState

RuleMatch: TypeAlias = Literal["matches", "peer", "port"]
"""The result of a rule: it matches, its peers don't, or its peers match and its ports don't."""

_Applying: TypeAlias = tuple[list[TierPolicy], list[NetworkPolicy], list[TierPolicy]]
"""The policies that apply to a Pod in one direction: admin tier, NetworkPolicies, baseline tier."""

EvaluatedTier: TypeAlias = Tier | Literal["network"]
"""In order of evaluation: admin, network (all NetworkPolicies), baseline."""


class Flow(msgspec.Struct, frozen=True):
    """A new connection as policies see it: after DNAT of a Service's address, before masquerade.

    source, destination: canonical addresses of one family
    protocol:            'tcp', 'udp', 'sctp', 'icmp', 'icmpv6', or another protocol's number as text
    port:                the destination port; None for a protocol without ports
    translated:          the client connected to another address, a Service's, which was translated to the destination
    """

    source: str
    destination: str
    protocol: str
    port: int | None = None
    translated: bool = False

    def __str__(self) -> str:
        """Return it as text: `10.0.0.1 -> 10.0.0.2:80/tcp`."""
        return f"{self.source} -> {endpoint(self.destination, self.port)}/{self.protocol}"


class RuleOutcome(msgspec.Struct, frozen=True):
    """The result of one rule.

    policy:  the rule's policy
    index:   the rule's position in the policy's list, from 0
    total:   the number of rules in that list
    rule:    the rule
    outcome: whether it matches, or what doesn't match
    action:  what happens to a connection that it matches
    name:    the rule's name field; '' if it has none
    """

    policy: ObjectRef
    index: int
    total: int
    rule: NetworkPolicyRule | TierRule
    outcome: RuleMatch
    action: TierAction = "allow"
    name: str = ""

    @property
    def words(self) -> str:
        """The rule as text: made when it is asked for, which the verdict log never does."""
        rule = self.rule
        if isinstance(rule, NetworkPolicyRule) or rule.problem is None:
            return str(rule)
        peers = "no peer" if rule.matches_nothing else str(rule)
        return f"{peers}, as it can't be read: {rule.problem.reason}"


class TierResult(msgspec.Struct, frozen=True):
    """The result of one tier that was reached and has policies for the Pod in this direction.

    policies: those policies, in order of evaluation
    rules:    NetworkPolicy: every rule; the other tiers: the rules up to the first that matches
    verdict:  allow and deny are final; after pass, and after '' (no rule matches), the next tier decides
    """

    tier: EvaluatedTier
    policies: tuple[ObjectRef, ...]
    rules: tuple[RuleOutcome, ...]
    verdict: TierAction | Literal[""]

    @property
    def final(self) -> bool:
        """Return whether no later tier is evaluated."""
        return self.verdict in {"allow", "deny"}


class DirectionVerdict(msgspec.Struct, frozen=True):
    """The verdict at one end of a flow.

    pod:      the Pod whose policies apply
    stages:   the results of the tiers that were reached and have policies for it, in order
    audited:  those of the policies that apply to it which are in audit mode
    enforced: where `stages` deny and any of the policies is audited, the verdict without those; None otherwise
    """

    direction: Direction
    pod: ObjectRef
    stages: tuple[TierResult, ...] = ()
    audited: tuple[ObjectRef, ...] = ()
    enforced: DirectionVerdict | None = None

    @property
    def decided(self) -> TierResult | None:
        """The tier that decided, audited policies included; None if none did: allowed by default."""
        return self.stages[-1] if self.stages and self.stages[-1].final else None

    @property
    def allowed(self) -> bool:
        """Return whether this end lets the flow pass: its policies allow it, or they do without the audited ones."""
        decided = self.decided
        return decided is None or decided.verdict == "allow" or (self.enforced is not None and self.enforced.allowed)

    @property
    def audit_denying(self) -> tuple[ObjectRef, ...]:
        """The audited policies that would deny the flow, which passes; none if it doesn't, or if it is allowed.

        The policy whose rule denies it, or all NetworkPolicies that isolate the Pod. Where those that deny aren't all
        audited, it is the audited policy of the admin tier that passed the flow on to them.
        """
        if self.enforced is None or not self.enforced.allowed:
            return ()
        denying = self._denying
        if set(denying) <= set(self.audited):
            return denying
        return (self.stages[0].rules[-1].policy,)

    @property
    def isolating(self) -> tuple[ObjectRef, ...]:
        """The NetworkPolicies that isolate the Pod, if their tier was reached."""
        return next((stage.policies for stage in self.stages if stage.tier == "network"), ())

    @property
    def allowing(self) -> tuple[ObjectRef, ...]:
        """Every policy that allows the flow, each once, in order; none if it is allowed by default."""
        decided = self.decided
        if decided is None or decided.verdict != "allow":
            return ()
        return tuple(dict.fromkeys([rule.policy for rule in decided.rules if rule.outcome == "matches"]))

    @property
    def denying(self) -> tuple[ObjectRef, ...]:
        """The policy whose rule denies the flow, or all NetworkPolicies that isolate the Pod; no audited ones."""
        if self.enforced is not None:
            return self.enforced.denying
        return self._denying

    @property
    def _denying(self) -> tuple[ObjectRef, ...]:
        decided = self.decided
        if decided is None or decided.verdict != "deny":
            return ()
        return decided.policies if decided.tier == "network" else (decided.rules[-1].policy,)


class FlowVerdict(msgspec.Struct, frozen=True):
    """The verdicts at both ends; None for an end that is no Pod, or is exempt.

    exempt: why policies don't apply to an end that is a Pod: the other end is itself, or its own node; '' otherwise
    barred: why every node drops the flow independent of policies; '' if they decide
    """

    flow: Flow
    egress: DirectionVerdict | None
    ingress: DirectionVerdict | None
    exempt: str = ""
    barred: str = ""

    @property
    def allowed(self) -> bool:
        """Return whether every end that policies apply to allows the flow."""
        return not self.barred and all(side.allowed for side in (self.egress, self.ingress) if side is not None)


_DEFAULTS = PolicyOptions()


def evaluate(
    cluster: ClusterState,
    policies: Iterable[Policy],
    flow: Flow,
    policy_options: PolicyOptions = _DEFAULTS,
) -> FlowVerdict:
    """Return the verdict on a flow: egress at the source Pod and ingress at the destination Pod must both allow it.

    If several Pods share an address, each of them must allow it.
    """
    if is_link_local(flow.source) or is_link_local(flow.destination):
        return FlowVerdict(flow, None, None, barred="link-local addresses are never forwarded, not even between Pods")
    if policy_options.holds_unknown and (held := held_reason(cluster, flow.source, flow.destination)):
        return FlowVerdict(flow, None, None, barred=held)
    source, destination = cluster.holder(flow.source), cluster.holder(flow.destination)
    if source is not None and flow.source == flow.destination and not flow.translated:
        return FlowVerdict(flow, None, None, exempt="a Pod always reaches itself by its own address")
    everything = list(policies)
    egress = ingress = None
    exempt = []
    if source is not None and policy_options.own_node == "allowed" and _is_node_of(cluster, source, flow.destination):
        exempt.append(f"a Pod may always reach its own node, {source.node}: own_node = allowed")
    elif source is not None:
        egress = _evaluate_pods(cluster, everything, flow, cluster.holders(flow.source), "egress")
    if destination is not None and _is_node_of(cluster, destination, flow.source):
        exempt.append(f"node {destination.node} always reaches its own Pods")
    elif destination is not None:
        ingress = _evaluate_pods(cluster, everything, flow, cluster.holders(flow.destination), "ingress")
    return FlowVerdict(flow, egress, ingress, exempt="; ".join(exempt))


def _evaluate_pods(
    cluster: ClusterState, policies: list[Policy], flow: Flow, pods: tuple[Pod, ...], direction: Direction
) -> DirectionVerdict:
    """Return the decisive verdict of several Pods: a denial, else one that a policy decided, else the first."""
    sides = [evaluate_direction(cluster, policies, flow, pod, direction) for pod in pods]
    return min(sides, key=lambda side: (side.allowed, side.decided is None)) if len(sides) > 1 else sides[0]


def evaluate_direction(
    cluster: ClusterState, policies: Iterable[Policy], flow: Flow, pod: Pod, direction: Direction
) -> DirectionVerdict:
    """Return the verdict at one end: admin tier, NetworkPolicy, baseline tier, until one of them decides.

    pod: a Pod outside the host network; policies never apply to host-network Pods
    """
    applying = _applying(cluster, policies, pod, direction)
    matcher = _RuleMatcher(cluster, flow, direction)
    stages = _evaluate_tiers(matcher, applying)
    audited = [policy.ref for tier in applying for policy in tier if _is_audited(cluster, policy)]
    verdict = DirectionVerdict(direction, pod.ref, stages, tuple(audited))
    if not audited or verdict.allowed:
        return verdict
    admin, network, baseline = applying
    enforced = (
        [policy for policy in admin if policy.ref not in audited],
        [policy for policy in network if policy.ref not in audited],
        [policy for policy in baseline if policy.ref not in audited],
    )
    without = DirectionVerdict(direction, pod.ref, _evaluate_tiers(matcher, enforced))
    return msgspec.structs.replace(verdict, enforced=without)


def _is_audited(cluster: ClusterState, policy: Policy) -> bool:
    """Return whether a policy is in audit mode, by its own annotation or, for a NetworkPolicy, its Namespace's."""
    return policy.audit or (isinstance(policy, NetworkPolicy) and cluster.audits_policies(policy.namespace))


def _evaluate_tiers(matcher: _RuleMatcher, applying: _Applying) -> tuple[TierResult, ...]:
    admin, network, baseline = applying
    stages: list[TierResult] = []
    if admin:
        stages.append(_evaluate_tier(matcher, "admin", admin))
    if network and not (stages and stages[-1].final):
        stages.append(_evaluate_network(matcher, network))
    if baseline and not (stages and stages[-1].final):
        stages.append(_evaluate_tier(matcher, "baseline", baseline))
    return tuple(stages)


class _RuleMatcher:
    """Matches rules of one direction with a flow."""

    __slots__ = ("_cluster", "_flow", "_other", "direction")

    def __init__(self, cluster: ClusterState, flow: Flow, direction: Direction) -> None:
        self.direction = direction
        self._cluster = cluster
        self._flow = flow
        self._other = FlowEndpoint(cluster, flow.source if direction == "ingress" else flow.destination)

    def match(self, policy: Policy, rule: NetworkPolicyRule | TierRule) -> RuleMatch:
        """Return whether a rule matches, or what doesn't match."""
        if rule.peers and not any(map(self._other.selected_by, rule.peers)):
            return "peer"
        ports, flow = rule.ports, self._flow
        if not ports:
            return "matches"
        if flow.port is None:
            return "port"
        servers: tuple[Pod, ...] | None = None
        for port in ports:
            if port.name and servers is None:
                servers = self._servers(policy, rule)
            if port_matches(port, flow.protocol, flow.port, servers or ()):
                return "matches"
        return "port"

    def _servers(self, policy: Policy, rule: NetworkPolicyRule | TierRule) -> tuple[Pod, ...]:
        """Return the Pods that resolve named ports: those at the destination that the rule selects."""
        if self.direction == "egress":
            return self._other.pods_selected_by(rule.peers or (EVERY_POD,))
        return FlowEndpoint(self._cluster, self._flow.destination).pods_selected_by(_subject(policy))


def _applying(cluster: ClusterState, policies: Iterable[Policy], pod: Pod, direction: Direction) -> _Applying:
    """Return the policies that apply to a Pod: admin tier, NetworkPolicies, baseline tier, each in order."""
    labelled = PodLabels(cluster, pod)
    namespace, labels = pod.namespace, labelled.labels
    network: list[NetworkPolicy] = []
    tiers: list[TierPolicy] = []
    for policy in policies:
        if isinstance(policy, TierPolicy):
            if policy.rules(direction) and policy.subject is not None and labelled.selected_by(policy.subject):
                tiers.append(policy)
        elif policy.namespace == namespace and direction in policy.isolates and policy.pods.matches(labels):
            network.append(policy)
    if len(network) > 1:
        network.sort(key=_name)
    if not tiers:
        return [], network, []
    tiers.sort(key=_rank)
    return [tier for tier in tiers if tier.tier == "admin"], network, [tier for tier in tiers if tier.tier != "admin"]


def _evaluate_network(matcher: _RuleMatcher, policies: list[NetworkPolicy]) -> TierResult:
    """Evaluate every rule: one that matches is enough, and all that match are reported."""
    refs: list[ObjectRef] = []
    outcomes: list[RuleOutcome] = []
    verdict: TierAction = "deny"
    for policy in policies:
        ref, rules = policy.ref, policy.rules(matcher.direction)
        refs.append(ref)
        for index, rule in enumerate(rules):
            outcome = matcher.match(policy, rule)
            outcomes.append(RuleOutcome(ref, index, len(rules), rule, outcome))
            if outcome == "matches":
                verdict = "allow"
    return TierResult("network", tuple(refs), tuple(outcomes), verdict)


def _evaluate_tier(matcher: _RuleMatcher, tier: Tier, policies: list[TierPolicy]) -> TierResult:
    """Evaluate the rules in order, up to the first that matches."""
    refs = tuple(policy.ref for policy in policies)
    outcomes: list[RuleOutcome] = []
    for policy, ref in zip(policies, refs, strict=True):
        rules = policy.rules(matcher.direction)
        for index, rule in enumerate(rules):
            outcome = "peer" if rule.matches_nothing else matcher.match(policy, rule)
            outcomes.append(RuleOutcome(ref, index, len(rules), rule, outcome, rule.action, rule.name))
            if outcome == "matches":
                return TierResult(tier, refs, tuple(outcomes), rule.action)
    return TierResult(tier, refs, tuple(outcomes), "")


def _subject(policy: Policy) -> tuple[PodPeer, ...]:
    """Return the Pods that a policy selects, as a peer; none if its subject can't be read."""
    if isinstance(policy, NetworkPolicy):
        return (PodPeer(policy.pods, namespace=policy.namespace),)
    return () if policy.subject is None else (policy.subject,)


_name = attrgetter("name")
_rank = attrgetter("rank")


def _is_node_of(cluster: ClusterState, pod: Pod, address: str) -> bool:
    node = cluster.nodes.get(pod.node)
    return node is not None and address in node.addresses
