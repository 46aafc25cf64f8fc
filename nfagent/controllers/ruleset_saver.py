"""Saves the ruleset that is in force, for the next boot.

A snapshot is taken while the kernel has the whole desired ruleset; a thread encodes and writes it. It is written again
after a commit, at most twice a minute, and so that both the bytes written and the CPU stay small on average. An equal
ruleset isn't written: the file's time is set instead, which says when it was last in force.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec

from nfagent.checkpoint.ruleset_codec import SavedHeader, encode_batches, encode_saved
from nfagent.checkpoint.ruleset_file import mark_in_force, read_saved, write_saved
from nfagent.clock import WallClock
from nfagent.errors import DecodeError, HostError, WireError
from nfagent.nftables.objects import Ruleset
from nfagent.system.daemon_thread import DaemonThread

log = logging.getLogger(__name__)
_T = TypeVar("_T")
RulesetEncoder: TypeAlias = Callable[[Ruleset, Callable[[], None]], tuple[tuple[bytes, ...], str]]
_FIRST_SECONDS = 5.0
_LEAST_SECONDS = 30.0
_CPU_SHARE = 0.01
_BYTES_PER_SECOND = 64 * 1024
"""On average, for disks that wear out: 5.5 GB a day in a cluster that never rests."""
_MARK_SECONDS = 600.0
_STALLED_SECONDS = 30.0
_STOP_SECONDS = 4.0
_SYNC_SECONDS = 0.2


class SaverStatus(msgspec.Struct, frozen=True):
    """What is saved.

    written_at: when the file was last written, in seconds since the epoch; 0 before
    size:       its bytes      seconds: what encoding it took
    problem:    why the ruleset can't be saved, '' where it can
    """

    written_at: float = 0.0
    size: int = 0
    seconds: float = 0.0
    problem: str = ""


class RulesetSaver:
    """Keeps the saved ruleset equal to the one in force."""

    def __init__(
        self,
        path: Path,
        clock: WallClock,
        header: Callable[[], SavedHeader],
        ruleset: Callable[[], Ruleset],
        commits: Callable[[], int | None],
        *,
        encode: RulesetEncoder = encode_batches,
    ) -> None:
        """Store the arguments; `run` writes.

        header:  returns what the file says about the ruleset of this moment
        ruleset: returns the desired ruleset
        commits: the number of commits so far; None while the kernel doesn't have the whole desired ruleset
        encode:  returns the parts of the file, and the digest of their content; calls its second argument in between
        """
        self._encode = encode
        self._path = path
        self._clock = clock
        self._header = header
        self._ruleset = ruleset
        self._commits = commits
        self._worker = DaemonThread("ruleset-saver")
        self._saved: int | None = None  # the number of commits at the last snapshot
        self._content = ""  # digest of what the file has
        self._marked = 0.0
        self.status = SaverStatus()

    async def run(self) -> None:
        """Save until cancelled."""
        never = asyncio.Event()
        pause = _FIRST_SECONDS
        while True:
            await self._clock.wait(never, pause)
            while (commits := self._commits()) is None:
                await self._clock.wait(never, _SYNC_SECONDS)
            pause = await self._save(commits)

    async def finish(self) -> None:
        """Save what was committed since, before the agent stops; a disk that doesn't answer delays it by seconds."""
        commits = self._commits()
        if commits is not None and commits != self._saved:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._save(commits)

    async def _save(self, commits: int) -> float:
        """Save where there were commits since the last time; return the seconds until the next try."""
        if commits == self._saved:
            await self._mark()
            return _LEAST_SECONDS
        # Both at one moment: no event is applied in between.
        header, ruleset = self._header(), self._ruleset()
        known = self._content

        def save() -> tuple[str, int, float]:
            began = time.thread_time()
            batches, content = self._encode(ruleset, yield_to_others)
            seconds = time.thread_time() - began
            if content == (known or _content_of(self._path, header)):
                mark_in_force(self._path)
                return content, 0, seconds
            encoded = encode_saved(msgspec.structs.replace(header, content=content), batches)
            write_saved(self._path, encoded)
            return content, len(encoded), seconds

        found = await self._in_thread(save)
        if found is None:
            self._content = ""
            return _LEAST_SECONDS
        self._content, size, seconds = found
        self._saved, self._marked = commits, self._clock.monotonic()
        written = self.status.written_at if not size else header.written_at
        self.status = SaverStatus(written, size or self.status.size, seconds)
        return max(_LEAST_SECONDS, size / _BYTES_PER_SECOND, seconds / _CPU_SHARE)

    async def _mark(self) -> None:
        """Note that the file's ruleset is in force, every ten minutes."""
        now = self._clock.monotonic()
        if now - self._marked < _MARK_SECONDS:
            return
        self._marked = now
        if not await self._in_thread(partial(_marked, self._path)):
            self._saved, self._content = None, ""  # the file may be gone

    async def _in_thread(self, call: Callable[[], _T]) -> _T | None:
        """Return the result of a call in the thread; None after an error, which is logged once."""
        writing = asyncio.ensure_future(self._worker.run(call))
        try:
            done, _ = await asyncio.wait((writing,), timeout=_STALLED_SECONDS)
            if not done:
                self._fail(f"no response from the disk within {_STALLED_SECONDS:g} s")
            found = await writing
        except (OSError, WireError) as error:
            self._fail(getattr(error, "strerror", "") or str(error))
            return None
        if self.status.problem:
            log.info("resolved: the ruleset is saved again")
            self.status = msgspec.structs.replace(self.status, problem="")
        return found

    def _fail(self, reason: str) -> None:
        problem = f"{self._path} can't be written: {reason}"
        if problem != self.status.problem:
            log.warning("%s; a boot restores an older ruleset, or none", problem)
            self.status = msgspec.structs.replace(self.status, problem=problem)


def _marked(path: Path) -> bool:
    mark_in_force(path)
    return True


def yield_to_others() -> None:
    """Release the interpreter's lock for the event loop."""
    time.sleep(0)


def _content_of(path: Path, header: SavedHeader) -> str:
    """Return the digest of the ruleset that the file has, if it is of this node and version; '' otherwise."""
    try:
        stored = read_saved(path)
    except (HostError, DecodeError):
        return ""
    if stored is None:
        return ""
    found = stored.ruleset.header
    changing = {"content": "", "written_at": 0.0, "boot_id": ""}
    equal = msgspec.structs.replace(found, **changing) == msgspec.structs.replace(header, **changing)
    return found.content if equal else ""
