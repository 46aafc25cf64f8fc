"""The parts that make the kernel equal to the desired state: backend, reconciler, revoker, and what sees drift."""

from __future__ import annotations

import logging
from collections.abc import Callable

from nfagent.backend_parts import BackendParts
from nfagent.clock import Clock
from nfagent.config import Settings
from nfagent.controllers.conntrack_revoker import ConntrackRevoker
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.node_guard import UnknownNodeGuard
from nfagent.desired.node_interfaces import held_links
from nfagent.desired.state import DesiredState
from nfagent.drift_parts import DriftParts
from nfagent.errors import KernelError
from nfagent.introspection.agent_status import DriftStatus
from nfagent.kernel.bridge_table import BridgeTableReconciler
from nfagent.kernel.conntrack import ConntrackClient
from nfagent.kernel.foreign_nat import NatConflictWatch
from nfagent.kernel.local_addresses import first_local_address, is_local_address
from nfagent.kernel.nft_monitor import NftMonitor

log = logging.getLogger(__name__)


class ReconcileParts:
    """The parts, made together.

    backend:       where rules are written     reconciler: makes them equal to the desired ones
    revoker:       ends connections that a change denies
    bridge_table:  the table of frames         drift:      sees changes by other programs, which `monitor` reports
    nat_conflicts: rules of others that translate Pods' traffic
    guard:         holds the rules while the Node isn't known
    """

    def __init__(
        self,
        settings: Settings,
        desired: DesiredState,
        clock: Clock,
        *,
        on_sync: Callable[[], None],
        on_hold: Callable[[], None],
    ) -> None:
        """Make the parts: libnftables is loaded, and sockets to the kernel are opened. Raises HostError.

        on_sync: called when the kernel holds the desired rules
        on_hold: called when a comparison changes nothing on purpose
        """
        self._desired = desired
        self.nat_conflicts = NatConflictWatch(desired.masquerade_ruleset, clock)
        self._nft_monitor = NftMonitor(others_changed=self.nat_conflicts.mark_changed)
        self.backend = BackendParts(settings, desired.ruleset, clock, self._nft_monitor)
        allowed = settings.allow_unknown_node
        self.guard = UnknownNodeGuard(desired.cluster, allowed=allowed, own=first_local_address)
        resync = settings.reconcile.resync_seconds
        self.reconciler = Reconciler(
            self.backend.client,
            clock,
            desired,
            resync=resync,
            retry_max=settings.reconcile.retry_max_seconds,
            on_sync=on_sync,
            on_hold=on_hold,
            guard=self.guard,
        )
        self.reconciler.rules, self.reconciler.spent = self.backend.rules, self.backend.spent
        self.reconciler.unjudged = not self.backend.is_nftables
        self._connections = ConntrackClient()
        self.revoker = ConntrackRevoker(
            desired,
            self._connections,
            self.backend.client,
            clock,
            self.reconciler.wake,
            own=is_local_address,
            undivided=self.reconciler.undivided,
        )
        dropping = settings.bridges.unjudged_frames == "dropped"
        self.bridge_table = BridgeTableReconciler(self.backend.tables, self.reconciler.backoff, dropping=dropping)
        self.monitor = self.backend.monitor(self.reconciler.mark_changed)
        self.drift = DriftParts(self.monitor, self.reconciler, self.bridge_table, clock, resync)

    async def read_table(self) -> None:
        """Read the table once. Raises HostError for what an administrator has to fix before the agent can work."""
        try:
            # Until this node's interfaces are read, those in the table count.
            self._desired.follow_links(held_links(await self.backend.client.read()), held=True)
        except KernelError as error:
            log.error("cannot read %s, retrying: %s", self.backend.rules, error)

    def drift_status(self) -> DriftStatus:
        """Return the state of changes by other programs."""
        return self.drift.status(self._nft_monitor)

    def close(self) -> None:
        """Close the sockets to the kernel."""
        self._connections.close()
        self.backend.close()
        self._nft_monitor.close()
