"""What is wrong with the agent's parts, for metrics (`nfagent_problem`), systemd's STATUS and Events on the Node."""

from __future__ import annotations

from collections.abc import Callable

from nfagent.checkpoint.store import CheckpointStore
from nfagent.controllers.conntrack_revoker import ConntrackRevoker
from nfagent.controllers.reconciler import Reconciler
from nfagent.egress_nat_parts import EgressNatParts
from nfagent.kernel.bridges import BridgeWatch
from nfagent.kernel.conntrack_usage import read_conntrack_usage
from nfagent.kernel.link_monitor import LinkMonitor
from nfagent.kernel.nft_monitor import NftMonitor
from nfagent.kernel.xt_watch import XtWatch
from nfagent.reporting.problems import NodeFaults
from nfagent.system.background_task import ended_tasks
from nfagent.verdict_log_parts import VerdictLogParts

_NAMES = {
    "ruleset": "changes are not in force",
    "notifications": "notifications",
    "connections": "live connections are not ended",
    "interfaces": "interfaces",
    "bridges": "",
    "bridge_frames": "frames that no rule can match aren't dropped on bridges",
    "other_backend": "rules of another backend hold too",
    "gateways": "gateways",
    "masquerade_file": "masquerade configuration",
    "foreign_nat": "cannot check whether other programs translate Pods' traffic",
    "nat_ports": "cannot tell how full the ports of translated connections are",
    "credentials": "credentials of the API server",
    "reports": "Events and conditions",
    "last_good_objects": "last good objects",
    "packet_counters": "packet counters",
    "settings": "every setting stays as it was before the reload",
    "runtime_files": "",
    "listeners": "",
    "tasks": "",
}
"""What STATUS says of a part, '' where its problem says it. Verdict log and saved ruleset describe themselves there."""


class PartProblems:
    """Reads the problem of each part, '' for none. The names of the parts are metrics.families.PARTS."""

    def __init__(
        self,
        reconciler: Reconciler,
        monitor: NftMonitor | XtWatch,
        revoker: ConntrackRevoker,
        links: LinkMonitor,
        checkpoint: CheckpointStore,
        *,
        bridges: BridgeWatch,
        verdict_log: VerdictLogParts,
        egress_nat: EgressNatParts,
    ) -> None:
        """Store the parts."""
        self._reconciler = reconciler
        self._monitor = monitor
        self._revoker = revoker
        self._links = links
        self._bridges = bridges
        self._checkpoint = checkpoint
        self._verdict_log = verdict_log
        self._egress_nat = egress_nat
        self.also: dict[str, Callable[[], str]] = {}
        """What returns the problem of a further part, by its name."""

    def by_part(self) -> dict[str, str]:
        """Return the problem of each part, '' for none."""
        return {
            "ruleset": self._reconciler.status.last_error,
            "notifications": self._monitor.problem,
            "connections": self._revoker.status.last_error,
            "interfaces": self._links.problem,
            "bridges": self._bridges.problem,
            "last_good_objects": self._checkpoint.problem,
            "verdict_log": self._verdict_log.problem,
            "tasks": ended_tasks(),
            **self._egress_nat.problems(),
            **{part: read() for part, read in self.also.items()},
        }

    def found(self) -> dict[str, str]:
        """Return the problem of each part that has one, for `dump state`, which lists unfiltered bridges by itself."""
        unread = self._bridges.unread
        found = self.by_part() | {"bridges": f"cannot check whether bridges are filtered: {unread}" if unread else ""}
        return {part: problem for part, problem in found.items() if problem}

    def described(self) -> list[str]:
        """Return what STATUS says."""
        found, contest = self.found(), self._reconciler.contest
        contested = [f"{contest.who_in_short} keeps changing nfagent's rules"] if contest else []
        return contested + [
            f"{name}: {found[part]}" if name else found[part] for part, name in _NAMES.items() if part in found
        ]

    def node_faults(self) -> NodeFaults:
        """Return what Events on the Node report."""
        unfiltered, fix_command = self._bridges.unfiltered
        status, contest, usage = self._reconciler.status, self._reconciler.contest, read_conntrack_usage()
        return NodeFaults(
            commit_error=status.last_error,
            hold_reason=status.held,
            verdict_log=self._verdict_log.problem,
            log_group=self._verdict_log.group_problem,
            revocation_error=self._revoker.status.last_error,
            monitor_error=self._monitor.problem,
            table_contest=contest.who_in_short if contest else "",
            masquerade_file=self._egress_nat.file.fault,
            foreign_nat=self._egress_nat.conflicts.reports,
            conntrack_full=bool(usage and usage.is_full),
            unfiltered_bridges=unfiltered,
            fix_command=fix_command,
        )
