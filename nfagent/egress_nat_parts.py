"""The parts of egress NAT beside the ruleset: the ip-masq-agent file, ports in use, nat rules of other programs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from nfagent.clock import Clock
from nfagent.config import Settings
from nfagent.controllers.ip_masq_file import IpMasqFile
from nfagent.desired.state import DesiredState
from nfagent.kernel.foreign_nat import NatConflictWatch
from nfagent.kernel.nat_port_watch import NatPortWatch
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.netlink.conntrack_ports import ALL_PORTS


class EgressNatParts:
    """The parts, made and run together."""

    def __init__(
        self,
        settings: Settings,
        desired: DesiredState,
        conflicts: NatConflictWatch,
        clock: Clock,
        wake: Callable[[], None],
        *,
        source_synced: asyncio.Event,
    ) -> None:
        """Make the parts.

        conflicts:     follows the nat rules of other programs
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
        self.ports = NatPortWatch(settings.masquerade_settings().to_ports or ALL_PORTS, clock)

    async def run(self) -> None:
        """Run the parts until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.file.run())
            tasks.create_task(self.ports.run())
            tasks.create_task(self.conflicts.run())

    def _file_read(self, config: IpMasqConfig | None) -> None:
        changed = self._desired.put_ip_masq_file(self._path, config)
        if changed and self._source_synced.is_set():
            self._wake()
