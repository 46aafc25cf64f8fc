"""Ends live connections that a committed change revokes.

The commit puts the affected addresses under re-check (`desired.recheck`): from then on no packet of a revoked
connection passes. Afterwards the conntrack entries of these addresses are evaluated by the same policies, denied ones
are deleted, and the addresses leave re-check. After a failure they stay under re-check: slower, and as restrictive.
While `revoked4/6` (below) are full, as many connections are ended as fit, and the rest when elements expire.

A server that keeps sending after its entry is deleted would look like the client of a new connection, which policies
may allow. So the tuple of its reply packets is first added to the sets `revoked4/6`: an element expires after five
minutes without such packets.

A round reads the conntrack table, which costs 9 ms of CPU or more (`kernel.conntrack`), so the changes of a second
share one. An entry that is gone before the round leaves no reply tuple to add. One that expires had 10 s without
packets. But a client that resets a revoked connection and opens the same ports again makes the kernel delete its entry
at once, and as both packets are dropped, the server doesn't know. So a rule adds the reply tuple when the reset passes
(`nftables.base_chains`).

The protocols here declare what the revoker needs; the module imports no implementation of them.
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
_PAUSE_SECONDS = 1.0
_REST = 19
"""The pause between two rounds: 1 s, or so many times the CPU time of the last round, the longer of both. So a stream
of changes costs a twentieth of a core at most.
"""
_LONGEST_PAUSE_SECONDS = 30.0
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 5.0, 300.0
"""The pause after a failed round: longer, as the next round may fail as well."""
_SLICE_SECONDS = 0.01
"""The longest time for which the event loop is held."""
_PART = 4096
"""Connections that are ended in one part: policy changes are committed between parts. Also the size of the cache of
verdicts: to free the verdicts of a large table at once would hold the event loop."""
_FULL = "full: {}; reply tuples of revoked connections expire after five minutes without packets"
_WITH_PORTS: dict[int, Protocol] = {packet_header.TCP: "tcp", packet_header.UDP: "udp", packet_header.SCTP: "sctp"}
_PROTOCOLS: dict[int, str] = {**_WITH_PORTS, packet_header.ICMP: "icmp", packet_header.ICMPV6: "icmpv6"}


class ConntrackTable(typing.Protocol):
    """Access to the kernel's conntrack table. Both calls block."""

    def entries(self, addresses: frozenset[str]) -> list[ConntrackEntry]:
        """Return the entries whose client or server is one of the addresses. Raises KernelError, HostError."""
        ...

    def delete(self, entries: Iterable[ConntrackEntry]) -> int:
        """Delete entries; return how many still existed. Raises KernelError, HostError."""
        ...


class RecheckKernel(typing.Protocol):
    """Access to the kernel's ruleset."""

    async def apply(self, transaction: Transaction) -> None:
        """Commit a transaction atomically. Raises KernelError, SetFullError for a full set."""
        ...


class FlowPolicy(typing.Protocol):
    """The policies, and the addresses under re-check."""

    @property
    def recheck_addresses(self) -> dict[str, int]:
        """The addresses under re-check, each with the number of the change that added it."""
        ...

    def is_allowed(self, flow: Flow) -> bool:
        """Return whether this node's policies allow a connection."""
        ...

    def clear_recheck(self, judged: Mapping[str, int]) -> None:
        """Remove addresses whose connections were evaluated from re-check, unless a later change added them again."""
        ...


class RevokerStatus(msgspec.Struct):
    """The state of the revoker; some keys of `dump state` have other names, from earlier versions.

    rechecking: number of addresses under re-check at the last commit
    recheck_at: monotonic time of the last commit that added one
    evaluated:  number of evaluated connections
    revoked:    number of denied and deleted connections
    waiting:    connections that the last round denied but could not end, as the sets `revoked4/6` are full
    last_error: why the last round failed, '' after success
    rounds:     number of rounds so far, also failed ones: each reads the conntrack table
    """

    rechecking: int = msgspec.field(default=0, name="suspects")  # codespell:ignore suspects
    recheck_at: float = msgspec.field(default=0.0, name="suspected_at")
    evaluated: int = msgspec.field(default=0, name="judged")
    revoked: int = 0
    waiting: int = 0
    last_error: str = ""
    rounds: int = 0


class ConntrackRevoker:
    """Ends revoked connections, in rounds."""

    def __init__(
        self,
        policy: FlowPolicy,
        connections: ConntrackTable,
        kernel: RecheckKernel,
        clock: Clock,
        wake: Callable[[], None],
        *,
        cpu_seconds: Callable[[], float] = time.process_time,
        own: Callable[[str], bool] = lambda _: False,
        undivided: asyncio.Event | None = None,
    ) -> None:
        """Connect the policies with the kernel's tables.

        wake:        called after addresses left re-check
        cpu_seconds: returns the CPU time of this process, from an arbitrary start
        own:         returns whether an address is local, independent of the Node object: a node always reaches its Pods
        undivided:   set while the policies are consistent: no batch of events is half applied
        """
        if undivided is None:
            undivided = asyncio.Event()
            undivided.set()
        self._undivided = undivided
        self._policy = policy
        self._connections = connections
        self._kernel = kernel
        self._clock = clock
        self._wake = wake
        self._cpu_seconds = cpu_seconds
        self._own = own
        self._requested = asyncio.Event()
        self._addresses: dict[str, int] = {}
        self.status = RevokerStatus()
        self.last_round = (0.0, 0.0)
        """When the last round began and ended, in monotonic seconds; it still runs where it ended before it began."""

    def committed(self) -> None:
        """Start a round: the kernel has the whole desired ruleset, with the current addresses under re-check."""
        before, self._addresses = self._addresses, self._policy.recheck_addresses
        self.status.rechecking = len(self._addresses)
        if self._addresses:
            self._requested.set()
        if self._addresses.items() - before.items():
            self.status.recheck_at = self._clock.monotonic()

    async def run(self) -> None:
        """Run rounds until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            began = self._cpu_seconds()
            self.last_round = (self._clock.monotonic(), self.last_round[1])
            try:
                await self.round()
                least, most = _PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS
            except (KernelError, HostError, WireError) as error:
                if self.status.last_error != str(error):
                    log.error("cannot end revoked connections: %s; their Pods stay under re-check; retrying", error)
                self.status.last_error = str(error)
                self._requested.set()
                least, most = _RETRY_SECONDS, _LONGEST_RETRY_SECONDS
            self.last_round = (self.last_round[0], self._clock.monotonic())
            took = self._cpu_seconds() - began
            await self._clock.wait(asyncio.Event(), min(max(least, took * _REST), most))

    async def round(self) -> None:
        """Evaluate the connections of the addresses under re-check, and end the denied ones."""
        addresses = self._addresses
        if not addresses:
            return
        self.status.rounds += 1
        entries = await asyncio.to_thread(self._connections.entries, frozenset(addresses))
        evaluated = len(entries)
        denied = await self._denied(entries)
        ended = waiting = 0
        full: list[str] = []
        affected: set[str] = set()
        for name, part in denied.items():
            try:
                ended += await self._end(part)
            except SetFullError:
                full.append(name)
                waiting += len(part)
                affected |= await asyncio.to_thread(_endpoints, part)
        self.status.evaluated += evaluated - waiting  # each once, also after a failed round
        self.status.waiting = waiting
        log.log(
            logging.INFO if ended else logging.DEBUG,
            "ended %d of %s of %s affected by a change",
            ended,
            counted(evaluated, "live connection"),
            counted(len(addresses), "address"),
        )
        done = {address: change for address, change in addresses.items() if address not in affected}
        if done:
            self._policy.clear_recheck(done)
            self._wake()
        if full:
            raise SetFullError(_FULL.format(" and ".join(sorted(full))))
        self.status.last_error = ""

    async def _end(self, entries: list[ConntrackEntry]) -> int:
        """Block the reply tuples and delete the entries, in parts; return how many entries still existed.

        Finished parts are removed from the list. Raises SetFullError where the tuples of the rest don't fit.
        """
        ended = 0
        size = _PART
        while entries:
            part = entries[:size]
            try:
                await self._kernel.apply(await asyncio.to_thread(revoke_commands, part))
            except SetFullError:
                if len(part) == 1:
                    raise
                size = len(part) // 2  # as many as fit
                continue
            deleted = await asyncio.to_thread(self._connections.delete, part)
            self.status.revoked += deleted
            ended += deleted
            del entries[: len(part)]
        return ended

    async def _denied(self, entries: list[ConntrackEntry]) -> dict[str, list[ConntrackEntry]]:
        """Return the denied entries, by the set for their reply tuples; empties the list.

        Yields to the event loop between slices.
        """
        verdicts: dict[Flow, bool] = {}
        denied: dict[str, list[ConntrackEntry]] = {}
        await self._undivided.wait()
        began = self._clock.monotonic()
        entries.reverse()
        while entries:
            entry = entries.pop()
            flow = flow_of(entry)
            allowed = verdicts.get(flow)
            if allowed is None:
                if len(verdicts) == _PART:
                    verdicts.clear()
                allowed = verdicts[flow] = self._policy.is_allowed(flow) or self._is_node_traffic(flow)
            if not allowed:
                denied.setdefault(_revoked_set(entry), []).append(entry)
            if self._clock.monotonic() - began > _SLICE_SECONDS:
                await asyncio.sleep(0)
                await self._undivided.wait()
                began = self._clock.monotonic()
        return denied

    def _is_node_traffic(self, flow: Flow) -> bool:
        """Return whether a connection is from the node, or to a link-local address of it, which isn't forwarded."""
        to_link_local = is_link_local(flow.destination) and not is_link_local(flow.source)
        return self._own(flow.source) or (to_link_local and self._own(flow.destination))


def _revoked_set(entry: ConntrackEntry) -> str:
    """Return the name of the set for a connection's reply tuple; '' for a protocol without ports."""
    numbered = entry.protocol in _WITH_PORTS and entry.server_port is not None
    return names.set_name(REVOKED, family_of(entry.server)) if numbered else ""


def _endpoints(entries: list[ConntrackEntry]) -> set[str]:
    """Return the clients and servers of entries; empties the list one by one, which never holds the event loop."""
    ends: set[str] = set()
    while entries:
        entry = entries.pop()
        ends.update((entry.client, entry.server))
    return ends


def revoke_commands(entries: Iterable[ConntrackEntry]) -> Transaction:
    """Return the commands that block the reply packets of connections whose entries will be deleted."""
    found: dict[str, dict[FlowElement, None]] = {}
    for entry in entries:
        name, protocol = _revoked_set(entry), _WITH_PORTS.get(entry.protocol)
        address, port = entry.reply_destination
        if name and protocol is not None and entry.server_port is not None and port is not None:
            flows = found.setdefault(name, {})
            flows[entry.server, protocol, entry.server_port, address, port] = None
    return tuple(ChangeElements("add", name, tuple(flows)) for name, flows in sorted(found.items()))


def flow_of(entry: ConntrackEntry) -> Flow:
    """Return the flow that policies evaluate: the client, and the server after a Service's address was translated."""
    protocol = _PROTOCOLS.get(entry.protocol, str(entry.protocol))
    return Flow(entry.client, entry.server, protocol, entry.server_port, translated=entry.is_dnat)
