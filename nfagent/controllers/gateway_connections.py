"""Ends conntrack entries that translate a connection otherwise than this node must since floating addresses moved.

NAT decides with a connection's first packet. So after this node lost an address, entries that translate to it are
deleted; and after it gained one, those of Pods that use it, and whose packets another node translated until then: the
ruleset drops their packets, which would leave with the Pod's address. The same holds for Pods that a policy selects
anew, and for those that no policy sends to a gateway any longer: what another node translated has no translation here,
and would leave with the Pod's address. The next packet makes a new entry, with the same ports where they are free.
Entries with another translation stay: a live connection keeps it.

Until then the server's packets may still come by the holder of before. They would look like a connection that the
server opens to the Pod, whose packets would then be replies, and leave with the Pod's address. So the tuples of such
packets are first added to the sets `revoked4/6`, as for connections that policies end.

A round reads the conntrack table in a worker thread (`kernel.conntrack`), once for each change of the addresses that
this node holds, or of the Pods that use them; not for a new Pod, which has no connections.
"""

from __future__ import annotations

import asyncio
import logging
import typing
from collections.abc import Iterable, Mapping

from nfagent.clock import Clock
from nfagent.controllers.conntrack_revoker import ConntrackTable, RecheckKernel, revoke_commands
from nfagent.egress.gateways import GatewayPlan
from nfagent.egress.left_gateways import LeftGateways
from nfagent.egress.translation import Translation
from nfagent.errors import HostError, KernelError
from nfagent.model.objects import Pod
from nfagent.model.plurals import counted
from nfagent.netlink.conntrack import ConntrackEntry
from nfagent.system.problem_log import log_problem

log = logging.getLogger(__name__)
_RETRY_SECONDS = 1.0
_IDLE_SECONDS = 3600.0
_PART = 4096
"""Entries that end in one part: changes of policies are committed between parts."""
_SLICE_SECONDS = 0.01
"""The time for which the event loop is held."""


class PodAddresses(typing.Protocol):
    """The Pods of the cluster."""

    @property
    def by_address(self) -> Mapping[str, object]:
        """Return them by canonical address."""
        ...

    def holder(self, address: str) -> Pod | None:
        """Return the Pod that holds an address."""
        ...


class Elected(typing.Protocol):
    """The floating addresses of the cluster."""

    @property
    def left(self) -> LeftGateways:
        """Return what Pods of this node may no longer reach by them."""
        ...


class Translations(typing.Protocol):
    """How packets leave."""

    @property
    def cluster(self) -> PodAddresses:
        """Return the Pods of the cluster."""
        ...

    @property
    def gateways(self) -> Elected:
        """Return the floating addresses."""
        ...

    def translation(self, pod: Pod | None, destination: str) -> Translation:
        """Return how packets of a Pod to a canonical address leave."""
        ...


class GatewayConnections:
    """Follows the floating addresses that this node holds.

    problem: why entries can't be ended that should be, '' where they can
    """

    def __init__(self, table: ConntrackTable, kernel: RecheckKernel, clock: Clock, wanted: Translations) -> None:
        """Store the arguments; `table` is used by one worker thread at a time."""
        self.problem = ""
        self._table = table
        self._kernel = kernel
        self._clock = clock
        self._wanted = wanted
        self._woken = asyncio.Event()
        self._plan = GatewayPlan()
        self._held: frozenset[str] = frozenset()
        self._lost: set[str] = set()
        self._gained: set[str] = set()
        self._left = LeftGateways()

    def committed(self) -> None:
        """Note what Pods reach without a gateway by the ruleset that is committed now."""
        if self._wanted.gateways.left:
            self._left.restore(self._wanted.gateways.left.take())
            self._woken.set()

    def applied(self, plan: GatewayPlan) -> None:
        """Note a plan that is carried out: the next round ends what it leaves over."""
        held = frozenset(plan.held)
        gained = held if plan.reselected != self._plan.reselected else held - self._held
        # After a restart, the addresses that other nodes hold may have been this one's.
        elsewhere = {route.address for route in plan.routes} if self._plan == GatewayPlan() else set()
        self._lost = (self._lost | (self._held - held) | elsewhere) - held
        self._gained = (self._gained | gained) & held
        self._held, self._plan = held, plan
        if self._lost or self._gained:
            self._woken.set()

    async def run(self) -> None:
        """End entries until cancelled."""
        while True:
            waiting = bool(self._lost or self._gained or self._left)
            await self._clock.wait(self._woken, _RETRY_SECONDS if waiting else _IDLE_SECONDS)
            self._woken.clear()
            self.problem = log_problem(log, self.problem, await self._failure(), "; retrying")

    async def _failure(self) -> str:
        """End what is left over; return why that fails, '' where it doesn't."""
        try:
            await self.end_stale()
        except (HostError, KernelError) as error:
            return f"connections keep the gateway that they had: {error}"
        return ""

    async def end_stale(self) -> int:
        """Delete the entries that the changes noted so far leave over; return their number.

        Raises KernelError, HostError; the same changes then count for the next call.
        """
        lost, gained, left = frozenset(self._lost), frozenset(self._gained), self._left.take()
        if not lost and not gained and not left:
            return 0
        # An address may move once more, there and back, while this awaits.
        self._lost, self._gained = set(), set()
        try:
            ended = await self._end(lost, gained, left)
        except (HostError, KernelError):
            self._left.restore(left)
            self._lost |= lost - self._held
            self._gained |= gained & self._held
            raise
        if ended:
            log.info("%s of moved floating addresses begin anew", counted(ended, "connection"))
        return ended

    async def _end(self, lost: frozenset[str], gained: frozenset[str], left: LeftGateways) -> int:
        entries = await asyncio.to_thread(self._table.entries, frozenset(self._wanted.cluster.by_address))
        stale = await self._stale(entries, lost, gained, left)
        ended = 0
        while stale:
            part = stale[-_PART:]
            blocked = [entry for entry in part if entry.reply_destination[0] == entry.client]
            await self._kernel.apply(revoke_commands(blocked))
            ended += await asyncio.to_thread(self._table.delete, part)
            del stale[-_PART:]
        return ended

    async def _stale(
        self, entries: Iterable[ConntrackEntry], lost: frozenset[str], gained: frozenset[str], left: LeftGateways
    ) -> list[ConntrackEntry]:
        """Return the entries to delete; judges in slices of the event loop's time."""
        found = []
        began = self._clock.monotonic()
        for entry in entries:
            translated, _ = entry.reply_destination
            if translated in lost or (
                translated == entry.client and (self._uses(entry) in gained or self._has_left(entry, left))
            ):
                found.append(entry)
            if self._clock.monotonic() - began > _SLICE_SECONDS:
                await asyncio.sleep(0)
                began = self._clock.monotonic()
        return found

    def _uses(self, entry: ConntrackEntry) -> str:
        """Return the floating address that a connection leaves under; '' for another, or one from outside."""
        pod = self._wanted.cluster.holder(entry.client)
        return self._wanted.translation(pod, entry.server).floating if pod is not None else ""

    def _has_left(self, entry: ConntrackEntry, left: LeftGateways) -> bool:
        """Return whether a connection left by a gateway of another node, and is masqueraded from now on."""
        if not left.has(entry.client, entry.server):
            return False
        pod = self._wanted.cluster.holder(entry.client)
        return pod is not None and self._wanted.translation(pod, entry.server).kind == "node"
