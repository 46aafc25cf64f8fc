"""What is wrong with the agent's parts, for metrics (`nfagent_problem`) and systemd's STATUS."""

from __future__ import annotations

from nfagent.checkpoint.store import CheckpointStore
from nfagent.controllers.conntrack_revoker import ConntrackRevoker
from nfagent.controllers.reconciler import Reconciler
from nfagent.kernel.link_monitor import LinkMonitor
from nfagent.kernel.nft_monitor import NftMonitor
from nfagent.verdict_log_parts import VerdictLogParts


class PartProblems:
    """Reads the problem of each part, '' for none. The names of the parts are metrics.families.PARTS."""

    def __init__(
        self,
        reconciler: Reconciler,
        monitor: NftMonitor,
        revoker: ConntrackRevoker,
        links: LinkMonitor,
        checkpoint: CheckpointStore,
        *,
        verdict_log: VerdictLogParts,
    ) -> None:
        """Store the parts."""
        self._reconciler = reconciler
        self._monitor = monitor
        self._revoker = revoker
        self._links = links
        self._checkpoint = checkpoint
        self._verdict_log = verdict_log

    def by_part(self) -> dict[str, str]:
        """Return the problem of each part, '' for none."""
        return {
            "ruleset": self._reconciler.status.last_error,
            "notifications": self._monitor.problem,
            "connections": self._revoker.status.last_error,
            "interfaces": self._links.problem,
            "last_good_objects": self._checkpoint.problem,
            "verdict_log": self._verdict_log.problem,
        }

    def described(self) -> list[str]:
        """Return what STATUS says; the verdict log describes itself, with another check of its folder."""
        found, contest = self.by_part(), self._reconciler.contest
        contested = [f"{contest.who_in_short} keeps changing table inet nfagent"] if contest else []
        names = {
            "ruleset": "changes are not in force",
            "notifications": "notifications",
            "connections": "live connections are not ended",
            "interfaces": "interfaces",
            "last_good_objects": "last good objects",
        }
        return contested + [f"{name}: {found[part]}" for part, name in names.items() if found[part]]
