"""Reads the verdict log for `nfagent try`: its flows, and remarks on what it doesn't cover."""

from __future__ import annotations

import time
from pathlib import Path

from nfagent.cli.log_follow import LogFollower
from nfagent.cli.output import write_remark
from nfagent.errors import DecodeError, HostError, UsageError
from nfagent.model.plurals import counted
from nfagent.simulate.logged_flows import LoggedFlows
from nfagent.verdicts.records import Record, decode, timestamp

_SWITCH = "the NetworkLogging object `default` switches logging on"
_SECONDS_SHOWN = 19


class LogScan:
    """The flows of a verdict log.

    unread:  lines that are no records
    skipped: records outside the time span or the namespace, or of other Pods
    """

    def __init__(self, path: Path, since: int | None, namespace: str, pod: str = "") -> None:
        """Read the log and its older files. Raises OSError."""
        self.path = path
        self.logged = LoggedFlows()
        self.unread = self.skipped = 0
        earliest = "" if since is None else timestamp(max(0, time.time_ns() - since * 1_000_000_000))
        for lines in LogFollower(path).batches(follow=False):
            for line in lines:
                try:
                    record = decode(line)
                except DecodeError:
                    self.unread += 1
                    continue
                wanted = namespace in {"", *_namespaces(record)} and pod in {"", *_pods(record)}
                if record.timestamp >= earliest and wanted:
                    self.logged.add(record)
                else:
                    self.skipped += 1


def read_log(path: Path, since: int | None, namespace: str, pod: str = "", *, needed: bool) -> LogScan:
    """Return the connections of the log.

    since:     seconds before now; None for the whole log
    namespace: only connections with an end there; '' for all
    pod:       only connections of that Pod, as NAMESPACE/NAME; '' for all
    needed:    raise UsageError where the log has no connection: there is nothing else to evaluate

    Raises HostError where the log can't be read.
    """
    try:
        logged = LogScan(path, since, namespace, pod)
    except OSError as error:
        raise HostError(f"{path} can't be read: {error.strerror}", hint="use sudo, or another --log") from None
    if needed and not logged.logged.flows:
        raise UsageError(f"there is nothing to evaluate: {_nothing(logged)}; or evaluate all pairs of Pods with --pods")
    return logged


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
    if logged.unread:
        write_remark("warning", f"skipped {counted(logged.unread, 'invalid line')} of the log")


def _nothing(logged: LogScan) -> str:
    """Return why the log has no connection, and what to do."""
    if logged.skipped or logged.logged.records:
        return f"none of {counted(logged.skipped + logged.logged.records, 'record')} of {logged.path} matches"
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
