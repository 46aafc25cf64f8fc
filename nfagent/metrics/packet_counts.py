"""The packets that the kernel counted, as totals that no restart and no change of rules decreases.

A scrape reads the counters. Between scrapes they are read from time to time, since an object that is removed takes its
count along. Totals are written to `state_dir` before they are served: a restart goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

from nfagent.checkpoint.kept_text import PACKET_COUNTS_FILE, KeptText
from nfagent.clock import Clock
from nfagent.desired.state import DesiredState
from nfagent.errors import HostError, KernelError
from nfagent.kernel.packet_counters import CounterReading, read_address_counters, read_named_counters
from nfagent.kernel.table_queries import own_table
from nfagent.metrics.packet_totals import CountKey, PacketTotals
from nfagent.metrics.readings import CountedPackets, PodVerdict
from nfagent.model.netaddr import FAMILIES
from nfagent.model.objects import DIRECTIONS, Direction, ObjectRef
from nfagent.nftables.pod_counts import counted_set
from nfagent.nftables.verdict_keys import DISPOSITIONS, Disposition, VerdictKey
from nfagent.system.bounded_calls import BoundedCalls

log = logging.getLogger(__name__)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_EVERY_SECONDS = 30.0
_TRIES = 3
_DISK_SECONDS = 1.0
"""How long a scrape waits for a disk that doesn't answer."""
_DROP = "drop/"
_OF_SET: dict[str, tuple[Direction, Disposition]] = {
    counted_set(disposition, direction, family): (direction, disposition)
    for disposition, direction, family in product(DISPOSITIONS, DIRECTIONS, FAMILIES)
}


_DIRECTIONS: dict[str, Direction] = {direction: direction for direction in DIRECTIONS}
_DISPOSITIONS: dict[str, Disposition] = {disposition: disposition for disposition in DISPOSITIONS}


def _pod_verdict(namespace: str, name: str, direction: str, disposition: str) -> PodVerdict:
    return namespace, name, _DIRECTIONS[direction], _DISPOSITIONS[disposition]


def _policy_verdict(kind: str, namespace: str, name: str, direction: str, disposition: str) -> VerdictKey:
    return VerdictKey(_DISPOSITIONS[disposition], _DIRECTIONS[direction], (ObjectRef(kind, namespace, name),))


def _is_known(key: CountKey) -> bool:
    """Return whether a kept key has one of the forms that are written now."""
    match key:
        case ("reason", _):
            return True
        case ("pod", _, _, direction, disposition) | ("policy", _, _, _, direction, disposition):
            return direction in _DIRECTIONS and disposition in _DISPOSITIONS
    return False


def boot_id() -> str:
    """Return what identifies the kernel's start; '' where the kernel doesn't say."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def read_counters() -> CounterReading:
    """Return the packets of all counters: named ones by name, those of Pods by set and address, with a space between.

    Blocking: 3,000 counters take 10 ms. Raises KernelError, HostError.
    """
    for _ in range(_TRIES):
        reading = _read_table(_handle())
        # Of a table that was made anew meanwhile, packets would count here, and again under its own handle.
        if _handle() == reading.table:
            return reading
    raise KernelError("table inet nfagent was made anew while its packet counters were read")


def _handle() -> int:
    """Return the handle of the table, 0 without it."""
    table = own_table()
    return table.handle if table is not None else 0


def _read_table(table: int) -> CounterReading:
    named = read_named_counters()
    packets, is_whole = dict(named.packets), named.is_whole
    for name in _OF_SET:
        reading = read_address_counters(name)
        packets |= {f"{name} {address}": count for address, count in reading.packets.items()}
        is_whole &= reading.is_whole
    return CounterReading(packets, is_whole, table)


class PacketCounts:
    """The totals of one node; `values` are those of the last `refresh`."""

    def __init__(
        self,
        desired: DesiredState,
        folder: Path,
        clock: Clock,
        *,
        boot: str,
        synced: Callable[[], bool],
        read: Callable[[], CounterReading] = read_counters,
    ) -> None:
        """Store the arguments; nothing is read yet.

        folder: where totals are kept
        boot:   identifies the kernel's start
        synced: whether all objects were read once: before, nothing says whose a counter is
        read:   reads the kernel's counters; blocking
        """
        self._desired = desired
        self._kept = KeptText(folder / PACKET_COUNTS_FILE)
        self._totals = PacketTotals(boot)
        self._clock = clock
        self._synced = synced
        self._read = read
        self._turn = asyncio.Lock()
        self._restored = False
        self._calls = BoundedCalls(_DISK_SECONDS)
        self._problem = ""
        self.values = CountedPackets()

    async def run(self) -> None:
        """Read the counters from time to time, until cancelled."""
        while True:
            try:
                await self.refresh()
            except (KernelError, HostError) as error:
                log.debug("cannot read the kernel's packet counters: %s", error)
            await self._clock.wait(asyncio.Event(), _EVERY_SECONDS)

    async def refresh(self) -> None:
        """Read the counters, and keep the totals. Raises KernelError, HostError."""
        async with self._turn:
            await self._restore()
            if self._synced():
                reading = await asyncio.to_thread(self._read)
                self._totals.add(reading.packets, self._keys_of, is_whole=reading.is_whole, table=reading.table)
                self._totals.keep(self._is_current)
                await self._keep()
            self._publish()

    async def _restore(self) -> None:
        """Take over the totals of the agent's last run, once."""
        if self._restored:
            return
        self._restored = True
        problem = "they are no totals"
        try:
            text = await asyncio.to_thread(self._calls.ask, self._kept.read, PACKET_COUNTS_FILE)
            if text is None or self._totals.decode(text):
                self._totals.keep(_is_known)
                return
        except OSError as error:
            problem = error.strerror or str(error)
        log.warning("packet counts of the last run cannot be used, counting from the kernel's values: %s", problem)

    async def _keep(self) -> None:
        """Write the totals."""
        text = self._totals.encode()
        try:
            await asyncio.to_thread(self._calls.ask, lambda: self._kept.write(text), PACKET_COUNTS_FILE)
        except OSError as error:
            if not self._problem:
                log.warning("packet counts can't be kept over a restart: %s", error.strerror)
            self._problem = error.strerror or str(error)
        else:
            self._problem = ""

    def _publish(self) -> None:
        totals = self._totals.totals.items()
        self.values = CountedPackets(
            pods={_pod_verdict(*key[1:]): packets for key, packets in totals if key[0] == "pod"},
            policies={_policy_verdict(*key[1:]): packets for key, packets in totals if key[0] == "policy"},
            drops={key[1]: packets for key, packets in totals if key[0] == "reason"},
        )

    def _keys_of(self, counter: str) -> Iterator[CountKey]:
        """Yield what a counter counts for."""
        name, _, address = counter.partition(" ")
        if address:
            pod = self._holder(address)
            if pod is not None:
                yield ("pod", *pod, *_OF_SET[name])
        elif name.startswith(_DROP):
            yield ("reason", name)
        elif (key := self._verdict(name)) is not None:
            for ref in key.policies:
                yield ("policy", ref.kind, ref.namespace, ref.name, key.direction, key.disposition)

    def _holder(self, address: str) -> tuple[str, str] | None:
        cluster = self._desired.cluster
        return next(((pod.namespace, pod.name) for pod in cluster.holders(address) if pod.node == cluster.node), None)

    def _verdict(self, counter: str) -> VerdictKey | None:
        """Return the verdict that a named counter counts: its name is that of the log prefix, with other separators."""
        return self._desired.verdict_key(counter.replace("/", " ", 2))

    def _is_current(self, key: CountKey) -> bool:
        match key:
            case ("pod", namespace, name, _, _):
                return (namespace, name) in self._desired.cluster.local
            case ("policy", kind, namespace, name, _, _):
                return ObjectRef(kind, namespace, name) in self._desired.index.policies
        return True
