"""Writes the verdict log from a thread of its own: however long the disk takes, nobody else waits for it.

Lines wait in a queue that has an end. What doesn't fit into it any more, and what the disk refuses, is counted by
reason, and said when that begins and when it is over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from nfagent.edge.logfile import RotatingFile

log = logging.getLogger(__name__)

QUEUE_FULL = "queue full"
STOPPED = "stopped before it was written"
_QUEUE_BYTES = 16 * 1024 * 1024
_STALLED_SECONDS = 10.0


class LogWriter:
    """A rotating file and the thread that writes to it; the thread starts with the first lines.

    queue_bytes: how much may wait to be written, what is being written included
    monotonic:   what time is
    """

    def __init__(
        self, file: RotatingFile, *, queue_bytes: int = _QUEUE_BYTES, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep the settings; nothing is opened or started yet."""
        self._file = file
        self._room = queue_bytes
        self._monotonic = monotonic
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None
        self._queue: list[bytes] = []
        self._writing: Sequence[bytes] = ()
        self._since = 0.0  # when the disk had taken everything, or took the last of it
        self._reopening = self._closing = False
        self._lost: Counter[str] = Counter()  # beside what the file counts
        self._overflowing = False
        self._said = ""  # the file's problem that the log has told of

    @property
    def problem(self) -> str:
        """Say why lines are lost now, or may soon be; '' where none are."""
        if self._overflowing:
            return "the disk is too slow for the verdict log, lines are lost: queue full"
        if (self._writing or self._queue) and self._monotonic() - self._since > _STALLED_SECONDS:
            return f"the disk has taken nothing of the verdict log for more than {_STALLED_SECONDS:g} s"
        return f"lines of the verdict log are lost: {self._file.problem}" if self._file.problem else ""

    def write(self, lines: Sequence[bytes]) -> None:
        """Have lines appended, each with its newline at its end, in their order; returns at once."""
        if not lines:
            return
        with self._news:
            fitting = _fitting(lines, self._room)
            if not (self._queue or self._writing):
                self._since = self._monotonic()
            self._room -= sum(map(len, fitting))
            self._queue += fitting
            self._lost[QUEUE_FULL] += len(lines) - len(fitting)
            overflowing, self._overflowing = self._overflowing, len(fitting) < len(lines)
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="verdict-log", daemon=True)
                self._thread.start()
            self._news.notify()
        if self._overflowing and not overflowing:
            log.error("%s", self.problem)
        if overflowing and not self._overflowing:
            log.info("mended: the verdict log has room again; lost so far: %d", self._lost[QUEUE_FULL])

    def reopen(self) -> None:
        """Have the file let go of, so that what comes next goes to whatever the path names by then."""
        with self._news:
            self._reopening = True
            self._news.notify()

    def close(self, seconds: float = 2.0) -> None:
        """Write what waits, for so many seconds at most, and end. A disk that stalls longer has the rest lost."""
        with self._news:
            self._closing = True
            self._news.notify()
        if self._thread is None:
            return
        self._thread.join(seconds)
        with self._news:
            left = len(self._writing) + len(self._queue)
            self._lost[STOPPED] += left
            self._queue.clear()
        if left:
            log.error("the disk doesn't take the verdict log; lines lost at this stop: %d", left)

    def status(self) -> dict[str, Any]:
        """Tell how it stands, for `dump state`; `lost_by` has the lines that are in no file, by reason."""
        lost = {reason: count for reason, count in (self._lost + self._file.lost).items() if count}
        return {
            "problem": self.problem,
            "errors": self._file.errors,
            "lost_lines": sum(lost.values()),
            "lost_by": dict(sorted(lost.items())),
            "queued_lines": len(self._queue) + len(self._writing),
            "last_error": self._file.last_error,
        }

    def _run(self) -> None:
        while self._take():
            self._file.write(self._writing)
            with self._news:
                self._room += sum(map(len, self._writing))
                self._writing, self._since = (), self._monotonic()
            self._say()
        self._file.close()

    def _take(self) -> bool:
        """Wait for lines, and take all that are there; tell whether there are any: there are none at the end."""
        while True:
            with self._news:
                self._news.wait_for(lambda: self._queue or self._reopening or self._closing)
                reopening, self._reopening = self._reopening, False
                self._writing, self._queue = self._queue, []
                closing = self._closing
            if reopening:
                self._file.reopen()
            if self._writing or closing:
                return bool(self._writing)

    def _say(self) -> None:
        problem, said = self._file.problem, self._said
        self._said = problem
        if problem and problem != said:
            log.error("lines of the verdict log are lost: %s", problem)
        if said and not problem:
            log.info("mended: the verdict log is written again; lines lost so far: %d", self._file.lost_lines)


def _fitting(lines: Sequence[bytes], room: int) -> Sequence[bytes]:
    """Give the first lines that have room."""
    if sum(map(len, lines)) <= room:
        return lines
    for count, line in enumerate(lines):
        room -= len(line)
        if room < 0:
            return lines[:count]
    return lines
