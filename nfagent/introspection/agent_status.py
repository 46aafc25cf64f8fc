"""The running agent's part of `dump state`: how the kernel, the API server, conntrack and the logs stand."""

from __future__ import annotations

from typing import Any

import msgspec

from nfagent.controllers.conntrack_revoker import RevokerStatus
from nfagent.controllers.drift_backoff import TableContest
from nfagent.controllers.reconcile_status import ReconcileStatus
from nfagent.controllers.ruleset_saver import SaverStatus
from nfagent.introspection.views.state import StateView
from nfagent.kernel.conntrack_usage import ConntrackUsage
from nfagent.kernel.nat_port_watch import NatPortStatus
from nfagent.verdicts.log_writer import SinkStatus
from nfagent.verdicts.record_stream import RecordStatus


class DriftStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of the table by other programs.

    listening: the kernel reports them; where not, they are looked for every minute
    others:    objects in tables of other programs
    problem:   why there is no subscription, '' where there is one or `others` is the reason
    looks:     seconds between two looks for changes, where the kernel reports none: rules in iptables
    contest:   a program that keeps changing the table
    next_repair_in: during a contest, seconds after which the table may be repaired again; 0 for at once
    """

    listening: bool
    others: int
    problem: str = ""
    looks: float = 0.0
    contest: TableContest | msgspec.UnsetType = msgspec.UNSET
    next_repair_in: float | msgspec.UnsetType = msgspec.UNSET


class OwnLogStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's log on stderr: lines that could not be written."""

    lost_lines: int = 0


class VerdictLogStatus(RecordStatus, frozen=True, kw_only=True):
    """The verdict log, and the NFLOG group that feeds it, besides what became of the packets.

    path:                the file; '' where the settings have no such sink
    group_problem:       which other programs log to the group; their records are counted in `unattributed.foreign`
    lost_lines, lost_by: records that could not be written, in all and by reason, over all sinks
    sinks:               each sink by name; `stream` is what readers of the agent's socket get
    received, undecodable, lost, overruns: kernel.nflog.NflogCounters
    """

    path: str
    problem: str = ""
    group_problem: str = ""
    errors: int = 0
    lost_lines: int = 0
    lost_by: dict[str, int] = msgspec.field(default_factory=dict)
    queued_lines: int = 0
    last_error: str = ""
    sinks: dict[str, SinkStatus] = msgspec.field(default_factory=dict)
    received: int = 0
    undecodable: int = 0
    lost: int = 0
    overruns: int = 0


class BootStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What holds over a boot.

    enforced: what the kernel enforced when the agent started; '' once the agent's own rules are in force
    saved:    the ruleset that is saved for the next boot; None where the settings ask for none
    """

    enforced: str
    saved: SaverStatus | None


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's parts. The dicts are the `status()` of the package that each is named after, which defines them.

    backend:   backend_parts: where the rules are written, and why there
    bridges:   kernel.bridges         frames: kernel.bridge_table    links:   kernel.link_monitor
    files:     manifests.source       apiserver: kube.informers; one of both
    nat:       kernel.foreign_nat     gateways: controllers.gateway_controller
    conntrack: absent where the kernel doesn't say
    problems:  of parts that have one, by the part's name in the metric nfagent_problem
    last_good: checkpoint.store       notices: reporting.reporter, where the source is an API server
    """

    reconcile: ReconcileStatus
    drift: DriftStatus
    backend: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    bridges: list[dict[str, Any]] = []
    frames: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    links: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    nat: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    gateways: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    revoke: RevokerStatus
    conntrack: ConntrackUsage | msgspec.UnsetType = msgspec.UNSET
    nat_ports: NatPortStatus | msgspec.UnsetType = msgspec.UNSET
    files: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    apiserver: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    last_good: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    boot: BootStatus | msgspec.UnsetType = msgspec.UNSET
    notices: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    own_log: OwnLogStatus = OwnLogStatus()
    problems: dict[str, str] = {}
    verdict_log: VerdictLogStatus


class AgentStateView(StateView, frozen=True, kw_only=True):
    """`dump state` of a running agent; from manifests there is no `agent`."""

    agent: AgentStatus | msgspec.UnsetType = msgspec.UNSET


def backend_words(backend: dict[str, Any] | msgspec.UnsetType) -> str:
    """Return where the rules are written, and why there; '' where that isn't said."""
    if backend is msgspec.UNSET:
        return ""
    variant = f" ({backend['variant']}: {backend['variant_reason']})" if "variant" in backend else ""
    return f"{backend['name']}{variant}, as {backend['reason']}"


def with_agent(view: StateView, agent: AgentStatus) -> AgentStateView:
    """Return a view of the state with the agent's part behind it."""
    return AgentStateView(**msgspec.structs.asdict(view), agent=agent)
