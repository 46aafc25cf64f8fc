"""The running agent's part of `nfagent dump state` as text: a line for each part, `ok` or what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from nfagent.cli.tables import paint
from nfagent.controllers.conntrack_revoker import RevokerStatus
from nfagent.introspection.agent_status import AgentStatus, BootStatus, VerdictLogStatus, backend_words
from nfagent.kernel.conntrack_usage import CONNTRACK_FIX, ConntrackUsage
from nfagent.kernel.nat_port_watch import NatPortStatus
from nfagent.kernel.nat_ports import describe
from nfagent.model.plurals import counted

_NAMES = {
    "packet_counters": "packet counters",
    "bridges": "bridges",
    "masquerade_file": "masquerading",
    "credentials": "credentials",
    "reports": "Events",
    "settings": "settings",
    "runtime_files": "socket, lock",
    "listeners": "listeners",
    "tasks": "tasks",
}
"""The parts that have a line where they have a problem, and none of their own."""

_Status = dict[str, Any]
"""The status of one part, as its own package defines it."""


def agent_facts(agent: AgentStatus) -> list[tuple[str, str]]:
    """Return names and states of the agent's parts: API server, kernel, bridges, connections, logs."""
    lines: list[tuple[str, str]] = []
    if agent.apiserver is not msgspec.UNSET:
        lines.append(("API server", _apiserver_text(agent.apiserver)))
    lines.append(("kernel", _kernel_text(agent)))
    lines += _backend_lines(agent.backend)
    lines += _boot_lines(agent.boot)
    for bridge in agent.bridges:
        text = f"traffic on bridge {bridge['bridge']} is not filtered ({', '.join(bridge['unjudged'])})"
        lines.append(("bridge", f"{paint('warn')}, {text}: br_netfilter is off; see nfagent check"))
    if agent.frames is not msgspec.UNSET:
        lines += _frame_lines(agent.frames)
    if agent.links is not msgspec.UNSET:
        lines += _link_lines(agent.links)
    if agent.nat is not msgspec.UNSET:
        lines += _nat_lines(agent.nat)
    if agent.gateways is not msgspec.UNSET:
        lines += _gateway_lines(agent.gateways)
    lines.append(("live connections", _revoker_text(agent.revoke)))
    lines += _conntrack_lines(agent.conntrack)
    if agent.nat_ports is not msgspec.UNSET:
        lines.append(("NAT ports", _nat_ports_text(agent.nat_ports)))
    if agent.last_good is not msgspec.UNSET:
        lines.append(("last good objects", _last_good_text(agent.last_good)))
    lines += _loss_lines(agent)
    return [*lines, ("verdict log", "; ".join(_verdict_log_parts(agent.verdict_log)))]


def _loss_lines(agent: AgentStatus) -> list[tuple[str, str]]:
    """Return what is wrong with parts that have no line of their own, and with the agent's log; nothing where right."""
    found = ((name, agent.problems.get(part, "")) for part, name in _NAMES.items())
    lines = [(name, f"{paint('warn')}, {problem}") for name, problem in found if problem]
    if agent.own_log.lost_lines:
        lost = counted(agent.own_log.lost_lines, "line")
        lines.append(("agent's log", f"{paint('warn')}, {lost} lost: stderr was not read, or its disk is full"))
    return lines


def _kernel_text(agent: AgentStatus) -> str:
    reconcile, drift = agent.reconcile, agent.drift
    parts = [paint("ok") + ", in sync" if reconcile.in_sync else f"{paint('warn')}, not in sync yet"]
    if reconcile.failures:
        parts = [f"{paint('FAIL')}, refused {counted(reconcile.failures, 'time')} in a row: {reconcile.last_error}"]
    if reconcile.held:
        parts = [f"{paint('FAIL')}, nothing is changed: {reconcile.held}"]
    if drift.contest is not msgspec.UNSET:
        wait = drift.next_repair_in or 0.0
        following = f"the next one may follow in {wait:.2f} s" if wait else "the next one may follow at once"
        parts.insert(0, f"{paint('FAIL')}, {drift.contest}; {following}")
    parts.append(counted(reconcile.transactions, "transaction"))
    if reconcile.drifts:
        by = f", last by {reconcile.drift_by}" if reconcile.drift_by else ""
        parts.append(counted(reconcile.drifts, "drift repair") + by)
    if reconcile.variants:
        parts.append(f"listed in another form than written: {', '.join(reconcile.variants)}")
    if drift.looks:
        parts.append(f"changes by other programs are looked for every {drift.looks:g} s")
    elif not drift.listening:
        why = drift.problem or f"their tables hold {drift.others:,} objects"
        parts.append(f"changes by other programs are looked for every minute: {why}")
    return "; ".join(parts)


def _backend_lines(backend: _Status | msgspec.UnsetType) -> list[tuple[str, str]]:
    """Return where the rules are written, why there, and what is missing there."""
    if backend is msgspec.UNSET:
        return []
    lines = [("backend", backend_words(backend))]
    return lines + [("backend", f"{paint('warn')}, {problem}") for problem in backend.get("problems", ())]


def _boot_lines(boot: BootStatus | msgspec.UnsetType) -> list[tuple[str, str]]:
    """Return what is enforced until the cluster was read, and why no ruleset can be saved for the next boot."""
    if boot is msgspec.UNSET:
        return []
    lines = [("enforced now", f"{paint('warn')}, {boot.enforced}")] if boot.enforced else []
    problem = boot.saved.problem if boot.saved is not None else ""
    return [*lines, ("saved ruleset", f"{paint('warn')}, {problem}")] if problem else lines


def _frame_lines(frames: _Status) -> list[tuple[str, str]]:
    """Return how frames of bridges that no rule can match are treated."""
    if frames.get("state") == "unknown":
        return [("bridge frames", f"{paint('warn')}, frames that no rule can match may pass: {frames['problem']}")]
    if frames.get("dropped"):
        return [("bridge frames", f"{counted(frames['dropped'], 'frame')} dropped that no rule can match")]
    return []


def _link_lines(links: _Status) -> list[tuple[str, str]]:
    """Return the interfaces at which the source addresses of Pods are not checked."""
    shared = [
        f"{paint('warn')}, Pods behind {item['link']} can send with any source, and reach the node from link-local "
        f"ones whatever their policies: {item['why']}"  # codespell:ignore whatever
        for item in links["shared"]
    ]
    known = [f"{paint('warn')}, {links['problem']}"] if links["problem"] else []
    return [("interface", text) for text in (*known, *shared)]


def _nat_lines(nat: _Status) -> list[tuple[str, str]]:
    """Return the rules of other programs that translate Pods' traffic otherwise, and what can't be read of them."""
    found = [f"{paint('warn')}, {item['message']}; {item['fix']}" for item in nat["conflicts"]]
    unread = [f"{paint('warn')}, rules of other programs: {problem}" for problem in nat["problems"]]
    return [("others' NAT", text) for text in (*found, *unread)]


def _gateway_lines(gateways: _Status) -> list[tuple[str, str]]:
    """Return the gateway addresses that the node holds or uses, and what could not be done."""
    lines = [("gateways", f"{paint('warn')}, {problem}") for problem in gateways["problems"]]
    parts = [f"holds {', '.join(gateways['held'])}"] if gateways["held"] else []
    parts += [f"{route['address']} by node {route['holder']}" for route in gateways["routes"]]
    return [*lines, ("gateways", f"{paint('ok')}, {'; '.join(parts)}")] if parts else lines


def _last_good_text(kept: _Status) -> str:
    """Return whether the next start of the agent knows the objects of now."""
    where = f"{counted(kept['objects'], 'object')} kept in {kept['path']}" if kept["path"] else "not kept"
    problem = kept["problem"] or (f"at the start {kept['lost']}" if kept.get("lost") else "")
    parts = [f"{paint('warn')}, {problem}" if problem else paint("ok"), where]
    if kept["pending"]:
        parts.append(f"{counted(kept['pending'], 'change')} not written yet")
    return "; ".join(parts)


def _apiserver_text(apiserver: _Status) -> str:
    """Return which kinds are watched, and why others are not."""
    resources = apiserver["resources"]
    kinds_by_trouble: dict[str, list[str]] = {}
    for kind, found in resources.items():
        if found["trouble"]:
            kinds_by_trouble.setdefault(found["trouble"], []).append(kind)
    if kinds_by_trouble:
        troubles = "; ".join(
            f"watch of {', '.join(kinds)} interrupted{_age(resources[kind] for kind in kinds)}: {trouble}"
            for trouble, kinds in kinds_by_trouble.items()
        )
        return f"{paint('warn')}, {troubles}"
    unread = [kind for kind, found in resources.items() if not found["synced"]]
    if unread:
        return f"{paint('warn')}, {apiserver['server']}; reading {', '.join(unread)}"
    missing = sum(found["phase"] == "missing" for found in resources.values())
    absent = f"; {counted(missing, 'kind')} not served" if missing else ""
    return f"{paint('ok')}, {apiserver['server']}; watching {counted(len(resources) - missing, 'kind')}{absent}"


def _age(resources: Iterable[_Status]) -> str:
    """Return how old the oldest state of some kinds is."""
    ages = [found.get("heard_seconds_ago") for found in resources]
    known = [age for age in ages if age is not None]
    return f", last update {max(known) / 60:.0f} min ago" if known else ""


def _revoker_text(revoke: RevokerStatus) -> str:
    """Return what became of established connections whose policies changed."""
    if revoke.last_error:
        stay = f"{counted(revoke.rechecking, 'address')} {'stays' if revoke.rechecking == 1 else 'stay'} under re-check"
        wait = f"; revoked and not ended yet: {revoke.waiting}" if revoke.waiting else ""
        return f"{paint('warn')}, {stay}: {revoke.last_error}{wait}"
    under = f"; {counted(revoke.rechecking, 'address')} under re-check" if revoke.rechecking else ""
    ended = f"{revoke.revoked or 'none'} ended"
    return f"{counted(revoke.evaluated, 'connection')} checked again after changes, {ended}{under}"


def _conntrack_lines(usage: ConntrackUsage | msgspec.UnsetType) -> list[tuple[str, str]]:
    """Return how full the table of connections is, where that needs something to be done."""
    if usage is msgspec.UNSET or not usage.is_nearly_full:
        return []
    return [("conntrack", f"{paint('FAIL' if usage.is_full else 'warn')}, {usage}; {CONNTRACK_FIX}")]


def _nat_ports_text(status: NatPortStatus) -> str:
    """Return how full the ports of translated connections are."""
    if status.problem:
        return f"{paint('warn')}, unknown: {status.problem}"
    ports = status.ports()
    return f"{paint('warn' if ports.nearly_full else 'ok')}, {describe(ports)}"


def _verdict_log_parts(log: VerdictLogStatus) -> list[str]:
    parts = [f"{paint('FAIL')}, {log.problem}" if log.problem else paint("warn" if log.lost or log.overruns else "ok")]
    parts += [log.path if name == "file" else name for name in log.sinks if name != "stream"] or [log.path or "no sink"]
    overruns = f" (the queue was full {counted(log.overruns, 'time')})" if log.overruns else ""
    parts.append(f"{counted(log.received, 'packet')} read, {log.lost or 'none'} lost{overruns}")
    unattributed = log.unattributed.undecodable + log.unattributed.unknown + log.undecodable
    if unattributed:
        parts.append(f"{unattributed} could not be attributed")
    if log.group_problem:
        parts.append(f"{paint('warn')}, {log.group_problem}")
    if log.unattributed.foreign:
        parts.append(f"{counted(log.unattributed.foreign, 'packet')} of other programs in the same NFLOG group")
    if log.not_delegated:
        parts.append(f"{counted(sum(log.not_delegated.values()), 'packet')} left out by delegation")
    if log.repeated:
        parts.append(f"{counted(sum(log.repeated.values()), 'packet')} of connections with a record already")
    if log.waiting_keys:
        parts.append(f"{counted(log.waiting_keys, 'denied connection')} being aggregated")
    if log.dropped_packets:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(log.dropped_packets.items()))
        parts.append(f"{counted(sum(log.dropped_packets.values()), 'packet')} without a record ({reasons})")
    if log.lost_lines:
        reasons = ", ".join(f"{count} {reason}" for reason, count in log.lost_by.items())
        parts.append(f"{counted(log.lost_lines, 'line')} could not be written ({reasons})")
    if "stream" in log.sinks and log.sinks["stream"].lost_lines:
        parts.append(f"{counted(log.sinks['stream'].lost_lines, 'record')} missed by slow readers of the stream")
    return parts
