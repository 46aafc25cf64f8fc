"""The verdict log as a stream to readers of the agent's socket: each has a bounded queue. The latest lines are kept.

A reader that is too slow loses lines: they are counted, and a line `{"lost_records": N}` tells it where the gap is.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from nfagent.errors import HostError

SLOW_READER = "slow reader"
MAX_READERS = 8
_QUEUE_BYTES = 1024 * 1024
RECENT_LINES = 4_095
_RECENT_BYTES = 2 * 1024 * 1024


class RecentLines:
    """The latest lines: so many, and so many bytes of them, at most.

    They are in one circular buffer, which stays where it is. Lines that are objects of their own are in CPython's
    memory up to 512 bytes, and in malloc's beyond; with each other mix of lengths both would keep what the other got.
    """

    def __init__(self, most: int = RECENT_LINES, most_bytes: int = _RECENT_BYTES) -> None:
        """Start empty; the first line makes the buffer."""
        self._most, self._most_bytes = most, most_bytes
        self._buffer = memoryview(b"")
        self._lengths: deque[int] = deque()
        self._held = 0
        self._end = 0  # where the next line begins

    def add(self, lines: Sequence[bytes]) -> None:
        """Keep lines, and forget the oldest ones beyond the limits."""
        fitting = self._latest(lines)
        if len(fitting) < len(lines):
            self._lengths.clear()
            self._held = 0
        joined = b"".join(fitting)
        free = self._most_bytes - len(joined)
        while self._lengths and (self._held > free or len(self._lengths) + len(fitting) > self._most):
            self._held -= self._lengths.popleft()
        self._lengths.extend(map(len, fitting))
        self._held += len(joined)
        self._write(joined)

    def newest_first(self) -> list[bytes]:
        """Return the lines."""
        found: list[bytes] = []
        end, buffer = self._end, self._buffer
        for length in reversed(self._lengths):
            begin = end - length
            found.append(bytes(buffer[begin:end]) if begin >= 0 else b"".join((buffer[begin:], buffer[:end])))
            end = begin % self._most_bytes
        return found

    def _latest(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        """Return the latest of some lines, as many as the limits allow."""
        free = self._most_bytes
        for count, line in enumerate(reversed(lines)):
            free -= len(line)
            if free < 0 or count == self._most:
                return lines[len(lines) - count :]
        return lines

    def _write(self, joined: bytes) -> None:
        if not joined:
            return
        if not self._buffer:
            self._buffer = memoryview(bytearray(self._most_bytes))
        first = min(len(joined), self._most_bytes - self._end)
        self._buffer[self._end : self._end + first] = joined[:first]
        self._buffer[: len(joined) - first] = joined[first:]
        self._end = (self._end + len(joined)) % self._most_bytes


class StreamReader:
    """One reader's queue.

    lost: number of lines that didn't fit, in all
    """

    def __init__(self, queue_bytes: int) -> None:
        """Start with an empty queue."""
        self.lost = 0
        self._queue_bytes = self._free_bytes = queue_bytes
        self._queue: list[bytes] = []
        self._gap = 0  # lines lost behind the queue's last one
        self._ended = False
        self._changed = asyncio.Event()

    def add(self, lines: Sequence[bytes]) -> int:
        """Queue lines; return how many are lost. After a lost line all are, until the queue was taken."""
        fitting = 0
        for line in lines:
            if self._gap or len(line) > self._free_bytes:
                break
            self._free_bytes -= len(line)
            fitting += 1
        self._queue += lines[:fitting]
        self._gap += len(lines) - fitting
        self.lost += len(lines) - fitting
        self._changed.set()
        return len(lines) - fitting

    def end(self) -> None:
        """End `batches` behind the lines that are queued."""
        self._ended = True
        self._changed.set()

    async def batches(self, idle_seconds: float) -> AsyncIterator[bytes]:
        """Yield the queued lines, joined, as they come; an empty line at the begin and after each idle time."""
        yield b"\n"
        while self._queue or not self._ended:
            taken = self._take()
            yield taken or b"\n"
            if self._queue or self._ended:
                continue
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), idle_seconds)
            except TimeoutError:
                continue

    def _take(self) -> bytes:
        lines, self._queue, self._free_bytes = self._queue, [], self._queue_bytes
        if self._gap:
            lines.append(b'{"lost_records":%d}\n' % self._gap)
            self._gap = 0
        return b"".join(lines)


class LogStream:
    """Passes lines to all readers. All calls are made on the event loop.

    lost:   number of lines that readers have lost, by reason
    recent: the latest lines, for readers that begin with them
    """

    def __init__(self, queue_bytes: int = _QUEUE_BYTES) -> None:
        """Keep the size of a reader's queue, in bytes of lines."""
        self.lost: Counter[str] = Counter()
        self.recent = RecentLines()
        self._queue_bytes = queue_bytes
        self._readers: set[StreamReader] = set()
        self._closed = False

    @property
    def readers(self) -> int:
        """Number of readers."""
        return len(self._readers)

    def write(self, lines: Sequence[bytes]) -> None:
        """Keep lines, and queue them for each reader; returns at once."""
        self.recent.add(lines)
        for reader in self._readers:
            lost = reader.add(lines)
            if lost:
                self.lost[SLOW_READER] += lost

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[StreamReader]:
        """Add a reader, which gets the lines from now on. Raises HostError where there are too many."""
        if len(self._readers) >= MAX_READERS:
            raise HostError(f"{MAX_READERS} readers follow the verdict log already; end one of them")
        found = StreamReader(self._queue_bytes)
        if self._closed:
            found.end()
        self._readers.add(found)
        try:
            yield found
        finally:
            self._readers.remove(found)

    def close(self) -> None:
        """End all streams, behind the lines that are queued."""
        self._closed = True
        for reader in self._readers:
            reader.end()
