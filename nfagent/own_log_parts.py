"""What the agent's own log says of the cluster: changes of policies, problems of objects, what is waited for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nfagent.clock import Clock
from nfagent.controllers.change_log import PolicyChangeLog, WaitLog
from nfagent.controllers.event_applier import EventTarget
from nfagent.controllers.policy_changes import PolicyChanges
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue
from nfagent.metrics_parts import MetricsParts
from nfagent.model.objects import ObjectRef
from nfagent.model.plurals import counted
from nfagent.object_source import ObjectSource
from nfagent.time_slices import TimeSlices

log = logging.getLogger(__name__)
_MANIFESTS = {".yaml", ".yml", ".json"}


class OwnLogParts:
    """The parts, made and run together.

    changes: notes changes; events go to the desired state through it
    """

    def __init__(
        self,
        desired: DesiredState,
        target: EventTarget,
        clock: Clock,
        reconciler: Reconciler,
        source: Callable[[], ObjectSource],
        *,
        time_slices: TimeSlices,
        synced: Callable[[], bool],
    ) -> None:
        """Connect the parts.

        target: the state behind `changes`
        source: returns the source of objects
        synced: returns whether everything was read once
        """
        self.changes = PolicyChanges(target, desired)
        self._desired = desired
        self._reconciler = reconciler
        self._source = source
        self._synced = synced
        policies = desired.index.policies
        self._change_log = PolicyChangeLog(
            self.changes, clock, lambda: len(policies), lambda: reconciler.status.in_sync, time_slices
        )
        self._wait_log = WaitLog(clock, self.waiting_for)

    def begin(self) -> None:
        """Log changes of policies from now on: everything was read once."""
        self._change_log.begin()

    def in_sync(self) -> None:
        """Log that the kernel has the rules for the first time."""
        cluster, policies = self._desired.cluster, len(self._desired.index.policies)
        isolated = self.changes.isolated_pods()
        counts = counted(len(cluster.local), "Pod"), cluster.node, counted(policies, "policy")
        log.info("in sync: %s of node %s, %s; %s isolated", *counts, counted(isolated, "Pod"))

    async def run(self) -> None:
        """Log changes of policies until cancelled."""
        await self._change_log.run()

    async def report_waits(self) -> None:
        """Log what is waited for until cancelled: from the start of the process on."""
        await self._wait_log.run()

    def applied(self, metrics: MetricsParts) -> None:
        """Log the problems that came and went with the changes that were applied, and policies that changed."""
        self._change_log.note()
        came, went = self._source().news()
        metrics.note_issues(came, went)
        for problem in came:
            log.warning("%s", problem)
        if went:
            self._log_gone(went, came)

    def begin_reload(self) -> None:
        """Count changes of objects anew."""
        self.changes.drain_counts()

    def reloaded(self) -> None:
        """Log which objects a reload found changed."""
        changed = self.changes.drain_counts()
        log.info("reload: %s", f"changed objects: {changed}" if changed else "no object has changed")

    def waiting_for(self) -> str:
        """Return what keeps the agent from enforcing the cluster's present state; '' for nothing."""
        status = self._reconciler.status
        if not self._synced():
            return _unread(self._source().status())
        if status.held:
            return f"an end of this: {status.held}"
        if status.last_error:
            return f"the kernel to accept the rules: {status.last_error}"
        return _unwatched(self._source().status())

    def _log_gone(self, went: Iterable[ValidationIssue], came: Iterable[ValidationIssue]) -> None:
        """Log problems that were resolved, and those whose object was deleted; a new one of the object replaces it."""
        replaced = {_subject(problem) for problem in came}
        files = self._source().status().get("files")
        for problem in went:
            if _subject(problem) in replaced:
                continue
            if problem.object:
                is_there = self._is_there(problem.object)
            else:
                file = _file(problem)
                is_there = files is None or file in files or Path(file).suffix not in _MANIFESTS
            log.info("resolved: %s" if is_there else "gone, for it was deleted: %s", problem)

    def _is_there(self, name: str) -> bool:
        """Return whether an object exists, by its name as in problems: `Kind namespace/name`."""
        kind, _, path = name.partition(" ")
        namespace, _, own = path.rpartition("/")
        return self._desired.find(ObjectRef(kind, namespace, own)) is not None


def _subject(problem: ValidationIssue) -> tuple[str, str]:
    """Return what a problem is about: field of an object, or a file."""
    return (problem.object, problem.field) if problem.object else (_file(problem), "")


def _file(problem: ValidationIssue) -> str:
    name, colon, line = problem.place.rpartition(":")
    return name if colon and line.isdecimal() else problem.place


def _unread(source: dict[str, Any]) -> str:
    if "apiserver" not in source:
        return "the manifests to be read"
    following = source["apiserver"]
    if not following["server"]:
        return "the credentials of the API server"
    unread = {kind: each for kind, each in following["resources"].items() if not each["synced"]}
    return f"API server {following['server']}: not read yet: {', '.join(unread)}{_troubles(unread)}"


def _unwatched(source: dict[str, Any]) -> str:
    following = source.get("apiserver", {"resources": {}})
    # What the API server doesn't serve in a version that is read is reported once: it may stay so.
    failing = {
        kind: each for kind, each in following["resources"].items() if each["trouble"] and each["phase"] != "missing"
    }
    if not failing:
        return ""
    return f"API server {following['server']}: not followed: {', '.join(failing)}{_troubles(failing)}"


def _troubles(resources: dict[str, dict[str, Any]]) -> str:
    found = dict.fromkeys(each["trouble"] for each in resources.values() if each["trouble"])
    return f": {'; '.join(found)}" if found else ""
