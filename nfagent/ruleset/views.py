"""What `nfagent dump` shows, as values: every view a structure that JSON can hold, text made from it later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from nfagent.cluster.address import number
from nfagent.cluster.model import DIRECTIONS, Direction, Pod, Ref
from nfagent.cluster.state import identity_of
from nfagent.egress.policy import DEFAULT_POLICY, EgressNATPolicy
from nfagent.errors import Problem
from nfagent.explain.explanation import pod_of
from nfagent.policy.compile import ClassKey
from nfagent.policy.model import NetworkPolicy, Rule
from nfagent.policy.tiers import Policy, TierRule
from nfagent.ruleset.desired import Desired
from nfagent.ruleset.objects import Chain, Element, Ruleset
from nfagent.ruleset.origins import Origin, allowed_by, denied_by
from nfagent.ruleset.parse import CounterValue
from nfagent.ruleset.text import Annotate, element_text, rule_text, sorted_elements, table_text
from nfagent.ruleset.transaction import diff, transaction_text

View = dict[str, Any]


class Scope(msgspec.Struct, frozen=True):
    """Which part is asked for: a namespace, one Pod as NAMESPACE/POD, or all."""

    namespace: str = ""
    pod: str = ""


def state_view(desired: Desired, scope: Scope, problems: tuple[Problem, ...]) -> View:
    """Show the cluster as nfagent understood it."""
    cluster = desired.cluster
    wanted = _pods_in(desired, scope)
    return {
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
        "nodes": [
            {
                "name": node.name,
                "addresses": list(node.addresses),
                "pod_cidrs": [str(item) for item in node.pod_cidrs],
            }
            for node in sorted(cluster.nodes.values(), key=lambda node: node.name)
        ],
        "pods": [_pod_view(desired, pod) for pod in sorted(wanted, key=lambda pod: pod.ref)],
        "masquerade": _masquerade_view(desired),
        "logging": {
            "allow": desired.logging.allow.log,
            "deny": desired.logging.deny.log,
        },
        "problems": problem_views(problems),
    }


def _masquerade_view(desired: Desired) -> View:
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


def _pod_view(desired: Desired, pod: Pod) -> View:
    policies = desired.index.policies_of(pod)
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


def _pods_in(desired: Desired, scope: Scope) -> list[Pod]:
    """Give the Pods that a scope is about. Raises UsageError for a Pod that isn't there."""
    if scope.pod:
        return [pod_of(desired.cluster, scope.pod)]
    return [pod for pod in desired.cluster.pods.values() if scope.namespace in {"", pod.namespace}]


def policies_view(desired: Desired, scope: Scope, problems: tuple[Problem, ...]) -> View:
    """Show every policy: whom it isolates here, what it allows, and what is wrong with it."""
    policies = sorted(desired.index.policies.values(), key=_asked)
    if scope.pod:
        identity = identity_of(pod_of(desired.cluster, scope.pod))
        policies = [policy for policy in policies if desired.index.selects(policy, identity)]
    elif scope.namespace:
        policies = [policy for policy in policies if policy.ref.namespace == scope.namespace]
    return {
        "policies": [_policy_view(desired, policy) for policy in policies],
        "egress": [_egress_view(policy) for policy in _egress_in(desired, scope)],
        "gateways": [
            {"namespace": found.namespace, "name": found.name, "addresses": list(found.addresses)}
            for found in sorted(desired.egress.gateways.values(), key=lambda found: found.ref)
            if not scope.pod and scope.namespace in {"", found.namespace}
        ],
        "problems": problem_views(problems),
    }


def _asked(policy: Policy) -> tuple[int, tuple[int, str, str], Ref]:
    """Sort policies in the order in which they are asked: admin tier, NetworkPolicies, baseline tier."""
    if isinstance(policy, NetworkPolicy):
        return (1, (0, "", ""), policy.ref)
    return (0 if policy.tier == "admin" else 2, policy.rank, policy.ref)


def _policy_view(desired: Desired, policy: Policy) -> View:
    local = desired.index.active.get(policy.ref, set())
    pods = sorted(f"{ns}/{name}" for identity in local for ns, name in desired.index.local[identity])
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
        "rules": {direction: list(map(_rule_view, policy.rules(direction))) for direction in directions},
        "problem": None if policy.problem is None else problem_views((policy.problem,))[0],
    }


def _egress_in(desired: Desired, scope: Scope) -> list[EgressNATPolicy]:
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


def _rule_view(rule: Rule | TierRule) -> View:
    """Show a rule; `about` says whom and which ports."""
    if isinstance(rule, Rule):
        return {"action": "allow", "name": "", "about": str(rule), "problem": None}
    problem = None if rule.problem is None else problem_views((rule.problem,))[0]
    return {"action": rule.action, "name": rule.name, "about": str(rule), "problem": problem}


def problem_views(problems: tuple[Problem, ...]) -> list[View]:
    """Show problems with all their fields."""
    return [msgspec.to_builtins(problem) for problem in problems]


def ruleset_view(ruleset: Ruleset, annotate: Annotate | None) -> View:
    """Show a ruleset: its text for people, its text for nft, its objects."""
    return {
        "text": table_text(ruleset, annotate),
        "nft": table_text(ruleset),
        "objects": msgspec.to_builtins(ruleset, str_keys=True, order="deterministic"),
    }


def scoped(desired: Desired, ruleset: Ruleset, scope: Scope) -> Ruleset:
    """Keep what concerns a Pod, or a namespace's Pods: their map elements, chains, and the sets these name."""
    if not (scope.pod or scope.namespace):
        return ruleset
    mine = _local_addresses(desired, scope)
    maps = {
        name: msgspec.structs.replace(item, elements={a: c for a, c in item.elements.items() if a in mine})
        for name, item in ruleset.maps.items()
    }
    wanted = {chain for item in maps.values() for chain in item.elements.values()}
    reached: set[str] = set()
    while wanted - reached:
        reached |= (fresh := wanted - reached)
        wanted |= {target for name in fresh for target in _targets(ruleset.chains.get(name, Chain()))}
    chains = {name: chain for name, chain in ruleset.chains.items() if name in wanted}
    text = "\n".join(rule_text(rule) for chain in chains.values() for rule in chain.rules)
    return Ruleset(
        sets={name: item for name, item in ruleset.sets.items() if f"@{name} " in text},
        maps={name: item for name, item in maps.items() if item.elements},
        chains=chains,
        counters=frozenset(name for name in ruleset.counters if f'"{name}"' in text),
        exists=ruleset.exists,
    )


def _local_addresses(desired: Desired, scope: Scope) -> set[str]:
    """Give the addresses that a scope's Pods hold on this node; one that two Pods hold is both's."""
    local = desired.cluster.local
    wanted = [pod for pod in _pods_in(desired, scope) if (pod.namespace, pod.name) in local and pod.holds_addresses]
    return {address for pod in wanted for address in pod.addresses}


def _targets(chain: Chain) -> set[str]:
    return {target for rule in chain.rules if isinstance(target := getattr(rule.verdict, "chain", None), str)}


def annotation(desired: Desired) -> Callable[[str], str]:
    """Give the function that says which Pod an address is."""

    def words(address: str) -> str:
        pod = desired.cluster.holder(address)
        return pod.ref.path if pod is not None else ""

    return words


def diff_view(kernel: Ruleset, wanted: Ruleset) -> View:
    """Show where the kernel differs from what it must hold, and the commands that would put it right."""
    transaction = diff(kernel, wanted)
    return {
        "equal": not transaction,
        "differences": _differences(kernel, wanted) if transaction else [],
        "commands": transaction_text(transaction).splitlines(),
    }


def _differences(kernel: Ruleset, wanted: Ruleset) -> list[str]:
    if not kernel.exists:
        return ["the table is missing"]
    lines = [f"{kind} {name}: not nfagent's" for kind, name in sorted(kernel.foreign)]
    kinds: tuple[tuple[str, Mapping[str, object], Mapping[str, object]], ...] = (
        ("counter", dict.fromkeys(kernel.counters), dict.fromkeys(wanted.counters)),
        ("set", kernel.sets, wanted.sets),
        ("map", kernel.maps, wanted.maps),
        ("chain", kernel.chains, wanted.chains),
    )
    for kind, there, here in kinds:
        lines += [f"{kind} {name}: missing" for name in sorted(here.keys() - there.keys())]
        lines += [f"{kind} {name}: not wanted" for name in sorted(there.keys() - here.keys())]
        for name in sorted(there.keys() & here.keys()):
            lines += [f"{kind} {name}: {words}" for words in _changed(there[name], here[name])]
    return lines


def _changed(there: Any, here: Any) -> list[str]:
    if there == here:
        return []
    if isinstance(here, Chain):
        before, after = ([rule_text(rule) for rule in chain.rules] for chain in (there, here))
    else:
        before, after = (_element_lines(item.elements) for item in (there, here))
    found = [f"lacks  {line}" for line in after if line not in before]
    found += [f"has    {line}" for line in before if line not in after]
    if found:
        return found
    if not isinstance(here, Chain):
        return ["has the same elements with another type or comment"]
    return ["has the same rules at another hook" if there.hook != here.hook else "has the same rules in another order"]


def _element_lines(elements: dict[str, str] | frozenset[Element]) -> list[str]:
    if isinstance(elements, dict):
        return [f"{address} : goto {elements[address]}" for address in sorted(elements, key=number)]
    return [element_text(element) for element in sorted_elements(elements)]


def counters_view(desired: Desired, values: Mapping[str, CounterValue], scope: Scope) -> View:
    """Show packets and bytes by verdict, direction and policies."""
    wanted = {key for address in _local_addresses(desired, scope) for key in desired.classes_of(address)}
    outcomes = sorted({outcome for key in wanted for outcome in _outcomes(key)}, key=lambda found: found.name)
    counted = [(outcome, value) for outcome in outcomes if (value := values.get(outcome.name)) is not None]
    return {
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
        ]
    }


def _outcomes(key: ClassKey) -> Iterator[Origin]:
    """Give what a class's policies may decide, whether or not a rule of theirs does."""
    if key.policies:
        yield denied_by(key.direction, key.policies)
    for ref in (*key.admin, *key.baseline):
        yield denied_by(key.direction, (ref,))
    for ref in (*key.admin, *key.policies, *key.baseline):
        yield allowed_by(key.direction, (ref,))
