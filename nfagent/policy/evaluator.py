"""The verdict on one flow, with its reasons: a second reading of the policies.

Independent of `compile`: straight from the objects, no index but the Pods' addresses, one flow at a time.
It is the oracle of the tests, the mind of `nfagent explain`, and it names every policy that allowed a
logged connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Literal, TypeAlias

import msgspec

from nfagent.model.admin_policy import Action, Policy, Tier, TierPolicy, TierRule
from nfagent.model.netaddr import endpoint, is_link_local
from nfagent.model.networkpolicy import NetworkPolicy, PodPeer, Rule
from nfagent.model.objects import Direction, ObjectRef, Pod
from nfagent.model.weighted_cache import WeightedCache
from nfagent.policy.matching import EVERY_POD, FlowEndpoint, PodLabels, port_matches
from nfagent.policy.options import PolicyOptions
from nfagent.state.cluster import ClusterState

RuleMatch: TypeAlias = Literal["matches", "peer", "port"]
"""What became of a rule: it matches, its peers don't, or its peers do and its ports don't."""

_REMEMBERED_CHARACTERS = 128 * 1024
"""Of rules in words."""

EvaluatedTier: TypeAlias = Tier | Literal["network"]
"""NetworkPolicy stands between the two tiers."""


class Flow(msgspec.Struct, frozen=True):
    """One new connection, as judged: after a Service's address was translated, before masquerade.

    source, destination: canonical addresses of one family
    protocol:            'tcp', 'udp', 'sctp', 'icmp', 'icmpv6', or another protocol's number as text
    port:                the destination port; None where the protocol has none
    translated:          the client called another address than the destination's: a Service's
    """

    source: str
    destination: str
    protocol: str
    port: int | None = None
    translated: bool = False

    def __str__(self) -> str:
        """Write it as `10.0.0.1 -> 10.0.0.2:80/tcp`."""
        return f"{self.source} -> {endpoint(self.destination, self.port)}/{self.protocol}"


class RuleOutcome(msgspec.Struct, frozen=True):
    """What became of one rule: policy, place in its list, how many it has, the rule in words.

    action: what becomes of a connection that it matches
    name:   the rule's own name, '' where it has none
    """

    policy: ObjectRef
    index: int
    total: int
    words: str
    outcome: RuleMatch
    action: Action = "allow"
    name: str = ""


class TierResult(msgspec.Struct, frozen=True):
    """What one tier says, of those that were reached and have policies for the Pod in this direction.

    policies: those policies, in the order in which they are asked
    rules:    NetworkPolicy: every rule; the other tiers: those up to the first that matches
    verdict:  allow and deny are final, pass goes on to the next tier, and so does '': no rule matches
    """

    tier: EvaluatedTier
    policies: tuple[ObjectRef, ...]
    rules: tuple[RuleOutcome, ...]
    verdict: Action | Literal[""]

    @property
    def final(self) -> bool:
        """Tell whether no later tier is asked."""
        return self.verdict in {"allow", "deny"}


class DirectionVerdict(msgspec.Struct, frozen=True):
    """The judgement at one end.

    pod:    the Pod whose policies judge
    stages: the tiers that were reached and have policies for it, in order
    """

    direction: Direction
    pod: ObjectRef
    stages: tuple[TierResult, ...] = ()

    @property
    def decided(self) -> TierResult | None:
        """The stage that decided; None where none did: allowed by default."""
        return self.stages[-1] if self.stages and self.stages[-1].final else None

    @property
    def allowed(self) -> bool:
        """Tell the verdict."""
        decided = self.decided
        return decided is None or decided.verdict == "allow"

    @property
    def isolating(self) -> tuple[ObjectRef, ...]:
        """Name the NetworkPolicies that isolate the Pod, where the verdict was theirs."""
        return next((stage.policies for stage in self.stages if stage.tier == "network"), ())

    @property
    def allowing(self) -> tuple[ObjectRef, ...]:
        """Name every policy that allows, each once, in order; none where nobody had to."""
        decided = self.decided
        if decided is None or decided.verdict != "allow":
            return ()
        return tuple(dict.fromkeys([rule.policy for rule in decided.rules if rule.outcome == "matches"]))

    @property
    def denying(self) -> tuple[ObjectRef, ...]:
        """Name who denies: the policy of a tier whose rule does, or all NetworkPolicies that isolate."""
        decided = self.decided
        if decided is None or decided.verdict != "deny":
            return ()
        return decided.policies if decided.tier == "network" else (decided.rules[-1].policy,)


class FlowVerdict(msgspec.Struct, frozen=True):
    """Both ends' judgements; None where an end is no Pod, or is not asked.

    exempt: why an end was not asked though it is a Pod: it talks to itself, or with its own node; '' otherwise
    barred: why no node lets it pass, whatever the policies; '' where they decide
    """

    flow: Flow
    egress: DirectionVerdict | None
    ingress: DirectionVerdict | None
    exempt: str = ""
    barred: str = ""

    @property
    def allowed(self) -> bool:
        """Tell the verdict: every end that was asked allows."""
        return not self.barred and all(side.allowed for side in (self.egress, self.ingress) if side is not None)


_DEFAULTS = PolicyOptions()


def evaluate(
    cluster: ClusterState,
    policies: Iterable[Policy],
    flow: Flow,
    choices: PolicyOptions = _DEFAULTS,
) -> FlowVerdict:
    """Judge one flow: egress at the source Pod, then ingress at the destination Pod; both must allow.

    Where several Pods hold an address, each of them must.
    """
    if is_link_local(flow.source) or is_link_local(flow.destination):
        return FlowVerdict(flow, None, None, barred="link-local addresses are never forwarded, between Pods neither")
    source, destination = cluster.holder(flow.source), cluster.holder(flow.destination)
    if source is not None and flow.source == flow.destination and not flow.translated:
        return FlowVerdict(flow, None, None, exempt="a Pod always reaches itself by its own address")
    everything = list(policies)
    egress = ingress = None
    exempt = []
    if source is not None and choices.own_node == "allowed" and _is_node_of(cluster, source, flow.destination):
        exempt.append(f"a Pod may call its own node, {source.node}, as was chosen")
    elif source is not None:
        egress = _judge_all(cluster, everything, flow, cluster.holders(flow.source), "egress")
    if destination is not None and _is_node_of(cluster, destination, flow.source):
        exempt.append(f"node {destination.node} always reaches its own Pods")
    elif destination is not None:
        ingress = _judge_all(cluster, everything, flow, cluster.holders(flow.destination), "ingress")
    return FlowVerdict(flow, egress, ingress, exempt="; ".join(exempt))


def _judge_all(
    cluster: ClusterState, policies: list[Policy], flow: Flow, pods: tuple[Pod, ...], direction: Direction
) -> DirectionVerdict:
    """Give the judgement that counts: the first that denies, else the first that some policy gave, else the first."""
    sides = [judge(cluster, policies, flow, pod, direction) for pod in pods]
    return min(sides, key=lambda side: (side.allowed, side.decided is None)) if len(sides) > 1 else sides[0]


def judge(
    cluster: ClusterState, policies: Iterable[Policy], flow: Flow, pod: Pod, direction: Direction
) -> DirectionVerdict:
    """Judge one end: admin tier, NetworkPolicy, baseline tier, until one of them decides.

    pod: one with addresses of its own; host-network Pods are never judged
    """
    admin, network, baseline = _speaking(cluster, policies, pod, direction)
    question = _RuleMatcher(cluster, flow, direction)
    stages: list[TierResult] = []
    if admin:
        stages.append(_tier_stage(question, "admin", admin))
    if network and not (stages and stages[-1].final):
        stages.append(_network_stage(question, network))
    if baseline and not (stages and stages[-1].final):
        stages.append(_tier_stage(question, "baseline", baseline))
    return DirectionVerdict(direction, pod.ref, tuple(stages))


class _RuleMatcher:
    """A flow as the rules of one direction are asked about it."""

    __slots__ = ("_cluster", "_flow", "_other", "direction")

    def __init__(self, cluster: ClusterState, flow: Flow, direction: Direction) -> None:
        self.direction = direction
        self._cluster = cluster
        self._flow = flow
        self._other = FlowEndpoint(cluster, flow.source if direction == "ingress" else flow.destination)

    def ask(self, policy: Policy, rule: Rule | TierRule) -> RuleMatch:
        """Tell what becomes of one rule."""
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

    def _servers(self, policy: Policy, rule: Rule | TierRule) -> tuple[Pod, ...]:
        """Give the Pods whose named ports count: those at the destination that the rule is about."""
        if self.direction == "egress":
            return self._other.pods_selected_by(rule.peers or (EVERY_POD,))
        return FlowEndpoint(self._cluster, self._flow.destination).pods_selected_by(_subject(policy))


def _speaking(
    cluster: ClusterState, policies: Iterable[Policy], pod: Pod, direction: Direction
) -> tuple[list[TierPolicy], list[NetworkPolicy], list[TierPolicy]]:
    """Give the policies that have a say about a Pod: admin tier, NetworkPolicies, baseline tier, each in order."""
    judged = PodLabels(cluster, pod)
    namespace, labels = pod.namespace, judged.labels
    network: list[NetworkPolicy] = []
    tiers: list[TierPolicy] = []
    for policy in policies:
        if isinstance(policy, TierPolicy):
            if policy.rules(direction) and policy.subject is not None and judged.selected_by(policy.subject):
                tiers.append(policy)
        elif policy.namespace == namespace and direction in policy.isolates and policy.pods.matches(labels):
            network.append(policy)
    if len(network) > 1:
        network.sort(key=_name)
    if not tiers:
        return [], network, []
    tiers.sort(key=_rank)
    return [tier for tier in tiers if tier.tier == "admin"], network, [tier for tier in tiers if tier.tier != "admin"]


def _network_stage(question: _RuleMatcher, policies: list[NetworkPolicy]) -> TierResult:
    """Ask every rule: any of them allows, and all that do are named."""
    refs: list[ObjectRef] = []
    outcomes: list[RuleOutcome] = []
    verdict: Action = "deny"
    for policy in policies:
        ref, rules = policy.ref, policy.rules(question.direction)
        refs.append(ref)
        for index, rule in enumerate(rules):
            outcome = question.ask(policy, rule)
            outcomes.append(RuleOutcome(ref, index, len(rules), _words(rule), outcome))
            if outcome == "matches":
                verdict = "allow"
    return TierResult("network", tuple(refs), tuple(outcomes), verdict)


def _tier_stage(question: _RuleMatcher, tier: Tier, policies: list[TierPolicy]) -> TierResult:
    """Ask rule by rule, until the first that matches."""
    refs = tuple(policy.ref for policy in policies)
    outcomes: list[RuleOutcome] = []
    for policy, ref in zip(policies, refs, strict=True):
        rules = policy.rules(question.direction)
        for index, rule in enumerate(rules):
            outcome = "peer" if rule.void else question.ask(policy, rule)
            outcomes.append(RuleOutcome(ref, index, len(rules), _words(rule), outcome, rule.action, rule.name))
            if outcome == "matches":
                return TierResult(tier, refs, tuple(outcomes), rule.action)
    return TierResult(tier, refs, tuple(outcomes), "")


def _said(rule: Rule | TierRule) -> str:
    if isinstance(rule, Rule) or rule.problem is None:
        return str(rule)
    who = "nobody" if rule.void else str(rule)
    return f"{who}, as it can't be read: {rule.problem.reason}"


_words = WeightedCache(_said, lambda _rule, words: len(words), _REMEMBERED_CHARACTERS)
"""A rule in words: a verdict log asks about the same few thousand times a second."""


def _subject(policy: Policy) -> tuple[PodPeer, ...]:
    """Give the Pods that a policy judges, as a peer; none where that can't be read."""
    if isinstance(policy, NetworkPolicy):
        return (PodPeer(policy.pods, namespace=policy.namespace),)
    return () if policy.subject is None else (policy.subject,)


_name = attrgetter("name")
_rank = attrgetter("rank")


def _is_node_of(cluster: ClusterState, pod: Pod, address: str) -> bool:
    node = cluster.nodes.get(pod.node)
    return node is not None and address in node.addresses
