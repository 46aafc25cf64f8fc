"""What this agent has to say in the cluster, gathered every few seconds, and handed to who says it.

What there is to say comes from objects at fault, egress objects, and this node's own troubles; where none of them is
another than before, nothing is handed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from nfagent.clock import WallClock
from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue
from nfagent.model.objects import ObjectRef
from nfagent.reporting.conditions import standings
from nfagent.reporting.problems import NodeFaults, cluster_statements, node_statements
from nfagent.reporting.reporter import ClusterReporter
from nfagent.reporting.request_retrier import ApiRequests

_GATHER_SECONDS = 2.0


class StatusReporter:
    """Speaks for one agent."""

    def __init__(
        self,
        desired: DesiredState,
        api: ApiRequests,
        clock: WallClock,
        faults: Callable[[], Mapping[ObjectRef, tuple[ValidationIssue, ...]]],
        node_faults: Callable[[], NodeFaults],
    ) -> None:
        """Join what is known with where it is said.

        faults:      what is wrong with objects now, by object
        node_faults: what goes wrong on this node now
        """
        self._desired = desired
        self._clock = clock
        self._faults = faults
        self._node_faults = node_faults
        self._notary = ClusterReporter(api, clock, desired.cluster.node, lambda: len(desired.cluster.nodes))
        self._gathered: tuple[object, ...] = ()

    async def run(self) -> None:
        """Speak until cancelled."""
        never = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._notary.run())
            while True:
                self._gather()
                await self._clock.wait(never, _GATHER_SECONDS)

    def status(self) -> dict[str, Any]:
        """Tell how it stands, for `dump state`."""
        return self._notary.status()

    def _gather(self) -> None:
        """Hand over what holds, where something that it is made of is another than before."""
        desired, faults, troubles = self._desired, self._faults(), self._node_faults()
        in_force = {ref: item for ref in faults if (item := desired.find(ref)) is not None}
        egress = (tuple(desired.egress.policies.values()), tuple(desired.egress.gateways.values()))
        found = (faults, in_force, desired.logging_object, troubles, egress)
        if found == self._gathered:
            return
        self._gathered = found
        said = cluster_statements(faults, in_force, desired.logging_object)
        said += node_statements(desired.cluster.node, troubles)
        self._notary.say(said, standings(faults, *egress))
