"""What `nfagent dump` shows, as values: every view a structure that JSON can hold, text made from it later.

Lists that grow with the cluster are made as they are written (`pieces`), so that a large one holds nobody up. The
objects listed are those of the moment when a view begins, and each is shown as it is when its turn comes: one that
goes or changes meanwhile is shown as it was, judged by the policies of then. A ruleset is of one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue
from nfagent.introspection.chunks import Deferred, TextLines, whole
from nfagent.introspection.freshness import WHOLE, Freshness, head
from nfagent.introspection.view_filter import ViewFilter, elsewhere, local_addresses, pods_in, scoped, unjudged
from nfagent.model.admin_policy import Policy, TierRule
from nfagent.model.egress_nat import DEFAULT_POLICY, EgressNATPolicy
from nfagent.model.networkpolicy import NetworkPolicy, Rule
from nfagent.model.objects import DIRECTIONS, Direction, Node, ObjectRef, Pod
from nfagent.model.slices import in_order
from nfagent.nftables.objects import FLAGGED, TABLE_FLAGS, UNFLAGGED, Ruleset
from nfagent.nftables.parse import CounterValue
from nfagent.nftables.render import Annotate, table_parts
from nfagent.nftables.verdict_keys import VerdictKey, allowed_by, denied_by
from nfagent.policy.compiler import PolicySetKey
from nfagent.state.cluster import Identity, identity_of
from nfagent.state.pod_lookup import pod_of

__all__ = ["View", "ViewFilter", "scoped"]

View = dict[str, Any]
_RULES_AT_ONCE = 100
_ALL = ViewFilter()


def state_view(
    desired: DesiredState, scope: ViewFilter, problems: tuple[ValidationIssue, ...], standing: Freshness = WHOLE
) -> View:
    """Show the cluster as nfagent understood it."""
    found: View = whole(state_parts(desired, scope, problems, standing))
    return found


def state_parts(
    desired: DesiredState, scope: ViewFilter, problems: tuple[ValidationIssue, ...], standing: Freshness = WHOLE
) -> View:
    """Show the same, its lists made as they are written."""
    cluster = desired.cluster
    summary = scope.form == "summary"
    wanted = [] if summary else pods_in(desired, scope)
    judges = _Judges(desired)
    nodes = in_order([] if summary else list(cluster.nodes.values()), lambda node: node.name)
    pods = in_order(wanted, lambda pod: (pod.namespace, pod.name))
    return {
        **head(standing),
        "nothing": "" if wanted or summary else f"no {scope.words or 'Pods'}{' so far' if standing.unknown else ''}",
        "node": cluster.node,
        "known": cluster.node in cluster.nodes,
        "counts": {
            "namespaces": len(cluster.namespaces),
            "nodes": len(cluster.nodes),
            "pods": len(cluster.pods),
            "local_pods": len(cluster.local),
            "identities": len(cluster.members),
            "policies": len(desired.index.policies),
        },
        "nodes": (None if node is None else _node_view(node) for node in nodes),
        "pods": (None if pod is None else _pod_view(desired, pod, judges.of(pod)) for pod in pods),
        "masquerade": _masquerade_view(desired),
        "logging": {
            "allow": desired.logging.allow.log,
            "deny": desired.logging.deny.log,
        },
        "problems": map(_problem_view, problems),
    }


def _node_view(node: Node) -> View:
    return {
        "name": node.name,
        "addresses": list(node.addresses),
        "pod_cidrs": [str(item) for item in node.pod_cidrs],
    }


class _Judges:
    """The policies that judge Pods, here and on other nodes, looked up once for all that are labelled alike."""

    def __init__(self, desired: DesiredState) -> None:
        self._desired = desired
        self._found: dict[Identity, tuple[Policy, ...]] = {}

    def of(self, pod: Pod) -> tuple[Policy, ...]:
        """Give the policies that judge a Pod, by kind, namespace and name."""
        if pod.host_network:
            return ()
        index, identity = self._desired.index, identity_of(pod)
        if identity not in self._found:
            judging = (policy for policy in index.judging(pod) if index.selects(policy, identity))
            self._found[identity] = tuple(sorted(judging, key=lambda policy: policy.ref))
        return self._found[identity]


def _masquerade_view(desired: DesiredState) -> View:
    """Show who sees Pod addresses.

    families: those that are translated, 4 and 6
    base:  the object that the list starts from, '' for the default list
    added: the EgressNATPolicies that add to it, by name
    """
    ranges = sorted(desired.cluster.service_ranges.values(), key=lambda item: item.name)
    return {
        "enabled": bool(desired.masquerade_families),
        "families": list(desired.masquerade_families),
        "exempt": [str(item) for item in desired.masquerade_exempt],
        "configured": desired.egress.base is not None,
        "base": str(desired.egress.base or ""),
        "added": [policy.name for policy in desired.egress.enforced if policy.name != DEFAULT_POLICY],
        "service_ranges": [{"name": item.name, "cidrs": list(map(str, item.cidrs))} for item in ranges],
    }


def _pod_view(desired: DesiredState, pod: Pod, policies: tuple[Policy, ...]) -> View:
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "node": pod.node,
        "local": (pod.namespace, pod.name) in desired.cluster.local,
        "addresses": list(pod.addresses),
        "labels": dict(pod.labels),
        "phase": pod.phase,
        "host_network": pod.host_network,
        "isolated": {
            direction: [policy.ref.path for policy in policies if direction in _isolated_by(policy)]
            for direction in DIRECTIONS
        },
        "tiers": {
            direction: [str(policy.ref) for policy in policies if direction in _spoken_of(policy)]
            for direction in DIRECTIONS
        },
    }


def _isolated_by(policy: Policy) -> tuple[Direction, ...]:
    return policy.isolates if isinstance(policy, NetworkPolicy) else ()


def _spoken_of(policy: Policy) -> tuple[Direction, ...]:
    """Give the directions that a policy of the tiers has rules for."""
    if isinstance(policy, NetworkPolicy):
        return ()
    return tuple(direction for direction in DIRECTIONS if policy.rules(direction))


def policies_view(
    desired: DesiredState, scope: ViewFilter, problems: tuple[ValidationIssue, ...], standing: Freshness = WHOLE
) -> View:
    """Show every policy: whom it isolates here, what it allows, and what is wrong with it."""
    found: View = whole(policies_parts(desired, scope, problems, standing))
    return found


def policies_parts(
    desired: DesiredState, scope: ViewFilter, problems: tuple[ValidationIssue, ...], standing: Freshness = WHOLE
) -> View:
    """Show the same, its lists made as they are written."""
    pod = pod_of(desired.cluster, scope.pod) if scope.pod else None
    wanted = _policies_in(desired, scope, pod)
    away = pod is not None and pod.node != desired.cluster.node and not unjudged(pod)
    unknown = notes = ""
    if pod is not None and away:
        words = f"{elsewhere(pod)}: what is enforced for it isn't known here; ask there"
        unknown, notes = ("", words) if wanted else (words, "")
    found = head(standing, unknown, none=not wanted and not (pod is not None and unjudged(pod)))
    return {
        **found,
        "notes": [*found["notes"], *([notes] if notes else [])],
        "nothing": "" if wanted else _no_policies(desired, scope, pod, standing),
        "policies": (None if policy is None else _policy_view(desired, policy) for policy in in_order(wanted, _asked)),
        "egress": [_egress_view(policy) for policy in _egress_in(desired, scope)],
        "gateways": [
            {"namespace": found.namespace, "name": found.name, "addresses": list(found.addresses)}
            for found in sorted(desired.egress.gateways.values(), key=lambda found: found.ref)
            if not scope.pod and scope.namespace in {"", found.namespace}
        ],
        "problems": map(_problem_view, problems),
    }


def _policies_in(desired: DesiredState, scope: ViewFilter, pod: Pod | None) -> list[Policy]:
    index = desired.index
    if pod is not None:
        return list(_Judges(desired).of(pod))
    return list(index.in_namespace(scope.namespace) if scope.namespace else index.policies.values())


def _no_policies(desired: DesiredState, scope: ViewFilter, pod: Pod | None, standing: Freshness) -> str:
    """Say what it means that there is no policy to show, as far as that is known."""
    if standing.unknown:
        return f"no policies{' for ' + scope.words if scope.words else ''} so far: what is allowed isn't known yet"
    if standing.unenforced and not (pod is not None and unjudged(pod)):
        return f"no policies{' for ' + scope.words if scope.words else ''}, but the kernel holds other rules than these"
    if pod is not None:
        here = pod.node == desired.cluster.node
        none = f"no policy judges Pod {scope.pod}: at its end every connection is allowed"
        return unjudged(pod) or (none if here else f"no policy that is known here judges Pod {scope.pod}")
    if not scope.namespace:
        return "no policies: every connection is allowed"
    everywhere = len(desired.index.in_namespace(""))
    other = f"; {everywhere} of the tiers may: `nfagent dump policies`" if everywhere else ""
    return f"no NetworkPolicy in namespace {scope.namespace}: none isolates a Pod of it{other}"


def _asked(policy: Policy) -> tuple[int, tuple[int, str, str], ObjectRef]:
    """Sort policies in the order in which they are asked: admin tier, NetworkPolicies, baseline tier."""
    if isinstance(policy, NetworkPolicy):
        return (1, (0, "", ""), policy.ref)
    return (0 if policy.tier == "admin" else 2, policy.rank, policy.ref)


def _policy_view(desired: DesiredState, policy: Policy) -> View:
    local = desired.index.active.get(policy.ref, set())
    pods = sorted(f"{ns}/{name}" for identity in local for ns, name in desired.index.local.get(identity, ()))
    of_tier = None if isinstance(policy, NetworkPolicy) else policy
    directions = policy.isolates if isinstance(policy, NetworkPolicy) else _spoken_of(policy)
    return {
        "kind": policy.ref.kind,
        "namespace": policy.ref.namespace,
        "name": policy.name,
        "tier": of_tier.tier if of_tier is not None else "network",
        "priority": of_tier.priority if of_tier is not None else None,
        "selects": str(policy.pods) if isinstance(policy, NetworkPolicy) else str(policy.subject or "nobody"),
        "isolates": list(_isolated_by(policy)),
        "local_pods": pods,
        "rules": {direction: _rule_views(policy.rules(direction)) for direction in directions},
        "problem": None if policy.problem is None else _problem_view(policy.problem),
    }


def _egress_in(desired: DesiredState, scope: ViewFilter) -> list[EgressNATPolicy]:
    """Give the EgressNATPolicies about a Pod, or all; a namespace has none of its own."""
    policies = list(desired.egress.policies.values())
    if not scope.pod:
        return [] if scope.namespace else policies
    pod = pod_of(desired.cluster, scope.pod)
    labels = dict(pod.labels), dict(desired.cluster.namespace_labels(pod.namespace))
    return [policy for policy in policies if not policy.sources or any(one.selects(*labels) for one in policy.sources)]


def _egress_view(policy: EgressNATPolicy) -> View:
    return {
        "name": policy.name,
        "action": policy.action,
        "sources": list(map(str, policy.sources)) or ["all pods"],
        "destinations": list(map(str, policy.destinations)),
        "gateway": policy.gateway.path if policy.gateway is not None else "",
        "unenforced": policy.unenforced,
    }


def _rule_views(rules: tuple[Rule, ...] | tuple[TierRule, ...]) -> Iterable[View]:
    """Show rules: few at once, many as they are written."""
    shown = map(_rule_view, rules)
    return shown if len(rules) > _RULES_AT_ONCE else list(shown)


def _rule_view(rule: Rule | TierRule) -> View:
    """Show a rule; `about` says whom and which ports."""
    if isinstance(rule, Rule):
        return {"action": "allow", "name": "", "about": str(rule), "problem": None}
    problem = None if rule.problem is None else _problem_view(rule.problem)
    return {"action": rule.action, "name": rule.name, "about": str(rule), "problem": problem}


def _problem_view(problem: ValidationIssue) -> View:
    """Show a problem with all its fields."""
    found: View = msgspec.to_builtins(problem)
    return found


def ruleset_view(ruleset: Ruleset, annotate: Annotate | None) -> View:
    """Show a ruleset: its text for people, its text for nft, its objects."""
    found: View = whole(ruleset_parts(ruleset, annotate))
    return found


def ruleset_parts(
    ruleset: Ruleset, annotate: Annotate | None, scope: ViewFilter = _ALL, standing: Freshness = WHOLE
) -> View:
    """Show a ruleset, or a scope's part of it, made as it is written, in the form that the scope names."""
    forms: dict[str, Callable[[], object]] = {
        "text": lambda: TextLines(table_parts(ruleset, annotate)),
        "nft": lambda: TextLines(table_parts(ruleset)),
        "objects": lambda: _objects(ruleset),
    }
    empty = ruleset.exists and bool(scope.words) and not ruleset.maps
    flagged = f"whether these rules are in force: {FLAGGED} ({UNFLAGGED})" if TABLE_FLAGS in ruleset.foreign else ""
    return {
        **head(standing, flagged),
        "nothing": f"no rules for {scope.words}: no policy that is in there judges any of its addresses"
        if empty
        else "",
        **{form: make() for form, make in forms.items() if scope.form in {form, ""}},
    }


def _objects(ruleset: Ruleset) -> View:
    """Show a ruleset's objects, in the order of their names, as msgspec writes structs."""
    shown = msgspec.structs.asdict(ruleset)
    shown["sets"] = {
        name: {**msgspec.structs.asdict(item), "elements": map(_builtins, in_order(item.elements))}
        for name, item in sorted(ruleset.sets.items())
    }
    shown["maps"] = {name: Deferred(partial(_builtins, item)) for name, item in sorted(ruleset.maps.items())}
    shown["chains"] = {
        name: {"rules": map(_builtins, item.rules), "hook": _builtins(item.hook)}
        for name, item in sorted(ruleset.chains.items())
    }
    return {**shown, "counters": sorted(ruleset.counters), "foreign": _builtins(ruleset.foreign)}


def _builtins(value: object) -> Any:
    return msgspec.to_builtins(value, str_keys=True, order="deterministic")


def annotation(desired: DesiredState) -> Callable[[str], str]:
    """Give the function that says which Pod an address is."""

    def words(address: str) -> str:
        pod = desired.cluster.holder(address)
        return pod.ref.path if pod is not None else ""

    return words


def counters_view(
    desired: DesiredState, values: Mapping[str, CounterValue], scope: ViewFilter, standing: Freshness = WHOLE
) -> View:
    """Show packets and bytes by verdict, direction and policies."""
    wanted = {key for address in local_addresses(desired, scope) for key in desired.classes_of(address)}
    outcomes = sorted({outcome for key in wanted for outcome in _outcomes(key)}, key=lambda found: found.name)
    counted = [(outcome, value) for outcome in outcomes if (value := values.get(outcome.name)) is not None]
    lacking = sorted({found.name for key in wanted for found in _refusals(key)} - values.keys())
    none = "" if wanted else _no_counters(desired, scope)
    if none and standing.unenforced:
        none = "no counters of the policies of now, but the kernel holds other rules than theirs"
    return {
        **head(standing, _lacking(lacking) if lacking else "", none=bool(none)),
        "nothing": "" if counted else none or "no counters in the kernel",
        "counters": [
            {
                "verdict": outcome.disposition,
                "direction": outcome.direction,
                "kind": outcome.policies[0].kind,
                "namespace": outcome.policies[0].namespace,
                "policies": [ref.name for ref in outcome.policies],
                "packets": value.packets,
                "bytes": value.bytes,
            }
            for outcome, value in counted
        ],
    }


def _refusals(key: PolicySetKey) -> Iterator[VerdictKey]:
    """Give the outcomes that a class's rules lead to in any case."""
    if key.policies:
        yield denied_by(key.direction, key.policies)


def _lacking(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"the kernel doesn't have the counter {names[0]}{more}: what these policies say isn't in force there; "
        "`nfagent dump diff` says what is missing"
    )


def _no_counters(desired: DesiredState, scope: ViewFilter) -> str:
    """Say that no policy judges what is asked about: policies are about addresses, and Pods may have none yet."""
    cluster = desired.cluster
    if scope.pod:
        pod = pod_of(cluster, scope.pod)
        none = f"no policy isolates Pod {scope.pod}" if pod.addresses else f"Pod {scope.pod} has no address yet"
        return f"no counters: {unjudged(pod) or none}"
    waiting = any(
        not cluster.pods[key].addresses for key in cluster.local if not scope.namespace or key[0] == scope.namespace
    )
    addressed = " that has an address" if waiting else ""
    if scope.namespace:
        return f"no counters: no policy isolates a Pod of namespace {scope.namespace} on this node{addressed}"
    return f"no counters: no policy isolates a Pod of this node{addressed}"


def _outcomes(key: PolicySetKey) -> Iterator[VerdictKey]:
    """Give what a class's policies may decide, whether or not a rule of theirs does."""
    if key.policies:
        yield denied_by(key.direction, key.policies)
    for ref in (*key.admin, *key.baseline):
        yield denied_by(key.direction, (ref,))
    for ref in (*key.admin, *key.policies, *key.baseline):
        yield allowed_by(key.direction, (ref,))
