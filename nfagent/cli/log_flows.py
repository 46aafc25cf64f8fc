"""The verdict log as flows to be judged again: what is in it, and what it can't have."""

from __future__ import annotations

import time
from pathlib import Path

from nfagent.cli.log_follow import LogFollower
from nfagent.cli.output import remark
from nfagent.errors import DecodeError, HostError, UsageError
from nfagent.model.plurals import counted
from nfagent.simulate.logged_flows import LoggedFlows
from nfagent.verdicts.records import Record, decode, timestamp

_SWITCH = "the NetworkLogging object `default` switches logging on"
_SECONDS_SHOWN = 19


class LoggedRecord:
    """What was read: the flows, and how many lines were no records."""

    def __init__(self, path: Path, since: int | None, namespace: str) -> None:
        """Read the log, and its older files. Raises OSError."""
        self.path = path
        self.sightings = LoggedFlows()
        self.unread = self.passed_over = 0
        earliest = "" if since is None else timestamp(max(0, time.time_ns() - since * 1_000_000_000))
        for lines in LogFollower(path).batches(follow=False):
            for line in lines:
                try:
                    record = decode(line)
                except DecodeError:
                    self.unread += 1
                    continue
                if record.timestamp >= earliest and namespace in {"", *_namespaces(record)}:
                    self.sightings.add(record)
                else:
                    self.passed_over += 1


def read_log(path: Path, since: int | None, namespace: str, *, needed: bool) -> LoggedRecord:
    """Read the connections of the log.

    since:     seconds before now; None for all that is there
    namespace: only connections with an end there, where it isn't ''
    needed:    there is nothing else to judge: raises UsageError where the log has nothing

    Raises MachineError where it can't be read.
    """
    try:
        logged = LoggedRecord(path, since, namespace)
    except OSError as error:
        raise HostError(f"{path} can't be read: {error.strerror}; use sudo, or another --log") from None
    if needed and not logged.sightings.flows:
        raise UsageError(f"there is nothing to judge: {_nothing(logged)}; or judge all pairs of Pods, with --pods")
    return logged


def remark_on_log(logged: LoggedRecord) -> None:
    """Say what was judged, and what the log can't tell."""
    sightings = logged.sightings
    flows = len(sightings.flows)
    if not flows:
        remark("note", f"no connections of the log were judged: {_nothing(logged)}")
    else:
        span = f"{_shown(sightings.first)} to {_shown(sightings.last)} UTC"
        remark("note", f"judged {counted(flows, 'flow')} of {counted(sightings.records, 'record')}, {span}")
        if not sightings.allowed:
            remark("warning", "the log has no allowed connection: what would be denied can't be seen; " + _SWITCH)
    if sightings.left_out:
        remark("note", f"left out {counted(sightings.left_out, 'record')} without a port to judge by")
    if logged.unread:
        remark("warning", f"passed over {counted(logged.unread, 'line')} of the log that can't be read as a record")


def _nothing(logged: LoggedRecord) -> str:
    """Say why there is nothing, and what to do about it."""
    if logged.passed_over or logged.sightings.records:
        return f"none of {counted(logged.passed_over + logged.sightings.records, 'record')} of {logged.path} is meant"
    if LogFollower(logged.path).exists():
        return f"{logged.path} has no records yet; is logging on? {_SWITCH}"
    return f"{logged.path}: there is no verdict log yet; {_SWITCH}, and --log PATH reads another file"


def _namespaces(record: Record) -> set[str]:
    return {record.src.pod_namespace, record.dest.pod_namespace}


def _shown(when: str) -> str:
    """Write a record's time to the second."""
    return when[:_SECONDS_SHOWN].replace("T", " ")
