"""Writes the verdict log from a thread of its own: however long the disk takes, nobody else waits for it.

Lines wait in a queue that has an end. What doesn't fit into it any more, and what the disk refuses, is counted by
reason, and said when that begins, every minute that it goes on, and when it is over. Between lines the thread looks
whether the disk would take one: what is full or read-only is known before it costs a line.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from nfagent.verdicts.log_file import RotatingFile

log = logging.getLogger(__name__)

QUEUE_FULL = "queue full"
STOPPED = "stopped before it was written"
_QUEUE_BYTES = 16 * 1024 * 1024
_STALLED_SECONDS = 10.0
_LOOK_SECONDS = 10.0
_SAY_SECONDS = 60.0
"""The same problem is said once in so many seconds, however often it comes and goes."""
_MOST_SAID = 16


class LogWriter:
    """A rotating file and the thread that writes to it; the thread starts with the first lines, or by `start`.

    queue_bytes: how much may wait to be written, what is being written included
    monotonic:   what time is
    """

    def __init__(
        self, file: RotatingFile, *, queue_bytes: int = _QUEUE_BYTES, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep the settings; nothing is opened or started yet."""
        self._file = file
        self._room = queue_bytes
        self._least = queue_bytes // 2  # so much room ends an overflow
        self._monotonic = monotonic
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None
        self._queue: list[bytes] = []
        self._writing: Sequence[bytes] = ()
        self.looking = False  # at the disk, now
        self._since = 0.0  # when the disk had taken everything, took the last of it, or was looked at
        self._reopening = self._closing = False
        self._lost: Counter[str] = Counter()  # beside what the file counts
        self._overflowing = False
        self._saying = threading.Lock()
        self._said = ""  # the problem that the log has told of, and not its end
        self._said_at: dict[str, float] = {}

    @property
    def problem(self) -> str:
        """Say why lines are lost now, or may soon be; '' where none are."""
        if self._overflowing:
            return "the disk is too slow for the verdict log, lines are lost: queue full"
        waiting = bool(self._writing or self._queue)
        if (waiting or self.looking) and self._monotonic() - self._since > _STALLED_SECONDS:
            if not waiting:
                return f"the disk of the verdict log hasn't answered for more than {_STALLED_SECONDS:g} s"
            return f"the disk has taken nothing of the verdict log for more than {_STALLED_SECONDS:g} s"
        return f"lines of the verdict log are lost: {self._file.problem}" if self._file.problem else ""

    @property
    def lost_lines(self) -> int:
        """Count the lines that are in no file."""
        return self._lost.total() + self._file.lost_lines

    def start(self) -> None:
        """Start the thread, which looks at the disk at once."""
        with self._news:
            self._start()
            self._reopening = True
            self._news.notify()

    def say(self) -> None:
        """Write to the agent's own log what is wrong, unless that was said a moment ago, and when it is over.

        The thread does so after every batch; whoever has a clock does it for a disk that holds the thread up.
        """
        with self._saying:
            problem, said, now = self.problem, self._said, self._monotonic()
            if problem and now - self._said_at.get(problem, -_SAY_SECONDS) >= _SAY_SECONDS:
                if len(self._said_at) >= _MOST_SAID:
                    self._said_at.clear()
                self._said_at[problem] = now
                self._said = problem
                log.error("%s; lost so far: %d", problem, self.lost_lines)
            elif said and not problem:
                self._said = ""
                log.info("mended: the verdict log is written again; lost so far: %d", self.lost_lines)

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
            self._overflowing |= len(fitting) < len(lines)
            self._start()
            self._news.notify()
        if self._overflowing:
            self.say()

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

    def _start(self) -> None:
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name="verdict-log", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while self._take():
            if self.looking:
                self._file.look()
            if self._writing:
                self._file.write(self._writing)
            with self._news:
                self._room += sum(map(len, self._writing))
                self._writing, self.looking, self._since = (), False, self._monotonic()
                self._overflowing &= self._room < self._least
            self.say()
        self._file.close()

    def _take(self) -> bool:
        """Wait for lines, and take all that are there, or for the time of a look; False at the end, without lines."""
        with self._news:
            heard = self._news.wait_for(lambda: self._queue or self._reopening or self._closing, _LOOK_SECONDS)
            if not self._queue:
                self._since = self._monotonic()
            reopening, self._reopening = self._reopening, False
            self.looking = reopening or not heard
            self._writing, self._queue = self._queue, []
            ended = self._closing and not self._writing
        if reopening:
            self._file.reopen()
        return not ended


def _fitting(lines: Sequence[bytes], room: int) -> Sequence[bytes]:
    """Give the first lines that have room."""
    if sum(map(len, lines)) <= room:
        return lines
    for count, line in enumerate(lines):
        room -= len(line)
        if room < 0:
            return lines[:count]
    return lines
