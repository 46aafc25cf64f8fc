"""Collects this agent's status every few seconds and passes changes to the cluster reporter.

The status has invalid objects, egress objects, and faults of this node. Without a change, nothing is passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from nfagent.clock import WallClock
from nfagent.desired.state import DesiredState
from nfagent.egress.gateway_status import gateway_status
from nfagent.egress.masquerade import missing_default
from nfagent.errors import ValidationIssue
from nfagent.model.objects import ObjectRef
from nfagent.reporting.conditions import build_conditions
from nfagent.reporting.problems import NodeFaults, cluster_notices, gateway_notices, node_notices
from nfagent.reporting.reporter import ClusterReporter
from nfagent.reporting.request_retrier import ApiRequests

_COLLECT_SECONDS = 2.0


class StatusReporter:
    """Collects the status of one agent."""

    def __init__(
        self,
        desired: DesiredState,
        api: ApiRequests,
        clock: WallClock,
        faults: Callable[[], Mapping[ObjectRef, tuple[ValidationIssue, ...]]],
        node_faults: Callable[[], NodeFaults],
        *,
        synced: Callable[[], bool],
    ) -> None:
        """Connect the sources of the status with the cluster reporter.

        faults:      returns the current issues, by object
        node_faults: returns the current faults of this node
        synced:      whether all objects were read once, so that one which isn't known is missing
        """
        self._desired = desired
        self._clock = clock
        self._faults = faults
        self._node_faults = node_faults
        self._synced = synced
        self._reporter = ClusterReporter(api, clock, desired.cluster.node, lambda: len(desired.cluster.nodes))
        self._last: tuple[object, ...] = ()

    async def run(self) -> None:
        """Collect and report until cancelled."""
        never = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reporter.run())
            while True:
                self._collect()
                await self._clock.wait(never, _COLLECT_SECONDS)

    @property
    def problem(self) -> str:
        """Why what is to be reported can't be written to the API server; '' where it can."""
        return self._reporter.problem

    def status(self) -> dict[str, Any]:
        """Return the state of the cluster reporter, for `dump state`."""
        return self._reporter.status()

    def _collect(self) -> None:
        """Pass notices and conditions to the cluster reporter where their inputs have changed."""
        desired, faults, node_faults = self._desired, self._faults(), self._node_faults()
        in_force = {ref: item for ref in faults if (item := desired.find(ref)) is not None}
        objects = desired.egress
        egress = (tuple(objects.policies.values()), tuple(objects.gateways.values()), desired.egress_ties)
        replaced, elected = objects.replaced_default, gateway_status(objects, desired.gateways)
        missing = missing_default(objects, desired.masquerade_settings) if self._synced() else None
        if missing is not None and missing.ref in faults:
            missing = None
        found = (faults, in_force, desired.logging_object, node_faults, egress, replaced, elected, missing)
        if found == self._last:
            return
        self._last = found
        notices = cluster_notices(faults, in_force, desired.logging_object)
        notices += gateway_notices(elected.problems)
        notices += node_notices(desired.cluster.node, node_faults)
        conditions = build_conditions(faults, *egress, replaced=replaced, elected=elected)
        self._reporter.publish(notices, conditions, missing)
