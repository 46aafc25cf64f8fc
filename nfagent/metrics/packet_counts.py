"""The packets that the kernel counted, as totals that no restart and no change of rules decreases.

A scrape reads the counters. Between scrapes they are read from time to time, since an object that is removed takes its
count along. Totals are written to `state_dir` before they are served: a restart goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from nfagent.checkpoint.kept_text import VERDICT_COUNTS_FILE, KeptText
from nfagent.clock import Clock
from nfagent.desired.state import DesiredState
from nfagent.errors import DecodeError, HostError, KernelError
from nfagent.kernel.verdict_counts import CountReading, read_counts
from nfagent.metrics.packet_totals import OF_SET, PacketTotals, PodVerdict
from nfagent.model.objects import ObjectRef
from nfagent.nftables.verdict_keys import VerdictKey

log = logging.getLogger(__name__)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_EVERY_SECONDS = 30.0
_WRITE_SECONDS = 1.0
"""How long a scrape waits for the disk."""


def boot_id() -> str:
    """Return what identifies the kernel's start; '' where the kernel doesn't say."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


class PacketCounts:
    """The totals of one node. Satisfies metrics.readings.PacketCounter."""

    def __init__(
        self,
        desired: DesiredState,
        folder: Path,
        clock: Clock,
        *,
        boot: str,
        synced: Callable[[], bool],
        read: Callable[[], CountReading] = lambda: read_counts(OF_SET),
    ) -> None:
        """Store the arguments; nothing is read yet.

        folder: where totals are kept
        boot:   identifies the kernel's start
        synced: whether all objects were read once: before, one that isn't known may exist
        read:   reads the kernel's counters; blocking
        """
        self._desired = desired
        self._kept = KeptText(folder / VERDICT_COUNTS_FILE)
        self._totals = PacketTotals(boot)
        self._clock = clock
        self._synced = synced
        self._read = read
        self._turn = asyncio.Lock()
        self._restored = False
        self._writing: asyncio.Task[None] | None = None
        self.problem = ""

    @property
    def pods(self) -> dict[PodVerdict, int]:
        """The packets by Pod, direction and disposition."""
        return self._totals.pods

    @property
    def policies(self) -> dict[VerdictKey, int]:
        """The packets by verdict, for each of its policies by itself."""
        return self._totals.policies

    @property
    def drops(self) -> dict[str, int]:
        """The packets by the name of a counter that no policy has."""
        return self._totals.drops

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
            reading = await asyncio.to_thread(self._read)
            self._totals.add(reading, self._holder, self._verdict)
            if self._synced():
                self._totals.forget(lambda key: key in self._desired.cluster.local, self._has_policy)
            await self._keep()

    async def _restore(self) -> None:
        """Take over the totals of the agent's last run, once."""
        if self._restored:
            return
        self._restored = True
        try:
            text = await asyncio.to_thread(self._kept.read)
            if text is not None:
                self._totals.restore(text)
        except (OSError, DecodeError) as error:
            log.warning("packet counts of the last run cannot be read, counting from the kernel's values: %s", error)

    async def _keep(self) -> None:
        """Write the totals; a disk that doesn't answer delays nothing but the next write."""
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(self._totals.encode()))
        await asyncio.wait((self._writing,), timeout=_WRITE_SECONDS)

    async def _write(self, text: bytes) -> None:
        try:
            await asyncio.to_thread(self._kept.write, text)
        except OSError as error:
            problem = f"packet counts can't be kept over a restart: {error.strerror}"
            if problem != self.problem:
                log.warning("%s", problem)
            self.problem = problem
        else:
            self.problem = ""

    def _holder(self, address: str) -> tuple[str, str] | None:
        cluster = self._desired.cluster
        return next(((pod.namespace, pod.name) for pod in cluster.holders(address) if pod.node == cluster.node), None)

    def _verdict(self, counter: str) -> VerdictKey | None:
        """Return the verdict that a named counter counts: its name is that of the log prefix, with other separators."""
        disposition, _, rest = counter.partition("/")
        direction, _, policies = rest.partition("/")
        return self._desired.verdict_key(f"{disposition} {direction} {policies}")

    def _has_policy(self, ref: ObjectRef) -> bool:
        return ref in self._desired.index.policies
