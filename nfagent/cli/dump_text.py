"""The views of `nfagent dump` as text, from the Structs that their JSON decodes to (introspection.views)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from nfagent.cli.dump_agent_text import agent_facts
from nfagent.cli.tables import facts, paint, strong, table
from nfagent.errors import ValidationIssue
from nfagent.introspection.agent_status import AgentStateView
from nfagent.introspection.diff_report import DiffView
from nfagent.introspection.views.counters import CountersView
from nfagent.introspection.views.policies import NO_SUBJECT, PoliciesView, PolicyView
from nfagent.introspection.views.state import MasqueradeView
from nfagent.model.plurals import counted

_PODS_SHOWN = 3
_LAST_PRIORITY = 1000


def state(view: AgentStateView) -> list[str]:
    """Return the cluster: a summary, Nodes, Pods, problems."""
    nodes = [[node.name, ", ".join(node.addresses), ", ".join(node.pod_cidrs)] for node in view.nodes]
    pods = [
        [
            f"{pod.namespace}/{pod.name}",
            f"{pod.node}{' (here)' if pod.local else ''}",
            ", ".join(pod.addresses) + (" (the node's)" if pod.host_network else ""),
            ", ".join((*pod.tiers["ingress"], *pod.isolated["ingress"])),
            ", ".join((*pod.tiers["egress"], *pod.isolated["egress"])),
        ]
        for pod in view.pods
    ]
    lines = facts(_head(view))
    if nodes:
        lines += ["", *table(("node", "addresses", "pod ranges"), nodes)]
    if not pods:
        lines += ["", view.nothing]
    else:
        lines += ["", *table(("pod", "node", "addresses", "ingress policies", "egress policies"), pods)]
    return lines + _problems(view.problems)


def _head(view: AgentStateView) -> list[tuple[str, str]]:
    counts, masquerade, logging = view.counts, view.masquerade, view.logging
    parts = [
        counted(counts.namespaces, "namespace"),
        counted(counts.nodes, "node"),
        f"{counted(counts.pods, 'Pod')} ({counts.local_pods} here)",
        counted(counts.policies, "policy"),
    ]
    exempt = ", ".join(masquerade.exempt) or "nothing outside the cluster"
    added = [f"EgressNATPolicy {name}" for name in masquerade.added]
    origin = ", ".join([masquerade.base or "default list", *added])
    logged = (("allow", logging.allow), ("deny", logging.deny))
    switches = ", ".join(f"{paint(verdict)} {'on' if on else 'off'}" for verdict, on in logged)
    so_far = "" if view.complete else "  as far as it was read"
    unknown = "there is no Node of that name" if view.complete else "its Node isn't read yet"
    head = [
        ("node", view.node + ("" if view.known else f"  {paint('warning')}: {unknown}")),
        ("cluster", ", ".join(parts) + so_far),
        (
            "masquerade",
            (f"{_families(masquerade)}, not towards {exempt} ({origin})" if masquerade.enabled else "off") + so_far,
        ),
        *(("services", f"{', '.join(found.cidrs)} ({found.name})") for found in masquerade.service_ranges),
        ("logging", switches + so_far),
    ]
    return head if view.agent is msgspec.UNSET else head + agent_facts(view.agent)


def _families(masquerade: MasqueradeView) -> str:
    return "on" if len(masquerade.families) > 1 else f"on for IPv{masquerade.families[0]} alone"


def policies(view: PoliciesView) -> list[str]:
    """Return a table of policies, then the rules of each."""
    found = view.policies
    if not found:
        return [view.nothing, *_egress(view), *_problems(view.problems)]
    rows = [
        [
            _policy_name(policy),
            _tier(policy),
            policy.selects,
            ", ".join(policy.rules),
            _few(policy.local_pods),
            _rule_count(policy),
        ]
        for policy in found
    ]
    lines = table(("policy", "tier", "selects pods", "directions", "on this node", "rules"), rows)
    for policy in found:
        lines += ["", *_policy_lines(policy)]
    lines += _egress(view)
    shown = [problem for policy in found for problem in _policy_problems(policy)]
    return lines + _problems([problem for problem in view.problems if not _is_shown(problem, shown)])


def _egress(view: PoliciesView) -> list[str]:
    """Return tables of egress policies, with what isn't enforced, and of gateway groups."""
    lines: list[str] = []
    if view.egress:
        rows = [
            [
                policy.name,
                f"{policy.action} by {policy.gateway}" if policy.gateway else policy.action,
                " or ".join(policy.sources),
                ", ".join(policy.destinations) or "none",
            ]
            for policy in view.egress
        ]
        lines += ["", *table(("egress policy", "action", "for", "destinations"), rows)]
        idle = [policy for policy in view.egress if policy.unenforced]
        lines += [f"  {paint('warn')}, {policy.name}: {policy.unenforced}" for policy in idle]
    if view.gateways:
        rows = [
            [f"{one.namespace}/{one.name}", address, one.holders.get(address, ""), one.nodes]
            for one in view.gateways
            for address in one.addresses
        ]
        lines += ["", *table(("gateway group", "address", "held by", "of nodes"), rows)]
        unheld = [one for one in view.gateways if one.unheld]
        lines += [f"  {paint('warn')}, {one.namespace}/{one.name}: {one.unheld}" for one in unheld]
    return lines


def _policy_name(policy: PolicyView) -> str:
    """Return NAMESPACE/NAME of a NetworkPolicy, KIND NAME of a policy of the tiers."""
    return f"{policy.namespace}/{policy.name}" if policy.namespace else f"{policy.kind} {policy.name}"


def _tier(policy: PolicyView) -> str:
    audit = ", audited" if policy.audit else ""
    return f"{_tier_name(policy)}{audit}"


def _tier_name(policy: PolicyView) -> str:
    if policy.priority is None:
        return "NetworkPolicy"
    # A BaselineAdminNetworkPolicy has no priority field; its rank lies beyond the largest, 1000.
    return f"{policy.tier} {policy.priority}" if policy.priority <= _LAST_PRIORITY else policy.tier


def _policy_problems(policy: PolicyView) -> list[ValidationIssue]:
    found = [policy.problem, *(rule.problem for rules in policy.rules.values() for rule in rules)]
    return [problem for problem in found if problem is not None]


def _rule_count(policy: PolicyView) -> str:
    if policy.problem:
        return paint("NOT ENFORCED" if policy.selects == NO_SUBJECT else "FAILS CLOSED")
    broken = len(_policy_problems(policy))
    count = str(sum(map(len, policy.rules.values())))
    return f"{count}, {broken} {paint('FAIL CLOSED')}" if broken else count


def _is_shown(problem: ValidationIssue, shown: list[ValidationIssue]) -> bool:
    return any(_without(problem, "place") == _without(other, "place") for other in shown)


def _without(problem: ValidationIssue, field: str) -> ValidationIssue:
    return msgspec.structs.replace(problem, **{field: ""})


def _few(pods: list[str]) -> str:
    more = len(pods) - _PODS_SHOWN
    return ", ".join(pods[:_PODS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _policy_lines(policy: PolicyView) -> list[str]:
    name = strong(_policy_name(policy))
    if policy.priority is not None:
        return [*_tier_lines(name, policy)]
    if policy.problem:
        problem = _without(policy.problem, "object")
        return [
            f"{name}  {paint('FAILS CLOSED')}: {problem}",
            f"  it isolates pods {policy.selects} for {' and '.join(policy.isolates)}, and allows nothing",
        ]
    lines = [name]
    for direction in policy.isolates:
        preposition = "from" if direction == "ingress" else "to"
        rules = policy.rules[direction]
        lines += [f"  {direction} {preposition} {rule.about}" for rule in rules] or [
            f"  {direction} is not allowed at all"
        ]
    return lines


def _tier_lines(name: str, policy: PolicyView) -> Iterator[str]:
    """Return the lines of a policy of the tiers: its rules in the order of evaluation."""
    if policy.problem:
        problem = _without(policy.problem, "object")
        if policy.selects == NO_SUBJECT:
            yield f"{name}  {paint('NOT ENFORCED')}, it selects no Pod: {problem}"
            return
        yield f"{name}  {paint('FAILS CLOSED')}: {problem}"
    else:
        yield name
    for direction, rules in policy.rules.items():
        preposition = "from" if direction == "ingress" else "to"
        for number, rule in enumerate(rules, 1):
            label = f"  '{rule.name}'" if rule.name else ""
            if rule.problem:
                problem = _without(rule.problem, "object")
                effect = "matches nothing" if rule.action == "allow" else "denies everything"
                yield f"  {direction} {number}. {paint('FAILS CLOSED')}, it {effect}: {problem}{label}"
            else:
                yield f"  {direction} {number}. {paint(rule.action)} {preposition} {rule.about}{label}"


def counters(view: CountersView) -> list[str]:
    """Return a table of packets and bytes by policies, direction and verdict, and one of other drops."""
    drops = [[row.name, str(row.packets), str(row.bytes)] for row in view.drops]
    others = ["", *table(("dropped", "packets", "bytes"), drops, right={1, 2})] if drops else []
    if not view.counters:
        return [view.nothing, *others]
    rows = [
        [
            ", ".join(f"{row.namespace}/{name}" if row.namespace else f"{row.kind} {name}" for name in row.policies),
            row.direction,
            paint(row.verdict),
            str(row.packets),
            str(row.bytes),
        ]
        for row in sorted(view.counters, key=lambda row: (row.namespace, row.policies, row.direction))
    ]
    return [*table(("policies", "direction", "verdict", "packets", "bytes"), rows, right={3, 4}), *others]


def differences(view: DiffView) -> list[str]:
    """Return where the kernel differs, and what its `commands` are, which follow."""
    if view.equal:
        return [f"{paint('equal')}: the kernel holds the desired ruleset"]
    lines = [strong("the kernel differs from the desired ruleset:"), *(f"  {line}" for line in view.differences)]
    is_shell = any(
        command.endswith("restore --noflush <<'END'") or command.startswith("ipset ") for command in view.commands
    )
    title = "commands that make it equal:" if is_shell else "nft commands that make it equal:"
    return [*lines, "", strong(title)]


def commands(view: DiffView) -> list[str]:
    """Return the commands that make the kernel equal, each in one line: they can be pasted."""
    return [f"  {command}" for command in view.commands]


def _problems(problems: list[ValidationIssue]) -> list[str]:
    if not problems:
        return []
    return ["", strong("problems:"), *(f"  {problem}" for problem in problems)]
