"""The answers of an agent that has nothing but a desired state: in sync, without problems, without a log."""

from __future__ import annotations

from nfagent.controllers.conntrack_revoker import RevokerStatus
from nfagent.controllers.reconcile_status import ReconcileStatus
from nfagent.desired.state import DesiredState
from nfagent.introspection.agent_status import AgentStatus, DriftStatus, VerdictLogStatus
from nfagent.introspection.answers import AgentAnswerer, AnswerSources
from nfagent.introspection.freshness import WHOLE
from nfagent.kernel.table_listings import TableListings
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.time_slices import TimeSlices

IN_SYNC = AgentStatus(
    reconcile=ReconcileStatus(in_sync=True),
    drift=DriftStatus(listening=True, others=0),
    revoke=RevokerStatus(),
    verdict_log=VerdictLogStatus(path=""),
)


def answerer(desired: DesiredState, time_slices: TimeSlices, held: Ruleset = ABSENT) -> AgentAnswerer:
    """Return what answers for the agent. held: the ruleset that the kernel has."""
    reports = AnswerSources(lambda: WHOLE, lambda: (), lambda: IN_SYNC, _no_trouble)
    return AgentAnswerer(desired, TableListings(lambda: held, dict), time_slices, reports)


async def _no_trouble() -> str:
    return ""
