"""What this agent has to say in the cluster, gathered every few seconds, and handed to who says it.

Gathering costs as much as there is to say: objects at fault, egress objects, this node's own troubles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from nfagent.cluster.model import Ref
from nfagent.edge.channel import Api, Clock
from nfagent.edge.notary import Notary
from nfagent.errors import Problem
from nfagent.notices.conditions import standings
from nfagent.notices.findings import NodeFaults, cluster_statements, node_statements
from nfagent.ruleset.desired import Desired

_GATHER_SECONDS = 2.0


class Voice:
    """Speaks for one agent."""

    def __init__(
        self,
        desired: Desired,
        api: Api,
        clock: Clock,
        faults: Callable[[], Mapping[Ref, tuple[Problem, ...]]],
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
        self._notary = Notary(api, clock, desired.cluster.node, lambda: desired.cluster.nodes)

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
        desired, faults = self._desired, self._faults()
        said = cluster_statements(faults, desired.index.policies, desired.logging_object)
        said += node_statements(desired.cluster.node, self._node_faults())
        egress = desired.egress
        self._notary.say(said, standings(faults, egress.policies.values(), egress.gateways.values()))
