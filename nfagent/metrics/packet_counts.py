"""The packets that the kernel counted, as totals that no restart and no change of rules decreases.

A scrape reads the counters. Between scrapes they are read from time to time, and before they are deleted: a counter
that a change of rules leaves without use is read once more, and deleted then (`nftables.retired_counters`). Totals are
written to `state_dir` before they are served: a restart goes on from there. Those of a Pod or policy that is gone are
served for a while, so that their last packets are scraped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path

from nfagent.checkpoint.kept_text import PACKET_COUNTS_FILE, KeptText
from nfagent.clock import Clock
from nfagent.desired.state import DesiredState
from nfagent.errors import HostError, KernelError
from nfagent.kernel.packet_counters import (
    NFTABLES_COUNTERS,
    CounterReading,
    CounterSource,
)
from nfagent.metrics.counter_owners import CounterOwners, elements_of
from nfagent.metrics.packet_totals import CountKey, PacketTotals
from nfagent.metrics.readings import CountedPackets, PodVerdict
from nfagent.model.objects import DIRECTIONS, Direction, ObjectRef
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.retired_counters import CommitPlan, RetiredCounters, element_counter
from nfagent.nftables.transaction import Delete, Transaction
from nfagent.nftables.verdict_keys import DISPOSITIONS, Disposition, VerdictKey
from nfagent.system.bounded_calls import BoundedCalls
from nfagent.time_slices import TimeSlices

log = logging.getLogger(__name__)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_EVERY_SECONDS = 30.0
_RETIRED_SECONDS = 3.0
"""After so much time counters without use are read and deleted; changes of rules in between share the reading."""
_GONE_SECONDS = 300.0
"""For so long the totals of what is gone are served: longer than the usual pause between two scrapes."""
_MOST_GONE = 2_000
"""Totals of what is gone that are kept at most; the oldest ones are forgotten."""
_DISK_SECONDS = 1.0
"""How long a scrape waits for a disk that doesn't answer."""
_READ_SECONDS = 5.0
"""How long a reading is waited for: scrapes, the status and a commit that makes the table anew wait so long at most."""
_STEP = 200
"""Totals of one step: 0.3 ms."""


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


def _no_answer() -> KernelError:
    return KernelError(f"cannot read the kernel's packet counters: no answer within {_READ_SECONDS:g} s")


class PacketCounts:
    """The totals of one node. Implements kernel.counter_deletions.CounterDeletions.

    values:  as of the last `refresh`
    unread:  why that one could not read the counters, '' where it could: the values are of the one before
    read_at: when it read the kernel's counters, in monotonic seconds; 0 for not yet
    """

    def __init__(
        self,
        desired: DesiredState,
        folder: Path,
        clock: Clock,
        *,
        boot: str,
        synced: Callable[[], bool],
        time_slices: TimeSlices | None = None,
        source: CounterSource | None = None,
    ) -> None:
        """Store the arguments; nothing is read yet.

        folder:      where totals are kept
        boot:        identifies the kernel's start
        synced:      whether all objects were read once: before, nothing says whose a counter is
        time_slices: share the event loop with other long computations
        source:      where the kernel's counters are read from; by default those of nftables
        """
        self._desired = desired
        self._kept = KeptText(folder / PACKET_COUNTS_FILE)
        self._totals = PacketTotals(boot)
        self._owners = CounterOwners(desired)
        self._retired = RetiredCounters(clock.monotonic)
        self._delete: Callable[[Callable[[], Transaction]], Awaitable[None]] | None = None
        self._gone: dict[CountKey, float] = {}
        self._clock = clock
        self._synced = synced
        self._time_slices = time_slices or TimeSlices()
        self._source = source or NFTABLES_COUNTERS
        self._turn = asyncio.Lock()
        self._retiring = asyncio.Event()
        self._restored = False
        self._hung: asyncio.Future[CounterReading] | None = None  # a reading that its caller waits for no longer
        self._calls = BoundedCalls(_DISK_SECONDS)
        self._unkept = ""
        self.unread = ""
        self.values = CountedPackets()
        self.read_at = 0.0

    def delete_by(self, commit_latest: Callable[[Callable[[], Transaction]], Awaitable[None]]) -> None:
        """Have retired counters deleted by a function as `NftClient.commit_latest`."""
        self._delete = commit_latest

    @property
    def problem(self) -> str:
        """Why the counters can't be read, or their totals can't be kept; '' without a problem."""
        return self.unread or (f"totals can't be kept over a restart: {self._unkept}" if self._unkept else "")

    async def run(self) -> None:
        """Read the counters from time to time, and soon after some retired, until cancelled."""
        while True:
            self._retiring.clear()
            with contextlib.suppress(KernelError, HostError):  # it is in `unread`
                await self.refresh()
            if len(self._retired) or await self._clock.wait(self._retiring, _EVERY_SECONDS):
                await self._clock.wait(asyncio.Event(), _RETIRED_SECONDS)

    async def before(self, transaction: Transaction) -> None:
        """Read the counters of a table that a transaction deletes as a whole."""
        if transaction and transaction[0] == Delete("table"):
            with contextlib.suppress(KernelError, HostError):
                await self.refresh()

    def plan(self, transaction: Transaction) -> CommitPlan:
        """Return what of a transaction is committed at once: not the deletions of counters."""
        return self._retired.plan(transaction)

    def committed(self, plan: CommitPlan) -> None:
        """Note that a transaction is in force."""
        self._retired.committed(plan)
        if plan.deleted:
            self._retiring.set()

    def compared(self, wanted: Ruleset) -> None:
        """Note that the rules are made equal to a ruleset; may be called in another thread."""
        self._retired.compared(wanted)

    def with_waiting(self, wanted: Ruleset) -> Ruleset:
        """Return a ruleset with the counters that wait for their deletion."""
        return self._retired.with_waiting(wanted)

    def as_deleted(self, listed: Ruleset, wanted: Ruleset) -> Ruleset:
        """Return a listing without the counters that wait for their deletion."""
        return self._retired.as_deleted(listed, wanted)

    def pods_changed(self) -> None:
        """Read the counters of addresses that have passed to another Pod; cheap where no Pod of this node changed."""
        # The source's whole status is asked only where a Pod changed: this runs with every change of any object.
        if self._owners.are_current or not self._restored or not self._synced():
            return
        passed = self._owners.passed_addresses()
        if not passed:
            return
        holders = {element: holder for address, holder in passed.items() for element in elements_of(address)}
        try:
            found = self._source.elements(holders)
        except (KernelError, HostError) as error:
            log.debug("cannot read the packet counters of addresses that passed to other Pods: %s", error)
            return
        before = {element_counter(*element): holder for element, holder in holders.items()}
        packets = {element_counter(*element): count for element, count in found.items()}
        self._totals.add_newer(packets, lambda counter: self._owners.keys_of(counter, before[counter]))
        for counter in before:
            self._totals.begin_totals(self._owners.keys_of(counter))

    async def refresh(self) -> None:
        """Read the counters, delete those without use, and keep the totals. Raises KernelError, HostError."""
        try:
            await self._refresh()
        except (KernelError, HostError) as error:
            if str(error) != self.unread:
                log.warning("%s; the last values are kept", error)
            self.unread = str(error)
            raise
        self.unread = ""

    async def _refresh(self) -> None:
        began = 0.0
        async with self._turn:
            await self._restore()
            if self._synced():
                self.pods_changed()
                due = self._retired.due()
                self._totals.begin_reading()
                began = self._clock.monotonic()
                reading = await self._read()
                await self._in_slices(self._add(reading))
                await self._delete_retired({name: due[name] for name in due if name in reading.packets})
                self._retired.forget(due.keys() - reading.packets.keys() if reading.is_whole else ())
                await self._keep()
            await self._in_slices(self._publish())
            self.read_at = began or self.read_at

    async def _read(self) -> CounterReading:
        """Return a reading that begins now. Raises KernelError, also where it hangs, or one before still does."""
        if self._hung is not None:
            await asyncio.wait((self._hung,), timeout=_READ_SECONDS)
            if not self._hung.done():
                raise _no_answer()
            self._hung = None  # it began before counters retired that may be deleted after this one
        self._source.prepare()
        reading = asyncio.ensure_future(asyncio.to_thread(self._source.read))
        done, _ = await asyncio.wait((reading,), timeout=_READ_SECONDS)
        if not done:
            self._hung = reading
            reading.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # no one else asks for it
            raise _no_answer()
        return reading.result()

    async def _in_slices(self, steps: Iterator[None]) -> None:
        async for _ in self._time_slices.slices(steps):
            pass

    def _add(self, reading: CounterReading) -> Iterator[None]:
        added, self._retired.added[:] = self._retired.added[:], []
        for count, name in enumerate(added):
            self._owners.remember(name)
            self._totals.begin_totals(self._owners.keys_of(name))
            if count % _STEP == 0:
                yield
        resets = self._totals.resets
        yield from self._totals.add(
            reading.packets, self._keys_of, is_whole=reading.is_whole, table=reading.table, handles=reading.handles
        )
        if self._totals.resets > resets:
            log.warning("another program reset packet counters: what they counted since the last reading is lost")
        yield from self._forget_gone()

    async def _delete_retired(self, read: dict[str, float]) -> None:
        """Delete counters that were read for the last time."""
        if not read or self._delete is None:
            return
        # What they counted since the reading before is nowhere else when they are gone.
        await self._keep()
        if not await self._delete_all(self._delete, read):
            # Another program uses one of them, or has deleted it: that one is left to the next comparison.
            for name, since in read.items():
                if not await self._delete_all(self._delete, {name: since}):
                    self._retired.forget([name])

    async def _delete_all(
        self, delete: Callable[[Callable[[], Transaction]], Awaitable[None]], read: dict[str, float]
    ) -> bool:
        """Delete counters in one transaction; return whether the kernel took it."""
        deleted: list[str] = []

        def latest() -> Transaction:
            transaction, names = self._retired.deletions(read)
            deleted.extend(names)
            return transaction

        try:
            await delete(latest)
        except KernelError as error:
            log.debug("cannot delete packet counters without use: %s", error)
            return False
        self._totals.forget_counters(deleted)
        self._owners.forget(deleted)
        self._retired.deleted(deleted)
        return True

    async def _restore(self) -> None:
        """Take over the totals of the agent's last run, once."""
        if self._restored:
            return
        self._restored = True
        problem = "they are no totals"
        try:
            text = await asyncio.to_thread(self._calls.ask, self._kept.read, PACKET_COUNTS_FILE)
            if text is None or self._totals.decode(text):
                for _ in self._totals.keep(_is_known):
                    pass
                self._owners.restore(self._totals.owners)
                return
        except OSError as error:
            problem = error.strerror or str(error)
        log.warning("packet counts of the last run cannot be used, counting from the kernel's values: %s", problem)

    async def _keep(self) -> None:
        """Write the totals."""
        self._totals.owners = self._owners.encode()
        text = self._totals.encode()
        try:
            await asyncio.to_thread(self._calls.ask, lambda: self._kept.write(text), PACKET_COUNTS_FILE)
        except OSError as error:
            if not self._unkept:
                log.warning("packet counts can't be kept over a restart: %s", error.strerror)
            self._unkept = error.strerror or str(error)
        else:
            self._unkept = ""

    def _publish(self) -> Iterator[None]:
        pods: dict[PodVerdict, int] = {}
        policies: dict[VerdictKey, int] = {}
        drops: dict[str, int] = {}
        totals = iter(list(self._totals.totals.items()))
        while step := list(islice(totals, _STEP)):
            for key, packets in step:
                match key[0]:
                    case "pod":
                        pods[_pod_verdict(*key[1:])] = packets
                    case "policy":
                        policies[_policy_verdict(*key[1:])] = packets
                    case _:
                        drops[key[1]] = packets
            yield
        self.values = CountedPackets(pods, policies, drops, self._owners.workloads)

    def _keys_of(self, counter: str) -> Iterator[CountKey]:
        """Yield what a counter counts for; policies that never were have no counters of ours."""
        for key in self._owners.keys_of(counter):
            if key[0] != "policy" or key in self._totals.totals or self._is_current(key):
                yield key

    def _forget_gone(self) -> Iterator[None]:
        """Forget the totals of what has been gone for a while."""
        now = self._clock.monotonic()
        for key in list(self._gone)[:-_MOST_GONE]:
            self._gone[key] = now - _GONE_SECONDS
        yield from self._totals.keep(lambda key: self._is_served(key, now))
        self._gone = {key: since for key, since in self._gone.items() if key in self._totals.totals}
        self._owners.keep_workloads({(key[1], key[2]) for key in self._gone if key[0] == "pod"})

    def _is_served(self, key: CountKey, now: float) -> bool:
        if self._is_current(key):
            self._gone.pop(key, None)
            return True
        return now - self._gone.setdefault(key, now) < _GONE_SECONDS

    def _is_current(self, key: CountKey) -> bool:
        match key:
            case ("pod", namespace, name, _, _):
                return (namespace, name) in self._desired.cluster.local
            case ("policy", kind, namespace, name, _, _):
                return ObjectRef(kind, namespace, name) in self._desired.index.policies
        return True
