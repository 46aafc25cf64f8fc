"""What becomes of live connections when a change revokes them, after its commit.

The commit itself put the addresses concerned under re-check (`desired.recheck`): from then on no packet of a revoked
connection passes. Here their conntrack entries are judged by the same policies, those that are denied are deleted,
and the addresses leave re-check. Where that can't be done, they stay in it: slower for them, and just as closed.
So they do where `revoked4/6` (below) are full: what there is room for is ended, and the rest as room comes.

A server that goes on sending would look like the client of a new connection once the entry is gone, one that policies
may well allow. So the way that its packets go is put into the sets `revoked4/6` first: these remember it until it has
been silent for five minutes.

This module declares what Connections and Kernel must do, and knows no implementation of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
import typing
from collections.abc import Callable, Iterable, Mapping

import msgspec

from nfagent.clock import Clock
from nfagent.errors import HostError, KernelError, SetFullError, WireError
from nfagent.model.netaddr import family_of, is_link_local
from nfagent.model.objects import Protocol
from nfagent.model.plurals import counted
from nfagent.netlink import packet_header
from nfagent.netlink.conntrack import ConntrackEntry
from nfagent.nftables import names
from nfagent.nftables.base_chains import REVOKED
from nfagent.nftables.objects import FlowElement
from nfagent.nftables.transaction import ChangeElements, Transaction
from nfagent.policy.evaluator import Flow

log = logging.getLogger(__name__)
_PAUSE_SECONDS = 0.1
_REST = 19
"""Between two rounds, a tenth of a second or so many times the CPU time that the one before took: for each the kernel
walks its whole table (some 20 ms for an empty one, tried), so a storm of changes costs a twentieth of a core at most.
"""
_LONGEST_PAUSE_SECONDS = 30.0
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 5.0, 300.0
"""After a round that failed, the share of a core counts for more: the next one may fail as well."""
_TURN_SECONDS = 0.01
"""How long the event loop is held at most."""
_PART = 4096
"""Connections that are ended together: changes of policies get to the kernel in between. Also so many verdicts are
remembered while others are judged: to forget all of a large table's at once would hold the event loop."""
_FULL = "{} can remember no more ways of servers; there is room again as ways were silent for five minutes"
_WITH_PORTS: dict[int, Protocol] = {packet_header.TCP: "tcp", packet_header.UDP: "udp", packet_header.SCTP: "sctp"}
_PROTOCOLS: dict[int, str] = {**_WITH_PORTS, packet_header.ICMP: "icmp", packet_header.ICMPV6: "icmpv6"}


class ConntrackTable(typing.Protocol):
    """The kernel's table of connections. Both calls block."""

    def entries(self, addresses: frozenset[str]) -> list[ConntrackEntry]:
        """Give every connection whose client or server is among the addresses. Raises KernelError, MachineError."""
        ...

    def delete(self, entries: Iterable[ConntrackEntry]) -> int:
        """Forget connections; give how many were still there. Raises KernelError, MachineError."""
        ...


class RecheckKernel(typing.Protocol):
    """What holds the rules."""

    async def apply(self, transaction: Transaction) -> None:
        """Take all of a transaction, or refuse all of it with a KernelError; SetFullError where a set has no room."""
        ...


class FlowPolicy(typing.Protocol):
    """Who knows the policies, and what is under re-check."""

    @property
    def suspects(self) -> dict[str, int]:
        """The addresses under re-check, each with the number of the change that put it there."""
        ...

    def permits(self, flow: Flow) -> bool:
        """Tell whether this node's policies allow a connection."""
        ...

    def absolve(self, judged: Mapping[str, int]) -> None:
        """Take in that these suspects' connections were judged, and the denied ones ended."""
        ...


class RevokerStatus(msgspec.Struct):
    """How it stands.

    suspects:     addresses under re-check at the last commit
    suspected_at: monotonic time of the last commit that put any there
    judged:       connections that were looked at so far
    revoked:      those of them that policies denied, and that were ended
    waiting:      those that the last round denied and could not end: the sets of ways are full
    last_error:   why the last round failed, '' after success
    """

    suspects: int = 0
    suspected_at: float = 0.0
    judged: int = 0
    revoked: int = 0
    waiting: int = 0
    last_error: str = ""


class ConntrackRevoker:
    """Ends revoked connections, round by round."""

    def __init__(
        self,
        judge: FlowPolicy,
        connections: ConntrackTable,
        kernel: RecheckKernel,
        clock: Clock,
        wake: Callable[[], None],
        *,
        cpu_seconds: Callable[[], float] = time.process_time,
        own: Callable[[str], bool] = lambda _: False,
        undivided: asyncio.Event | None = None,
    ) -> None:
        """Join the policies, the kernel's tables, and who is told that addresses left re-check.

        cpu_seconds: what this process has used, from an arbitrary start
        own:         whether an address is this machine's, whatever its Node object says: a node always reaches its Pods
        undivided:   set at moments at which policies may be asked: no batch of events is half in force
        """
        if undivided is None:
            undivided = asyncio.Event()
            undivided.set()
        self._undivided = undivided
        self._judge = judge
        self._connections = connections
        self._kernel = kernel
        self._clock = clock
        self._wake = wake
        self._cpu_seconds = cpu_seconds
        self._own = own
        self._asked = asyncio.Event()
        self._suspects: dict[str, int] = {}
        self.status = RevokerStatus()

    def committed(self) -> None:
        """Say that the kernel holds everything that was wanted, its suspects included."""
        before, self._suspects = self._suspects, self._judge.suspects
        self.status.suspects = len(self._suspects)
        if self._suspects:
            self._asked.set()
        if self._suspects.items() - before.items():
            self.status.suspected_at = self._clock.monotonic()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            began = self._cpu_seconds()
            try:
                await self.round()
                least, most = _PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS
            except (KernelError, HostError, WireError) as error:
                if self.status.last_error != str(error):
                    log.error("revoked connections can't be ended, their Pods stay under re-check: %s", error)
                self.status.last_error = str(error)
                self._asked.set()
                least, most = _RETRY_SECONDS, _LONGEST_RETRY_SECONDS
            took = self._cpu_seconds() - began
            await self._clock.wait(asyncio.Event(), min(max(least, took * _REST), most))

    async def round(self) -> None:
        """Judge the connections of those that are under re-check now, and end what is denied."""
        suspects = self._suspects
        if not suspects:
            return
        entries = await asyncio.to_thread(self._connections.entries, frozenset(suspects))
        judged = len(entries)
        denied = await self._denied(entries)
        ended = waiting = 0
        full: list[str] = []
        concerned: set[str] = set()
        for name, part in denied.items():
            try:
                ended += await self._end(part)
            except SetFullError:
                full.append(name)
                waiting += len(part)
                concerned |= await asyncio.to_thread(_taken_ends, part)
        self.status.judged += judged - waiting  # once, however often a round had to be begun again
        self.status.waiting = waiting
        log.log(
            logging.INFO if ended else logging.DEBUG,
            "ended %d of %s of %s that a change concerned",
            ended,
            counted(judged, "live connection"),
            counted(len(suspects), "address"),
        )
        done = {address: change for address, change in suspects.items() if address not in concerned}
        if done:
            self._judge.absolve(done)
            self._wake()
        if full:
            raise SetFullError(_FULL.format(" and ".join(sorted(full))))
        self.status.last_error = ""

    async def _end(self, entries: list[ConntrackEntry]) -> int:
        """Block the servers' ways and delete the entries, part by part; give how many entries were still there.

        What is done with leaves the list. Raises SetFullError where there is no room for the ways of what is left.
        """
        ended = 0
        size = _PART
        while entries:
            part = entries[:size]
            try:
                await self._kernel.apply(await asyncio.to_thread(blocking, part))
            except SetFullError:
                if len(part) == 1:
                    raise
                size = len(part) // 2  # as many as there is room for
                continue
            deleted = await asyncio.to_thread(self._connections.delete, part)
            self.status.revoked += deleted
            ended += deleted
            del entries[: len(part)]
        return ended

    async def _denied(self, entries: list[ConntrackEntry]) -> dict[str, list[ConntrackEntry]]:
        """Give the connections that policies deny, by the sets that are to remember their ways; empties the list.

        Others have their turn in between.
        """
        verdicts: dict[Flow, bool] = {}
        denied: dict[str, list[ConntrackEntry]] = {}
        await self._undivided.wait()
        turn = self._clock.monotonic()
        entries.reverse()
        while entries:
            entry = entries.pop()
            flow = flow_of(entry)
            allowed = verdicts.get(flow)
            if allowed is None:
                if len(verdicts) == _PART:
                    verdicts.clear()
                allowed = verdicts[flow] = self._judge.permits(flow) or self._is_nodes(flow)
            if not allowed:
                denied.setdefault(_remembering(entry), []).append(entry)
            if self._clock.monotonic() - turn > _TURN_SECONDS:
                await asyncio.sleep(0)
                await self._undivided.wait()
                turn = self._clock.monotonic()
        return denied

    def _is_nodes(self, flow: Flow) -> bool:
        """Tell whether a connection is the node's own, or goes to a link-local address of it: that isn't forwarded."""
        called = is_link_local(flow.destination) and not is_link_local(flow.source)
        return self._own(flow.source) or (called and self._own(flow.destination))


def _remembering(entry: ConntrackEntry) -> str:
    """Name the set that remembers the way of a connection's server; '' where none can."""
    numbered = entry.protocol in _WITH_PORTS and entry.server_port is not None
    return names.set_name(REVOKED, family_of(entry.server)) if numbered else ""


def _taken_ends(entries: list[ConntrackEntry]) -> set[str]:
    """Give the clients and servers of connections, and empty the list one by one: that holds the event loop nowhere."""
    ends: set[str] = set()
    while entries:
        entry = entries.pop()
        ends.update((entry.client, entry.server))
    return ends


def blocking(entries: Iterable[ConntrackEntry]) -> Transaction:
    """Give the commands that stop servers from going on with connections whose entries are deleted."""
    found: dict[str, dict[FlowElement, None]] = {}
    for entry in entries:
        name, protocol = _remembering(entry), _WITH_PORTS.get(entry.protocol)
        address, port = entry.answers
        if name and protocol is not None and entry.server_port is not None and port is not None:
            flows = found.setdefault(name, {})
            flows[entry.server, protocol, entry.server_port, address, port] = None
    return tuple(ChangeElements("add", name, tuple(flows)) for name, flows in sorted(found.items()))


def flow_of(entry: ConntrackEntry) -> Flow:
    """Give a connection as policies judge it: its client, and its server after a Service's address was translated."""
    protocol = _PROTOCOLS.get(entry.protocol, str(entry.protocol))
    return Flow(entry.client, entry.server, protocol, entry.server_port, translated=entry.translated)
