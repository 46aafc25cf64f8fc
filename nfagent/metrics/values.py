"""The values of a scrape: for each family its series, from the agent's readings and the desired state.

A series is label values, in the order of the family's labels, with a number. None between series means that none is
ready yet, so that other tasks of the event loop may run: a family may have thousands.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from nfagent import __version__
from nfagent.checkpoint.enforced_rules import ORIGINS
from nfagent.desired.state import DesiredState
from nfagent.metrics.families import DROP_COUNTERS, OBJECT_KINDS, PARTS
from nfagent.metrics.readings import CountedPackets, Readings
from nfagent.model.admin_policy import POLICY_KINDS
from nfagent.model.histogram import Histogram
from nfagent.verdicts.log_writer import QUEUE_FULL, STOPPED

Series: TypeAlias = tuple[tuple[str, ...], float | Histogram]
FamilySeries: TypeAlias = tuple[str, Iterable[Series | None]]

_STEP = 200
"""Items that are looked at in one step: 0.2 ms."""
_CLUSTER = "cluster"
_USUAL_LOSSES = (QUEUE_FULL, STOPPED, *map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)))


def family_series(readings: Readings, desired: DesiredState) -> Iterator[FamilySeries]:
    """Yield each family's name with its series."""
    yield from _agent(readings)
    yield from _reconciler(readings, desired)
    yield from _cluster_state(readings, desired)
    yield "policy_event_count", _pod_packets(readings.counts, desired)
    yield "nfagent_policy_packets_total", _policy_packets(readings.counts)
    drops = readings.counts.drops
    yield (
        "nfagent_dropped_packets_total",
        _by_label({name[len("drop/") :]: drops.get(name, 0) for name in DROP_COUNTERS}),
    )
    yield from _verdict_log(readings.verdict_log)
    yield from _policy_logging(readings, desired)
    yield from _connections(readings)


def _one(value: float) -> list[Series]:
    return [((), value)]


def _by_label(values: Mapping[str, float]) -> list[Series]:
    return [((label,), value) for label, value in values.items()]


def _agent(readings: Readings) -> Iterator[FamilySeries]:
    yield "nfagent_build_info", [((__version__,), 1)]
    yield "nfagent_ready", _one(not readings.unready)
    yield "nfagent_enforced_rules", _by_label({origin: origin == readings.enforced for origin in ORIGINS})
    yield "nfagent_problem", _by_label({part: bool(readings.problems.get(part)) for part in PARTS})
    yield "nfagent_own_log_lost_lines_total", _one(readings.own_log_lost)
    yield "nfagent_python_blocks", _one(readings.python_blocks)


def _reconciler(readings: Readings, desired: DesiredState) -> Iterator[FamilySeries]:
    status = readings.reconcile
    yield "nfagent_in_sync", _one(status.in_sync)
    yield "nfagent_sync_duration_seconds", [((stage,), found) for stage, found in readings.sync_latency.stages.items()]
    yield "nfagent_transactions_total", _by_label({"committed": status.transactions, "failed": status.failed})
    yield "nfagent_commands_total", _one(status.commands)
    yield "nfagent_comparisons_total", _one(status.comparisons)
    yield "nfagent_drift_repairs_total", _one(status.drifts)
    yield "nfagent_drift_contested", _one(readings.drift.contested)
    yield "nfagent_drift_contests_total", _one(readings.drift.contests)
    yield "nfagent_drift_exposed_seconds_total", _one(readings.drift.exposed_seconds)
    yield "nfagent_ruleset_held", _one(bool(status.held))
    yield "nfagent_ruleset_objects", _by_label(desired.sizes())
    yield "nfagent_revocations_total", _one(readings.revoked)


def _cluster_state(readings: Readings, desired: DesiredState) -> Iterator[FamilySeries]:
    objects = {kind: len(desired.keys(kind)) for kind in OBJECT_KINDS}
    yield "nfagent_policies", _by_label({kind: objects[kind] for kind in POLICY_KINDS})
    yield "nfagent_policies_failing_closed", _failing_closed(desired)
    yield "nfagent_objects", _by_label(objects)
    yield "nfagent_objects_invalid", _by_label(readings.invalid)
    yield "nfagent_kind_synced", _by_label({kind: _is_synced(readings, kind) for kind in OBJECT_KINDS})
    yield "nfagent_source_age_seconds", _one(_source_age(readings))
    yield "nfagent_local_pods", _one(len(desired.cluster.local))


def _failing_closed(desired: DesiredState) -> Iterator[Series | None]:
    found: Counter[str] = Counter()
    for count, policy in enumerate(list(desired.index.policies.values())):
        found[policy.ref.kind] += bool(policy.problems)
        if count % _STEP == 0:
            yield None
    yield from _by_label(found)


def _is_synced(readings: Readings, kind: str) -> bool:
    resource = readings.resources.get(kind)
    return readings.synced if resource is None else bool(resource["synced"] and not resource["trouble"])


def _source_age(readings: Readings) -> float:
    """Return for how long an interrupted watch has brought nothing, the longest; since the start for a new one."""
    ages = [resource["heard_seconds_ago"] for resource in readings.resources.values() if resource["trouble"]]
    return max((readings.uptime if age is None else float(age) for age in ages), default=0.0)


def _pod_packets(counts: CountedPackets, desired: DesiredState) -> Iterator[Series | None]:
    pods = desired.cluster.pods
    for (namespace, name, direction, verdict), packets in list(counts.pods.items()):
        pod = pods.get((namespace, name))
        found = counts.workloads.get((namespace, name), ("", ""))
        workload = (pod.workload_name or name, pod.workload_kind) if pod is not None else found
        yield (namespace, name, verdict, *workload, direction), packets


def _policy_packets(counts: CountedPackets) -> Iterator[Series | None]:
    found: Counter[tuple[str, ...]] = Counter()
    named = 0
    for key, packets in list(counts.policies.items()):
        for policy in key.policies:
            found[policy.kind, policy.namespace, policy.name, key.direction, key.disposition] += packets
        named += len(key.policies)
        if named > _STEP:
            named = 0
            yield None
    yield from found.items()


def _verdict_log(status: Mapping[str, Any]) -> Iterator[FamilySeries]:
    yield "nfagent_nflog_received_total", _one(status["received"])
    yield "nfagent_nflog_lost_total", _one(status["lost"])
    yield "nfagent_nflog_overruns_total", _one(status["overruns"])
    yield "nfagent_nflog_undecodable_total", _one(status["undecodable"])
    yield "nfagent_nflog_foreign_total", _one(status["unattributed"]["foreign"])
    yield "nfagent_verdict_records_total", _by_label(status["records"])
    yield "nfagent_verdict_packets_total", _by_label(status["packets"])
    yield "nfagent_verdict_packets_waiting", _one(status["waiting_packets"])
    yield "nfagent_verdict_records_dropped_total", _by_label(status["dropped_records"])
    yield "nfagent_verdict_log_lost_lines_total", _lost_lines(status)
    yield "nfagent_verdict_log_problem", _one(bool(status["problem"]))


def _lost_lines(status: Mapping[str, Any]) -> list[Series]:
    """Return lost lines by sink and reason, with the usual reasons from the start."""
    return [
        ((sink, reason), count)
        for sink, found in status["sinks"].items()
        for reason, count in (dict.fromkeys(_USUAL_LOSSES, 0) | found["lost_by"]).items()
    ]


def _policy_logging(readings: Readings, desired: DesiredState) -> Iterator[FamilySeries]:
    status, logging = readings.verdict_log, desired.logging
    yield "policy_logging_enabled", [((_CLUSTER,), logging.allow.log or logging.deny.log)]
    yield "policy_logging_ready", _one(readings.reading_log)
    yield "policy_logging_event_count", _by_label(status["events"])
    errors = dict(status["unattributed"])
    errors["undecodable"] += status["undecodable"]
    yield "policy_logging_error_count", _by_label(errors)
    yield "policy_logging_log_count", [((_CLUSTER, verdict), count) for verdict, count in status["records"].items()]
    dropped = [((_CLUSTER, reason), count) for reason, count in status["dropped_packets"].items()]
    yield "policy_logging_drop_count", dropped
    yield "policy_logging_allow_latency_microseconds", [((), readings.record_latency.allow)]
    yield "policy_logging_deny_latency_seconds", [((), readings.record_latency.deny)]


def _connections(readings: Readings) -> Iterator[FamilySeries]:
    usage, ports = readings.conntrack, readings.nat_ports
    yield "nfagent_conntrack_entries", [] if usage is None else _one(usage.entries)
    yield "nfagent_conntrack_limit", [] if usage is None else _one(usage.limit)
    yield "nfagent_conntrack_insert_failed_total", _one(ports.insert_failed)
    yield "nfagent_conntrack_dropped_total", _one(ports.drop)
    yield "nfagent_foreign_nat_rules", _one(readings.foreign_nat)
    busiest = ports.busiest
    ratio = None if busiest is None or not ports.available else min(1.0, busiest.used / ports.available)
    yield "nfagent_nat_ports_used_ratio", [] if ratio is None else _one(ratio)
