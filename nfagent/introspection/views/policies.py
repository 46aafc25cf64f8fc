"""`dump policies`: every policy, the Pods that it selects on this node, its rules, and what is wrong with it."""

from __future__ import annotations

from itertools import chain, islice

import msgspec

from nfagent.desired.egress_nat_ties import Tie
from nfagent.desired.state import DesiredState
from nfagent.egress.gateway_status import GatewayStatus, gateway_status
from nfagent.errors import ValidationIssue
from nfagent.introspection.chunks import in_steps, whole
from nfagent.introspection.freshness import WHOLE, Freshness, ViewHead, head
from nfagent.introspection.view_filter import ViewFilter, other_node_text, why_no_policy_applies
from nfagent.introspection.views.json_value import View
from nfagent.model.admin_policy import Policy, TierRule
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule
from nfagent.model.objects import DIRECTIONS, Direction, ObjectRef, Pod
from nfagent.model.slices import sort_in_slices
from nfagent.state.cluster import Identity, identity_of
from nfagent.state.pod_lookup import find_pod

NO_SUBJECT = "nobody"  # codespell:ignore nobody
"""`selects` of a policy whose subject can't be decoded: it selects no Pod."""
_RULES_AT_ONCE = 100
_MOST_DISPUTES = 10
"""Other policies that `unenforced` names."""


class RuleView(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a policy.

    action: allow, deny or pass
    about:  peers and ports in words
    """

    action: str
    name: str
    about: str
    problem: ValidationIssue | None


class PolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """A policy of any tier.

    tier:       admin, network or baseline
    priority:   of the tiers' policies; None for a NetworkPolicy
    selects:    the selector of its Pods in words
    isolates:   directions that a NetworkPolicy isolates
    local_pods: the Pods of this node that it selects, as NAMESPACE/NAME
    problem:    why it fails closed, or is not enforced
    audit:      it is in audit mode: what it alone would deny passes, and is logged as audit-deny
    """

    kind: str
    namespace: str
    name: str
    tier: str
    priority: int | None
    selects: str
    isolates: list[Direction]
    local_pods: list[str]
    rules: dict[Direction, list[RuleView]]
    problem: ValidationIssue | None
    audit: bool = False


class EgressPolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """An EgressNATPolicy; `unenforced` says why it, or a part of it, has no effect, '' where all of it has."""

    name: str
    action: str
    sources: list[str]
    destinations: list[str]
    gateway: str
    unenforced: str


class GatewayView(msgspec.Struct, frozen=True, kw_only=True):
    """A NetworkGatewayGroup and its floating IPs.

    nodes:   the selector of the Nodes that may hold them, in words
    holders: the node that holds each of them that is held
    unheld:  why not all of them are held, '' where all are
    """

    namespace: str
    name: str
    addresses: list[str]
    nodes: str = ""
    holders: dict[str, str] = msgspec.field(default_factory=dict)
    unheld: str = ""


class PoliciesView(ViewHead, frozen=True, kw_only=True):
    """Policies in the order of evaluation; `nothing` says what it means that there are none."""

    nothing: str
    policies: list[PolicyView]
    egress: list[EgressPolicyView]
    gateways: list[GatewayView]
    problems: list[ValidationIssue]


class PolicyLookup:
    """The policies that select Pods, here and on other nodes, found once for all Pods with the same labels."""

    def __init__(self, desired: DesiredState) -> None:
        """Start with nothing looked up."""
        self._desired = desired
        self._found: dict[Identity, tuple[Policy, ...]] = {}

    def of(self, pod: Pod) -> tuple[Policy, ...]:
        """Return the policies that select a Pod, by kind, namespace and name."""
        if pod.host_network:
            return ()
        index, identity = self._desired.index, identity_of(pod)
        if identity not in self._found:
            selecting = (policy for policy in index.policies_for(pod) if index.selects(policy, identity))
            self._found[identity] = tuple(sorted(selecting, key=lambda policy: policy.ref))
        return self._found[identity]


def isolated_by(policy: Policy) -> tuple[Direction, ...]:
    """Return the directions that a NetworkPolicy isolates; none for a policy of the tiers."""
    return policy.isolates if isinstance(policy, NetworkPolicy) else ()


def tier_directions(policy: Policy) -> tuple[Direction, ...]:
    """Return the directions that a policy of the tiers has rules for; none for a NetworkPolicy."""
    if isinstance(policy, NetworkPolicy):
        return ()
    return tuple(direction for direction in DIRECTIONS if policy.rules(direction))


def policies_view(
    desired: DesiredState, scope: ViewFilter, problems: tuple[ValidationIssue, ...], freshness: Freshness = WHOLE
) -> View:
    """Return the view as JSON decodes to. Raises UsageError for a Pod that doesn't exist."""
    found: View = whole(policies_parts(desired, scope, problems, freshness))
    return found


def policies_parts(
    desired: DesiredState, scope: ViewFilter, problems: tuple[ValidationIssue, ...], freshness: Freshness = WHOLE
) -> PoliciesView:
    """Return the view, its lists made while they are written. Raises UsageError for a Pod that doesn't exist."""
    pod = find_pod(desired.cluster, scope.pod) if scope.pod else None
    wanted = _policies_in(desired, scope, pod)
    away = pod is not None and pod.node != desired.cluster.node and not why_no_policy_applies(pod)
    unknown = note = ""
    if pod is not None and away:
        words = f"{other_node_text(pod)}: what is enforced for it isn't known here; ask there"
        unknown, note = ("", words) if wanted else (words, "")
    found = head(freshness, unknown, none=not wanted and not (pod is not None and why_no_policy_applies(pod)))
    policies = sort_in_slices(wanted, _evaluation_order)
    elected = gateway_status(desired.egress, desired.gateways)
    return PoliciesView(
        complete=found["complete"],
        unknown=found["unknown"],
        notes=[*found["notes"], *([note] if note else [])],
        nothing="" if wanted else _no_policies(desired, scope, pod, freshness),
        policies=in_steps(None if policy is None else _policy_view(desired, policy) for policy in policies),
        egress=[_egress_view(policy, desired.egress_ties, elected) for policy in _egress_in(desired, scope)],
        gateways=[
            _gateway_view(group, elected)
            for group in sorted(desired.egress.gateways.values(), key=lambda group: group.ref)
            if not scope.pod and scope.namespace in {"", group.namespace}
        ],
        problems=in_steps(problems),
    )


def _policies_in(desired: DesiredState, scope: ViewFilter, pod: Pod | None) -> list[Policy]:
    index = desired.index
    if pod is not None:
        return list(PolicyLookup(desired).of(pod))
    return list(index.in_namespace(scope.namespace) if scope.namespace else index.policies.values())


def _no_policies(desired: DesiredState, scope: ViewFilter, pod: Pod | None, freshness: Freshness) -> str:
    """Return what it means that there is no policy to show, as far as that is known."""
    if freshness.unknown:
        return f"no policies{' for ' + scope.words if scope.words else ''} so far: what is allowed isn't known yet"
    if freshness.unenforced and not (pod is not None and why_no_policy_applies(pod)):
        return f"no policies{' for ' + scope.words if scope.words else ''}, but the kernel holds other rules than these"
    if pod is not None:
        here = pod.node == desired.cluster.node
        none = f"no policy selects Pod {scope.pod}: its policies allow every connection"
        return why_no_policy_applies(pod) or (none if here else f"no policy that is known here selects Pod {scope.pod}")
    if not scope.namespace:
        return "no policies: every connection is allowed"
    everywhere = len(desired.index.in_namespace(""))
    other = f"; {everywhere} of the tiers may: `nfagent dump policies`" if everywhere else ""
    return f"no NetworkPolicy in namespace {scope.namespace}: none isolates its Pods{other}"


def _evaluation_order(policy: Policy) -> tuple[int, tuple[int, str, str], ObjectRef]:
    """Return a sort key: admin tier, NetworkPolicies, baseline tier, each by rank."""
    if isinstance(policy, NetworkPolicy):
        return (1, (0, "", ""), policy.ref)
    return (0 if policy.tier == "admin" else 2, policy.rank, policy.ref)


def _policy_view(desired: DesiredState, policy: Policy) -> PolicyView:
    local = desired.index.active.get(policy.ref, set())
    of_tier = None if isinstance(policy, NetworkPolicy) else policy
    directions = policy.isolates if isinstance(policy, NetworkPolicy) else tier_directions(policy)
    return PolicyView(
        kind=policy.ref.kind,
        namespace=policy.ref.namespace,
        name=policy.name,
        tier=of_tier.tier if of_tier is not None else "network",
        priority=of_tier.priority if of_tier is not None else None,
        selects=str(policy.pods) if isinstance(policy, NetworkPolicy) else str(policy.subject or NO_SUBJECT),
        isolates=list(isolated_by(policy)),
        local_pods=sorted(f"{ns}/{name}" for identity in local for ns, name in desired.index.local.get(identity, ())),
        rules={direction: _rule_views(policy.rules(direction)) for direction in directions},
        problem=policy.problem,
        audit=desired.index.is_audited(policy),
    )


def _egress_in(desired: DesiredState, scope: ViewFilter) -> list[EgressNATPolicy]:
    """Return the EgressNATPolicies whose sources select a Pod, or all; none for a namespace: they are cluster-wide."""
    policies = list(desired.egress.policies.values())
    if not scope.pod:
        return [] if scope.namespace else policies
    pod = find_pod(desired.cluster, scope.pod)
    labels = dict(pod.labels), dict(desired.cluster.namespace_labels(pod.namespace))
    return [policy for policy in policies if policy.selects(*labels)]


def _gateway_view(group: NetworkGatewayGroup, elected: GatewayStatus) -> GatewayView:
    fault = elected.group_fault(group)
    return GatewayView(
        namespace=group.namespace,
        name=group.name,
        addresses=list(group.addresses),
        nodes=str(group.nodes) if group.nodes.requirements else "all nodes",
        holders={item.address: item.holder for item in elected.of_group(group.ref) if item.holder},
        unheld=fault.text if fault is not None else "",
    )


def _egress_view(policy: EgressNATPolicy, ties: tuple[Tie, ...], elected: GatewayStatus) -> EgressPolicyView:
    fault = elected.policy_fault(policy)
    disputes = (tie.text_for(policy.name) for tie in ties if policy.name in tie.policies)
    faults = islice(chain(disputes, () if fault is None else (fault.text,)), _MOST_DISPUTES)
    return EgressPolicyView(
        name=policy.name,
        action=policy.action,
        sources=list(map(str, policy.sources)) or ["all pods"],
        destinations=list(map(str, policy.destinations)),
        gateway=policy.gateway.path if policy.gateway is not None else "",
        unenforced="; ".join(faults),
    )


def _rule_views(rules: tuple[NetworkPolicyRule, ...] | tuple[TierRule, ...]) -> list[RuleView]:
    """Return rules: few at once, many while they are written."""
    shown = map(_rule_view, rules)
    return in_steps(shown) if len(rules) > _RULES_AT_ONCE else list(shown)


def _rule_view(rule: NetworkPolicyRule | TierRule) -> RuleView:
    if isinstance(rule, NetworkPolicyRule):
        return RuleView(action="allow", name="", about=str(rule), problem=None)
    return RuleView(action=rule.action, name=rule.name, about=str(rule), problem=rule.problem)
