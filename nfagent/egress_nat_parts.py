"""The parts of egress NAT beside the ruleset.

They are the ip-masq-agent file, gateways and their connections, ports in use, and nat rules of other programs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nfagent.clock import Clock
from nfagent.config import Settings
from nfagent.controllers.conntrack_revoker import RecheckKernel
from nfagent.controllers.gateway_connections import GatewayConnections
from nfagent.controllers.gateway_controller import GatewayController
from nfagent.controllers.ip_masq_file import IpMasqFile
from nfagent.desired.state import DesiredState
from nfagent.kernel.conntrack import ConntrackClient
from nfagent.kernel.foreign_nat import NatConflictWatch
from nfagent.kernel.gateway_links import GatewayLinks
from nfagent.kernel.nat_port_watch import NatPortWatch
from nfagent.kernel.route_events import ADDRESSES, LINKS, RULES, RouteEvents
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.netlink.conntrack_ports import ALL_PORTS

_GATEWAY_EVENTS = LINKS | ADDRESSES | RULES
"""Not of routes: a BGP node has a million. An interface that goes down takes the routes by it along."""


class EgressNatParts:
    """The parts, made and run together."""

    def __init__(
        self,
        settings: Settings,
        desired: DesiredState,
        conflicts: NatConflictWatch,
        kernel: RecheckKernel,
        clock: Clock,
        *,
        wake: Callable[[], None],
        source_synced: asyncio.Event,
    ) -> None:
        """Make the parts.

        conflicts:     follows the nat rules of other programs
        kernel:        commits changes of the table
        wake:          called where the ruleset may have changed, after the source was read
        source_synced: set when the source was read once
        """
        section = settings.masquerade
        self._path = section.config_file
        self._desired = desired
        self._wake = wake
        self._source_synced = source_synced
        self.file = IpMasqFile(
            self._path, Path(settings.state_dir), clock, section.resync_interval_seconds, self._file_read
        )
        self.conflicts = conflicts
        # A client of its own: one thread at a time may use one.
        self._table = ConntrackClient()
        self._connections = GatewayConnections(self._table, kernel, clock, desired)
        links = GatewayLinks(settings.masquerade_settings().gateway_mark)
        self.gateways = GatewayController(links, clock, desired, self._connections.applied)
        self._events = RouteEvents(_GATEWAY_EVENTS, self.gateways.links_changed)
        self.ports = NatPortWatch(settings.masquerade_settings().to_ports or ALL_PORTS, clock)

    async def run(self) -> None:
        """Run the parts until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.file.run())
            tasks.create_task(self.gateways.run())
            tasks.create_task(self._events.run())
            tasks.create_task(self._connections.run())
            tasks.create_task(self.ports.run())
            tasks.create_task(self.conflicts.run())

    def committed(self) -> None:
        """Carry out what follows the ruleset that is committed now."""
        self.gateways.committed()
        self._connections.committed()

    def status(self) -> dict[str, Any]:
        """Return the state of gateways, of nat rules of other programs and of ports, for `dump state`."""
        gateways = self.gateways.status()
        return {
            "gateways": {**gateways, "problems": [*gateways["problems"], *self._connection_problems()]},
            "nat": self.conflicts.status(),
            "nat_ports": self.ports.status(),
        }

    def problems(self) -> dict[str, str]:
        """Return the problem of each part, '' for none.

        Without what the service has no right for by its unit, which only `status` says: addresses that can't be
        announced, and others' rules in iptables-legacy.
        """
        return {
            "gateways": "; ".join((*self.gateways.problems, *self._connection_problems())),
            "masquerade_file": self.file.problem,
            "foreign_nat": self.conflicts.unread,
            "nat_ports": self.ports.problem,
        }

    def _connection_problems(self) -> list[str]:
        return [problem for problem in (self._connections.problem, self._events.problem) if problem]

    def close(self) -> None:
        """Close what is open."""
        self._table.close()

    def _file_read(self, config: IpMasqConfig | None) -> None:
        changed = self._desired.put_ip_masq_file(self._path, config)
        if changed and self._source_synced.is_set():
            self._wake()
