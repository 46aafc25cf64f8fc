"""Reads the verdict log for `nfagent try`: its flows, and remarks on what it doesn't cover."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from nfagent.cli.log_follow import LogFollower
from nfagent.cli.log_reading import Counts, Selection, records_of_file
from nfagent.cli.output import write_remark
from nfagent.errors import HostError, UsageError
from nfagent.model.plurals import counted
from nfagent.simulate.logged_flows import LoggedFlows
from nfagent.verdicts.records import Record, timestamp

_SWITCH = "the NetworkLogging object `default` switches logging on"
_SECONDS_SHOWN = 19


class LogScan(msgspec.Struct, frozen=True):
    """The flows of a verdict log, and how many of its lines they are of."""

    path: Path
    logged: LoggedFlows
    counts: Counts


def read_log(path: Path, since: int | None, namespace: str, pod: str = "", *, needed: bool) -> LogScan:
    """Return the connections of the log and its older files.

    since:     seconds before now; None for the whole log
    namespace: only connections with an end there; '' for all
    pod:       only connections of that Pod, as NAMESPACE/NAME; '' for all
    needed:    raise UsageError where the log has no connection: there is nothing else to evaluate

    Raises HostError where the log can't be read.
    """
    earliest = "" if since is None else timestamp(max(0, time.time_ns() - since * 1_000_000_000))

    def matches(record: Record) -> bool:
        is_wanted = namespace in {"", *_namespaces(record)} and pod in {"", *_pods(record)}
        return is_wanted and record.timestamp >= earliest

    found = LogScan(path, LoggedFlows(), Counts())
    try:
        for records in records_of_file(LogFollower(path), matches, Selection(), found.counts):
            for record in records:
                found.logged.add(record)
    except OSError as error:
        raise HostError(f"{path} can't be read: {error.strerror}", hint="use sudo, or another --log") from None
    if needed and not found.logged.flows:
        raise UsageError(f"there is nothing to evaluate: {_nothing(found)}; or evaluate all pairs of Pods with --pods")
    return found


def write_log_remarks(logged: LogScan) -> None:
    """Write remarks on the flows that were evaluated, and on what the log doesn't have."""
    flows_logged = logged.logged
    flows = len(flows_logged.flows)
    if not flows:
        write_remark("note", f"no connections of the log were evaluated: {_nothing(logged)}")
    else:
        span = f"{_shown(flows_logged.first)} to {_shown(flows_logged.last)} UTC"
        write_remark("note", f"evaluated {counted(flows, 'flow')} of {counted(flows_logged.records, 'record')}, {span}")
        if not flows_logged.allowed:
            write_remark(
                "warning", "the log has no allowed connections, so none of them can turn out denied; " + _SWITCH
            )
    if flows_logged.left_out:
        write_remark("note", f"left out {counted(flows_logged.left_out, 'record')} without a port")
    if logged.counts.unread:
        write_remark("warning", f"skipped {counted(logged.counts.unread, 'invalid line')} of the log")


def _nothing(logged: LogScan) -> str:
    """Return why the log has no connection, and what to do."""
    if logged.counts.records:
        return f"none of {counted(logged.counts.records, 'record')} of {logged.path} matches"
    if LogFollower(logged.path).exists():
        return f"{logged.path} has no records; {_SWITCH}"
    return f"{logged.path}: no verdict log yet; {_SWITCH}, and --log PATH reads another file"


def _namespaces(record: Record) -> set[str]:
    return {record.src.pod_namespace, record.dest.pod_namespace}


def _pods(record: Record) -> set[str]:
    return {f"{end.pod_namespace}/{end.pod_name}" for end in (record.src, record.dest) if end.pod_name}


def _shown(when: str) -> str:
    """Return the time of a record, to the second."""
    return when[:_SECONDS_SHOWN].replace("T", " ")
