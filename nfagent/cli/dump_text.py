"""The views of `nfagent dump` as text (ruleset.views makes their values)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from nfagent.cli.tables import facts, paint, strong, table
from nfagent.errors import ValidationIssue
from nfagent.model.plurals import counted

View = dict[str, Any]
_PODS_SHOWN = 3
_LAST_PRIORITY = 1000


def state(view: View) -> list[str]:
    """Show the cluster: a head, nodes, Pods, problems."""
    nodes = [[node["name"], ", ".join(node["addresses"]), ", ".join(node["pod_cidrs"])] for node in view["nodes"]]
    pods = [
        [
            f"{pod['namespace']}/{pod['name']}",
            f"{pod['node']}{' (here)' if pod['local'] else ''}",
            ", ".join(pod["addresses"]) + (" (the node's)" if pod["host_network"] else ""),
            ", ".join((*pod["tiers"]["ingress"], *pod["isolated"]["ingress"])),
            ", ".join((*pod["tiers"]["egress"], *pod["isolated"]["egress"])),
        ]
        for pod in view["pods"]
    ]
    lines = facts(_head(view))
    if nodes:
        lines += ["", *table(("node", "addresses", "pod ranges"), nodes)]
    if not pods:
        lines += ["", view["nothing"]]
    else:
        lines += ["", *table(("pod", "node", "addresses", "ingress judged by", "egress judged by"), pods)]
    return lines + _problems(view["problems"])


def _head(view: View) -> list[tuple[str, str]]:
    counts, masquerade, logging = view["counts"], view["masquerade"], view["logging"]
    parts = [
        counted(counts["namespaces"], "namespace"),
        counted(counts["nodes"], "node"),
        f"{counted(counts['pods'], 'Pod')} ({counts['local_pods']} here)",
        counted(counts["policies"], "policy"),
    ]
    exempt = ", ".join(masquerade["exempt"]) or "nothing outside the cluster"
    added = [f"EgressNATPolicy {name}" for name in masquerade["added"]]
    origin = ", ".join([masquerade["base"] or "default list", *added])
    switches = ", ".join(f"{paint(verdict)} {'on' if logging[verdict] else 'off'}" for verdict in ("allow", "deny"))
    so_far = "" if view["complete"] else "  as far as it was read"
    unknown = "there is no Node of that name" if view["complete"] else "its Node isn't read yet"
    head = [
        ("node", view["node"] + ("" if view["known"] else f"  {paint('warning')}: {unknown}")),
        ("cluster", ", ".join(parts) + so_far),
        (
            "masquerade",
            (f"{_families(masquerade)}, not towards {exempt} ({origin})" if masquerade["enabled"] else "off") + so_far,
        ),
        *(("services", f"{', '.join(found['cidrs'])} ({found['name']})") for found in masquerade["service_ranges"]),
        ("logging", switches + so_far),
    ]
    return head + (agent_facts(view["agent"]) if "agent" in view else [])


def _families(masquerade: View) -> str:
    # An agent of before says nothing of families: it translates both.
    families = masquerade.get("families", [4, 6])
    return "on" if len(families) > 1 else f"on for IPv{families[0]} alone"


def agent_facts(agent: View) -> list[tuple[str, str]]:
    """Say how it stands with the running agent: what it follows, the kernel, bridges, connections, the verdict log."""
    reconcile, log = agent["reconcile"], agent["verdict_log"]
    kernel = [paint("ok") + ", in sync" if reconcile["in_sync"] else f"{paint('warn')}, not in sync yet"]
    if reconcile["failures"]:
        kernel = [
            f"{paint('FAIL')}, refused {counted(reconcile['failures'], 'time')} in a row: {reconcile['last_error']}"
        ]
    if reconcile.get("held"):
        kernel = [f"{paint('FAIL')}, nothing is changed: {reconcile['held']}"]
    kernel.append(counted(reconcile["transactions"], "transaction"))
    if reconcile["drifts"]:
        by = f", last {reconcile['drift_by']}" if reconcile["drift_by"] else ""
        kernel.append(f"put right {counted(reconcile['drifts'], 'time')} after others changed it{by}")
    if reconcile.get("worded"):
        kernel.append(f"listed otherwise than written: {', '.join(reconcile['worded'])}")
    if not agent["drift"]["listening"]:
        why = agent["drift"]["problem"] or f"their tables hold {agent['drift']['others']:,} objects"
        kernel.append(f"others' changes are looked for every minute: {why}")
    found = [("API server", _following_fact(agent["apiserver"]))] if "apiserver" in agent else []
    found.append(("kernel", "; ".join(kernel)))
    for bridge in agent["bridges"]:
        words = f"packets between Pods on {bridge['bridge']} pass the rules by ({', '.join(bridge['unjudged'])})"
        found.append(("bridge", f"{paint('warn')}, {words}; see nfagent check"))
    found += _frame_facts(agent.get("frames", {}))
    if "links" in agent:
        found += _link_facts(agent["links"])
    found.append(("live connections", _revoke_fact(agent["revoke"])))
    if "last_good" in agent:
        found.append(("last good objects", _last_good_fact(agent["last_good"])))
    found += _own_log_facts(agent.get("own_log", {}))
    return [*found, ("verdict log", "; ".join(_log_facts(log)))]


def _frame_facts(frames: View) -> list[tuple[str, str]]:
    """Say which frames of bridges no rule could judge."""
    if frames.get("state") == "unknown":
        return [("bridge frames", f"{paint('warn')}, what can't be judged may pass: {frames['problem']}")]
    if frames.get("dropped"):
        return [("bridge frames", f"{counted(frames['dropped'], 'frame')} dropped that no rule could judge")]
    return []


def _own_log_facts(own: View) -> list[tuple[str, str]]:
    lost = own.get("lost_lines", 0)
    return (
        [("agent's log", f"{paint('warn')}, {counted(lost, 'line')} lost: nobody read it, or its disk took none")]
        if lost
        else []
    )


def _link_facts(links: View) -> list[tuple[str, str]]:
    """Say where Pods' sources aren't held against their interface."""
    shared = [
        f"{paint('warn')}, Pods behind {item['link']} can send with any source, and reach the node from link-local "
        f"ones whatever their policies: {item['why']}"
        for item in links["shared"]
    ]
    known = [f"{paint('warn')}, {links['problem']}"] if links["problem"] else []
    return [("interface", words) for words in (*known, *shared)]


def _last_good_fact(kept: View) -> str:
    """Say whether the next start knows the objects of now."""
    where = f"{counted(kept['objects'], 'object')} kept in {kept['path']}" if kept["path"] else "not kept"
    problem = kept["problem"] or (f"at the start {kept['lost']}" if kept.get("lost") else "")
    parts = [f"{paint('warn')}, {problem}" if problem else paint("ok"), where]
    if kept["pending"]:
        parts.append(f"{counted(kept['pending'], 'change')} not written yet")
    return "; ".join(parts)


def _following_fact(apiserver: View) -> str:
    """Say how it stands with following an API server, and what is in the way."""
    resources = apiserver["resources"]
    troubles: dict[str, list[str]] = {}
    for kind, found in resources.items():
        if found["trouble"]:
            troubles.setdefault(found["trouble"], []).append(kind)
    if troubles:
        said = "; ".join(
            f"{', '.join(kinds)} not followed{_heard(resources[kind] for kind in kinds)}: {trouble}"
            for trouble, kinds in troubles.items()
        )
        return f"{paint('warn')}, {said}"
    waited_for = [kind for kind, found in resources.items() if not found["synced"]]
    if waited_for:
        return f"{paint('warn')}, {apiserver['server']}; reading {', '.join(waited_for)}"
    missing = sum(found["phase"] == "missing" for found in resources.values())
    absent = f"; {counted(missing, 'kind')} not served" if missing else ""
    return f"{paint('ok')}, {apiserver['server']}; following {counted(len(resources) - missing, 'kind')}{absent}"


def _heard(resources: Iterable[View]) -> str:
    """Say how old what was read of some kinds is."""
    ages = [found.get("heard_seconds_ago") for found in resources]
    known = [age for age in ages if age is not None]
    return f", last heard of {max(known) / 60:.0f} min ago" if known else ""


def _revoke_fact(revoke: View) -> str:
    """Say what became of connections that changes concerned."""
    if revoke["last_error"]:
        stay = (
            f"{counted(revoke['suspects'], 'address')} {'stays' if revoke['suspects'] == 1 else 'stay'} under re-check"
        )
        wait = f"; revoked and not ended yet: {revoke['waiting']}" if revoke.get("waiting") else ""
        return f"{paint('warn')}, {stay}: {revoke['last_error']}{wait}"
    judged = counted(revoke["judged"], "connection")
    under = f"; {counted(revoke['suspects'], 'address')} under re-check" if revoke["suspects"] else ""
    return f"{judged} judged again after changes, {revoke['revoked'] or 'none'} ended{under}"


def _log_facts(log: View) -> list[str]:
    parts = [f"{paint('FAIL')}, {log['problem']}" if log["problem"] else paint("ok"), log["path"]]
    parts.append(f"{counted(log['received'], 'packet')} read, {log['lost'] or 'none'} lost")
    unattributed = sum(log["unattributed"].values()) + log["undecodable"]
    if unattributed:
        parts.append(f"{unattributed} could not be attributed")
    if log["lost_lines"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in log["lost_by"].items())
        parts.append(f"{counted(log['lost_lines'], 'line')} could not be written ({reasons})")
    return parts


def policies(view: View) -> list[str]:
    """Show policies: a table, then every policy's rules in words."""
    found = view["policies"]
    if not found:
        return [view["nothing"], *_egress(view), *_problems(view["problems"])]
    rows = [
        [
            _policy_name(policy),
            _tier(policy),
            policy["selects"],
            ", ".join(policy["rules"]),
            _few(policy["local_pods"]),
            _rule_count(policy),
        ]
        for policy in found
    ]
    lines = table(("policy", "tier", "selects pods", "judges", "on this node", "rules"), rows)
    for policy in found:
        lines += ["", *_policy_lines(policy)]
    lines += _egress(view)
    shown = [problem for policy in found for problem in _policy_problems(policy)]
    return lines + _problems([problem for problem in view["problems"] if not _is_shown(problem, shown)])


def _egress(view: View) -> list[str]:
    """Show who leaves the cluster under whose address: a table, what isn't enforced, gateways."""
    lines: list[str] = []
    if view["egress"]:
        rows = [
            [
                policy["name"],
                f"{policy['action']} by {policy['gateway']}" if policy["gateway"] else policy["action"],
                " or ".join(policy["sources"]),
                ", ".join(policy["destinations"]) or "none",
            ]
            for policy in view["egress"]
        ]
        lines += ["", *table(("egress policy", "action", "for", "destinations"), rows)]
        idle = [policy for policy in view["egress"] if policy["unenforced"]]
        lines += [f"  {paint('warn')}, {policy['name']}: {policy['unenforced']}" for policy in idle]
    if view["gateways"]:
        rows = [[f"{one['namespace']}/{one['name']}", ", ".join(one["addresses"])] for one in view["gateways"]]
        lines += ["", *table(("gateway group", "addresses"), rows)]
    return lines


def _policy_name(policy: View) -> str:
    """Name a policy: a NetworkPolicy by its path alone, one of the tiers by its kind too."""
    return f"{policy['namespace']}/{policy['name']}" if policy["namespace"] else f"{policy['kind']} {policy['name']}"


def _tier(policy: View) -> str:
    if policy["priority"] is None:
        return "NetworkPolicy"
    # Beyond 1000 there is no priority in the object: it is asked last.
    return f"{policy['tier']} {policy['priority']}" if policy["priority"] <= _LAST_PRIORITY else policy["tier"]


_NOBODY = "nobody"
"""Whom a policy selects whose subject can't be read."""


def _policy_problems(policy: View) -> list[View]:
    rules = [rule for rules in policy["rules"].values() for rule in rules]
    return [item["problem"] for item in (policy, *rules) if item["problem"]]


def _rule_count(policy: View) -> str:
    if policy["problem"]:
        return paint("NOT ENFORCED" if policy["selects"] == _NOBODY else "FAILS CLOSED")
    broken = len(_policy_problems(policy))
    count = str(sum(map(len, policy["rules"].values())))
    return f"{count}, {broken} {paint('FAIL CLOSED')}" if broken else count


def _is_shown(problem: View, shown: list[View]) -> bool:
    return any({**problem, "place": ""} == {**other, "place": ""} for other in shown)


def _few(pods: list[str]) -> str:
    more = len(pods) - _PODS_SHOWN
    return ", ".join(pods[:_PODS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _policy_lines(policy: View) -> list[str]:
    name = strong(_policy_name(policy))
    if policy["priority"] is not None:
        return [*_tier_lines(name, policy)]
    if policy["problem"]:
        problem = ValidationIssue(**{**policy["problem"], "object": ""})
        return [
            f"{name}  {paint('FAILS CLOSED')}: {problem}",
            f"  it isolates pods {policy['selects']} for {' and '.join(policy['isolates'])}, and allows nothing",
        ]
    lines = [name]
    for direction in policy["isolates"]:
        way = "from" if direction == "ingress" else "to"
        rules = policy["rules"][direction]
        lines += [f"  {direction} {way} {rule['about']}" for rule in rules] or [f"  {direction} is not allowed at all"]
    return lines


def _tier_lines(name: str, policy: View) -> Iterator[str]:
    """Show a policy of the tiers: its rules in the order in which they are asked."""
    if policy["problem"]:
        problem = ValidationIssue(**{**policy["problem"], "object": ""})
        if policy["selects"] == _NOBODY:
            yield f"{name}  {paint('NOT ENFORCED')}, it judges no Pod: {problem}"
            return
        yield f"{name}  {paint('FAILS CLOSED')}: {problem}"
    else:
        yield name
    for direction, rules in policy["rules"].items():
        way = "from" if direction == "ingress" else "to"
        for number, rule in enumerate(rules, 1):
            label = f"  '{rule['name']}'" if rule["name"] else ""
            if rule["problem"]:
                problem = ValidationIssue(**{**rule["problem"], "object": ""})
                effect = "matches nothing" if rule["action"] == "allow" else "denies everything"
                yield f"  {direction} {number}. {paint('FAILS CLOSED')}, it {effect}: {problem}{label}"
            else:
                yield f"  {direction} {number}. {paint(rule['action'])} {way} {rule['about']}{label}"


def counters(view: View) -> list[str]:
    """Show what passed and what didn't."""
    if not view["counters"]:
        return [view["nothing"]]
    rows = [
        [
            ", ".join(
                f"{row['namespace']}/{name}" if row["namespace"] else f"{row['kind']} {name}"
                for name in row["policies"]
            ),
            row["direction"],
            paint(row["verdict"]),
            str(row["packets"]),
            str(row["bytes"]),
        ]
        for row in sorted(view["counters"], key=lambda row: (row["namespace"], row["policies"], row["direction"]))
    ]
    return table(("policies", "direction", "verdict", "packets", "bytes"), rows, right={3, 4})


def differences(view: View) -> list[str]:
    """Show where the kernel differs, and what would put it right."""
    if view["equal"]:
        return [f"{paint('equal')}: the kernel holds what it must"]
    lines = [strong("the kernel differs from what it must hold:"), *(f"  {line}" for line in view["differences"])]
    return [*lines, "", strong("put right by these nft commands:"), *(f"  {command}" for command in view["commands"])]


def _problems(problems: list[View]) -> list[str]:
    if not problems:
        return []
    return ["", strong("problems:"), *(f"  {ValidationIssue(**problem)}" for problem in problems)]
