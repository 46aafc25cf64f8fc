"""The table of metric families: names, types, labels and help, as they are scraped and as docs/metrics.md lists them.

Names without the prefix `nfagent_` are those that the policy logging of GKE has. Its counts are of type untyped: a
counter's name would have to end in `_total`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from nfagent.checkpoint.enforced_rules import ORIGINS
from nfagent.controllers.sync_latency import STAGES
from nfagent.model.admin_policy import POLICY_KINDS
from nfagent.model.gvk import RESOURCES
from nfagent.model.objects import DIRECTIONS
from nfagent.nftables.base_chains import BASE_COUNTERS
from nfagent.nftables.gateway_chains import NO_GATEWAY_COUNTER, NOT_HOLDER_COUNTER, TO_GATEWAY_COUNTER
from nfagent.nftables.masquerade_chains import UNTRANSLATED_COUNTER
from nfagent.nftables.unknown_pods import UNKNOWN_POD_COUNTER

MetricType: TypeAlias = Literal["counter", "gauge", "histogram", "untyped"]
Section: TypeAlias = Literal[
    "Agent",
    "Reconciler",
    "Cluster state",
    "Packets",
    "Verdict log",
    "Policy logging of GKE",
    "Conntrack and NAT",
    "Process",
]

MOST_SERIES = 10_000
"""Series of one family, at most: those beyond are left out, and counted by nfagent_metrics_omitted_series."""

PARTS = (
    *("ruleset", "notifications", "connections", "interfaces", "bridges", "bridge_frames", "other_backend"),
    *("gateways", "masquerade_file", "foreign_nat", "nat_ports", "credentials", "reports"),
    *("verdict_log", "last_good_objects", "saved_ruleset", "packet_counters"),
    *("settings", "runtime_files", "listeners", "tasks"),
)
"""Parts of the agent whose problems metrics and systemd's STATUS report."""

OBJECT_KINDS = tuple(resource.kind for resource in RESOURCES)
VERDICTS = ("allow", "deny", "audit-deny")
DROP_COUNTERS = (
    *BASE_COUNTERS,
    UNTRANSLATED_COUNTER,
    NOT_HOLDER_COUNTER,
    NO_GATEWAY_COUNTER,
    TO_GATEWAY_COUNTER,
    UNKNOWN_POD_COUNTER,
)
DROP_REASONS = tuple(name.removeprefix("drop/") for name in DROP_COUNTERS)


class MetricFamily(msgspec.Struct, frozen=True, kw_only=True):
    """One family.

    name:    as scraped, a counter's with `_total`; of a histogram without `_bucket`, `_sum`, `_count`
    help:    one sentence, with the unit where the name has none
    labels:  names of its labels
    known:   label -> its values, where all are known; series of them exist from the start, with the value 0
    series:  how many series a node has at most, in words; '' for a family whose labels' values are all known
    """

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    known: Mapping[str, tuple[str, ...]] = {}
    series: str = ""
    section: Section = "Agent"


def _family(
    name: str, kind: MetricType, about: str, labels: Mapping[str, tuple[str, ...]] | None = None, series: str = ""
) -> MetricFamily:
    """Return a family; a label without known values has an empty tuple."""
    given = labels or {}
    known = {label: values for label, values in given.items() if values}
    return MetricFamily(name=name, type=kind, help=about, labels=tuple(given), known=known, series=series)


def _section(section: Section, *families: MetricFamily) -> tuple[MetricFamily, ...]:
    return tuple(msgspec.structs.replace(family, section=section) for family in families)


_VERDICT = {"verdict": VERDICTS}
_ENFORCEMENT = {"enforcement": ("cluster",)}
_KIND = {"kind": OBJECT_KINDS}
_POLICY_KIND = {"kind": POLICY_KINDS}

FAMILIES = (
    *_section(
        "Agent",
        _family("nfagent_build_info", "gauge", "Always 1; the label has the agent's version.", {"version": ()}, "1"),
        _family("nfagent_ready", "gauge", "Whether /readyz answers 200: policies are read and enforced."),
        _family(
            "nfagent_enforced_rules",
            "gauge",
            "1 for the rules that the kernel enforces: the agent's own (current), those of the run before (previous), "
            "those saved before a boot (saved), only a hold of unknown Pods (hold), none: Pods are open; or unknown.",
            {"origin": ORIGINS},
        ),
        _family(
            "nfagent_metrics_omitted_series",
            "gauge",
            f"Series that this scrape leaves out, as a family has {MOST_SERIES} at most.",
            {"family": ()},
            "families with more series",
        ),
        _family(
            "nfagent_problem",
            "gauge",
            "Whether a part of the agent has a problem, which `nfagent dump state` describes; the rest goes on.",
            {"part": PARTS},
        ),
        _family("nfagent_own_log_lost_lines_total", "counter", "Lines of the agent's own log that were lost."),
    ),
    *_section(
        "Reconciler",
        _family("nfagent_in_sync", "gauge", "Whether the kernel's table equals the desired ruleset."),
        _family(
            "nfagent_sync_duration_seconds",
            "histogram",
            "Time from an event to the commit of its rules, by stage: wait (event to the start of its round), compute, "
            "compare (reads the whole table; not in every round), commit (the transaction), total (event to commit, "
            "retries included).",
            {"stage": STAGES},
        ),
        _family(
            "nfagent_transactions_total",
            "counter",
            "Transactions committed, and rounds that failed: a refused transaction, or a table that can't be read.",
            {"outcome": ("committed", "failed")},
        ),
        _family("nfagent_commands_total", "counter", "Commands in committed transactions."),
        _family("nfagent_comparisons_total", "counter", "Comparisons of the whole table."),
        _family("nfagent_drift_repairs_total", "counter", "Comparisons that found changes by other programs."),
        _family(
            "nfagent_drift_contested",
            "gauge",
            "Whether another program keeps changing the table: five repairs within two minutes.",
        ),
        _family("nfagent_drift_contests_total", "counter", "Times that a program began to keep changing the table."),
        _family(
            "nfagent_drift_exposed_seconds_total",
            "counter",
            "Time from the notification of a change by another program to its repair.",
        ),
        _family("nfagent_ruleset_held", "gauge", "Whether the table is left unchanged on purpose."),
        _family(
            "nfagent_ruleset_objects",
            "gauge",
            "Objects of the desired ruleset, by type.",
            {"type": ("chain", "rule", "set", "element", "map", "counter")},
        ),
        _family("nfagent_revocations_total", "counter", "Live connections ended by a policy change."),
    ),
    *_section(
        "Cluster state",
        _family("nfagent_policies", "gauge", "Policies in the cluster, of any node's Pods.", _POLICY_KIND),
        _family(
            "nfagent_policies_failing_closed",
            "gauge",
            "Policies with a part that can't be read or compiled, and that therefore allow less than they may mean.",
            _POLICY_KIND,
        ),
        _family("nfagent_objects", "gauge", "Objects known to the agent.", _KIND),
        _family(
            "nfagent_objects_invalid",
            "gauge",
            "Objects, or files, with something that can't be read; kind is `other` for whole files.",
            {"kind": (*OBJECT_KINDS, "other")},
        ),
        _family(
            "nfagent_kind_synced",
            "gauge",
            "Whether a kind was read whole and is watched; for manifests, whether the folder was read.",
            _KIND,
        ),
        _family(
            "nfagent_source_age_seconds",
            "gauge",
            "How long the longest interrupted watch has brought nothing; 0 while every kind is watched.",
        ),
        _family("nfagent_local_pods", "gauge", "Pods of this node."),
    ),
    *_section(
        "Packets",
        _family(
            "policy_event_count",
            "untyped",
            "First packets of allowed connections and all denied packets of a Pod, with logging off too.",
            {
                "policy_enforced_namespace": (),
                "policy_enforced_pod": (),
                "verdict": VERDICTS,
                "workload_name": (),
                "workload_kind": (),
                "direction": DIRECTIONS,
            },
            "6 for each Pod of the node",
        ),
        _family(
            "nfagent_policy_packets_total",
            "counter",
            "First packets of connections that a policy allows, later ones while connections are re-checked, and "
            "packets that it denies; a packet denied by the isolation of several policies counts for each of them.",
            {"kind": POLICY_KINDS, "namespace": (), "policy": (), "direction": DIRECTIONS, "verdict": VERDICTS},
            "6 for each policy that selects a Pod of the node",
        ),
        _family(
            "nfagent_dropped_packets_total",
            "counter",
            "Packets dropped for another reason than a policy: the named counter `drop/REASON`.",
            {"reason": DROP_REASONS},
        ),
    ),
    *_section(
        "Verdict log",
        _family("nfagent_nflog_received_total", "counter", "Packets read from the NFLOG group."),
        _family("nfagent_nflog_lost_total", "counter", "Packets that the kernel numbered and that were not received."),
        _family("nfagent_nflog_overruns_total", "counter", "Times that the receive buffer was full."),
        _family("nfagent_nflog_undecodable_total", "counter", "Messages that can't be decoded."),
        _family(
            "nfagent_nflog_foreign_total",
            "counter",
            "Packets in the NFLOG group that no rule of nfagent's logged.",
        ),
        _family("nfagent_verdict_records_total", "counter", "Records passed to the sinks.", _VERDICT),
        _family(
            "nfagent_verdict_packets_total",
            "counter",
            "Packets that the records passed to the sinks stand for.",
            _VERDICT,
        ),
        _family("nfagent_verdict_packets_waiting", "gauge", "Denied packets that are being aggregated."),
        _family(
            "nfagent_verdict_records_dropped_total",
            "counter",
            "Records that were not made or not passed on, by reason.",
            {"reason": ("rate limit", "too many denied connections at once")},
        ),
        _family(
            "nfagent_verdict_log_lost_lines_total",
            "counter",
            "Lines that a sink lost, by reason: those of the agent's queue, or the operating system's error.",
            {"sink": (), "reason": ()},
            "sinks times reasons; the operating system has about 130",
        ),
        _family("nfagent_verdict_log_problem", "gauge", "Whether verdicts are not logged, or not all."),
    ),
    *_section(
        "Policy logging of GKE",
        _family(
            "policy_logging_enabled",
            "gauge",
            "Whether the NetworkLogging object asks for allows or denies to be logged.",
            _ENFORCEMENT,
        ),
        _family("policy_logging_ready", "gauge", "Whether the NFLOG group is being read."),
        _family("policy_logging_event_count", "untyped", "Packets that were attributed.", _VERDICT),
        _family(
            "policy_logging_error_count",
            "untyped",
            "Packets without a record, by reason: undecodable, foreign (no rule of nfagent's logged them), or unknown "
            "(of a rule that was deleted long ago).",
            {"reason": ("undecodable", "foreign", "unknown")},
        ),
        _family(
            "policy_logging_log_count",
            "untyped",
            "Records passed to the sinks.",
            {**_ENFORCEMENT, **_VERDICT},
        ),
        _family(
            "policy_logging_drop_count",
            "untyped",
            "Packets whose record was dropped, by reason.",
            {**_ENFORCEMENT, "reason": ("rate limit", "too many denied connections at once")},
        ),
        _family(
            "policy_logging_allow_latency_microseconds",
            "histogram",
            "From an allowed packet to its record's way to the sinks, in microseconds.",
        ),
        _family(
            "policy_logging_deny_latency_seconds",
            "histogram",
            "From the first denied packet to its record's way to the sinks, aggregation included, in seconds.",
        ),
    ),
    *_section(
        "Conntrack and NAT",
        _family("nfagent_conntrack_entries", "gauge", "Entries of the kernel's conntrack table."),
        _family("nfagent_conntrack_limit", "gauge", "Entries that it can have: nf_conntrack_max."),
        _family(
            "nfagent_conntrack_insert_failed_total",
            "counter",
            "Connections that could not be entered into conntrack; at most a minute old.",
        ),
        _family(
            "nfagent_conntrack_dropped_total",
            "counter",
            "Packets that conntrack dropped, most often because its table was full; at most a minute old.",
        ),
        _family(
            "nfagent_foreign_nat_rules",
            "gauge",
            "Rules of other programs that translate Pods' traffic differently.",
        ),
        _family(
            "nfagent_nat_ports_used_ratio",
            "gauge",
            "Ports in use towards the destination with the most translated connections, of those available (0 to 1); "
            "the last reading, of which there is one when connections fail or `nfagent dump state` asks.",
        ),
    ),
    *_section(
        "Process",
        _family("process_cpu_seconds_total", "counter", "CPU time of the agent, in user and system mode."),
        _family("process_resident_memory_bytes", "gauge", "Resident memory of the agent."),
        _family(
            "nfagent_python_blocks",
            "gauge",
            "Blocks of memory in use by Python objects. Resident memory that grows while these don't is free memory "
            "between objects, which is used again.",
        ),
        _family("process_virtual_memory_bytes", "gauge", "Virtual memory of the agent."),
        _family("process_start_time_seconds", "gauge", "Start of the agent, in seconds since the epoch."),
        _family("process_open_fds", "gauge", "Open file descriptors."),
        _family("process_max_fds", "gauge", "File descriptors that the agent may open."),
    ),
)

BY_NAME = {family.name: family for family in FAMILIES}
