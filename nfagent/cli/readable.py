"""The views of `nfagent dump` as text (ruleset.views makes their values)."""

from __future__ import annotations

from typing import Any

from nfagent.cli.tables import counted, facts, paint, strong, table
from nfagent.errors import Problem

View = dict[str, Any]
_PODS_SHOWN = 3


def state(view: View) -> list[str]:
    """Show the cluster: a head, nodes, Pods, problems."""
    nodes = [[node["name"], ", ".join(node["addresses"]), ", ".join(node["pod_cidrs"])] for node in view["nodes"]]
    pods = [
        [
            f"{pod['namespace']}/{pod['name']}",
            f"{pod['node']}{' (here)' if pod['local'] else ''}",
            ", ".join(pod["addresses"]) + (" (the node's)" if pod["host_network"] else ""),
            ", ".join(pod["isolated"]["ingress"]),
            ", ".join(pod["isolated"]["egress"]),
        ]
        for pod in view["pods"]
    ]
    lines = facts(_head(view))
    if nodes:
        lines += ["", *table(("node", "addresses", "pod ranges"), nodes)]
    if not pods:
        lines += ["", "no Pods"]
    else:
        lines += ["", *table(("pod", "node", "addresses", "ingress isolated by", "egress isolated by"), pods)]
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
    origin = "ip-masq-agent ConfigMap" if masquerade["configured"] else "default list"
    switches = ", ".join(f"{paint(verdict)} {'on' if logging[verdict] else 'off'}" for verdict in ("allow", "deny"))
    head = [
        ("node", view["node"] + ("" if view["known"] else f"  {paint('warning')}: there is no Node of that name")),
        ("cluster", ", ".join(parts)),
        ("masquerade", f"on, not towards {exempt} ({origin})" if masquerade["enabled"] else "off"),
        ("logging", switches),
    ]
    return head + (_agent_facts(view["agent"]) if "agent" in view else [])


def _agent_facts(agent: View) -> list[tuple[str, str]]:
    reconcile, log = agent["reconcile"], agent["verdict_log"]
    kernel = [paint("ok") + ", in sync" if reconcile["in_sync"] else f"{paint('warn')}, not in sync yet"]
    if reconcile["failures"]:
        kernel = [f"{paint('FAIL')}, refused {reconcile['failures']} times in a row: {reconcile['last_error']}"]
    kernel.append(counted(reconcile["transactions"], "transaction"))
    if reconcile["drifts"]:
        kernel.append(f"put right {counted(reconcile['drifts'], 'time')} after others changed it")
    return [("kernel", "; ".join(kernel)), ("verdict log", "; ".join(_log_facts(log)))]


def _log_facts(log: View) -> list[str]:
    parts = [f"{paint('FAIL')}, {log['problem']}" if log["problem"] else paint("ok"), log["path"]]
    parts.append(f"{counted(log['received'], 'packet')} read, {log['lost'] or 'none'} lost")
    unattributed = sum(log["unattributed"].values()) + log["undecodable"]
    if unattributed:
        parts.append(f"{unattributed} could not be attributed")
    if log["errors"]:
        parts.append(f"{counted(log['lost_lines'], 'line')} could not be written ({log['last_error']})")
    return parts


def policies(view: View) -> list[str]:
    """Show policies: a table, then every policy's rules in words."""
    found = view["policies"]
    if not found:
        return ["no policies: every connection is allowed", *_problems(view["problems"])]
    rows = [
        [
            f"{policy['namespace']}/{policy['name']}",
            policy["selects"],
            ", ".join(policy["isolates"]),
            _few(policy["local_pods"]),
            paint("FAILS CLOSED") if policy["problem"] else str(sum(map(len, policy["rules"].values()))),
        ]
        for policy in found
    ]
    lines = table(("policy", "selects pods", "isolates", "on this node", "rules"), rows)
    for policy in found:
        lines += ["", *_policy_lines(policy)]
    shown = [policy["problem"] for policy in found if policy["problem"]]
    return lines + _problems([problem for problem in view["problems"] if not _is_shown(problem, shown)])


def _is_shown(problem: View, shown: list[View]) -> bool:
    return any({**problem, "place": ""} == {**other, "place": ""} for other in shown)


def _few(pods: list[str]) -> str:
    more = len(pods) - _PODS_SHOWN
    return ", ".join(pods[:_PODS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _policy_lines(policy: View) -> list[str]:
    name = strong(f"{policy['namespace']}/{policy['name']}")
    if policy["problem"]:
        problem = Problem(**{**policy["problem"], "object": ""})
        return [
            f"{name}  {paint('FAILS CLOSED')}: {problem}",
            f"  it isolates pods {policy['selects']} for {' and '.join(policy['isolates'])}, and allows nothing",
        ]
    lines = [name]
    for direction in policy["isolates"]:
        way = "from" if direction == "ingress" else "to"
        rules = policy["rules"][direction]
        lines += [f"  {direction} {way} {rule}" for rule in rules] or [f"  {direction} is not allowed at all"]
    return lines


def counters(view: View) -> list[str]:
    """Show what passed and what didn't."""
    if not view["counters"]:
        return ["no counters: no policy isolates a Pod of this node"]
    rows = [
        [
            ", ".join(f"{row['namespace']}/{name}" for name in row["policies"]),
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
    return ["", strong("problems:"), *(f"  {Problem(**problem)}" for problem in problems)]
