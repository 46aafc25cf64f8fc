"""Writes the verdict log to a sink in a thread of its own, so that a slow disk delays nothing else.

Lines wait in a bounded queue. Lines that don't fit, and those that the sink refuses, are counted by reason; the loss is
logged when it begins, every minute while it lasts, and when it ends. Without lines the thread checks the sink every
10 s: a full or read-only disk is known before a line is lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from nfagent.verdicts.log_sink import LineSink

log = logging.getLogger(__name__)

QUEUE_FULL = "queue full"
STOPPED = "stopped before it was written"
_QUEUE_BYTES = 16 * 1024 * 1024
_STALLED_SECONDS = 10.0
_CHECK_SECONDS = 10.0
_REPORT_SECONDS = 60.0
"""The same problem is logged at most once in this time, however often it comes and goes."""
_MAX_REPORTED = 16


class SinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One sink, for `dump state`.

    problem:            why lines are being lost, or may be soon; '' without a problem
    errors:             number of batches that could not be written completely
    lost_lines, lost_by: lines that were not written, in all and by reason
    queued_lines:       lines that wait
    last_error:         the last error of the operating system; '' without one
    """

    problem: str = ""
    errors: int = 0
    lost_lines: int = 0
    lost_by: dict[str, int] = {}
    queued_lines: int = 0
    last_error: str = ""


class LogWriter:
    """A sink and the thread that writes it; the thread starts with the first lines, or by `start`.

    queue_bytes: limit of the lines that wait or are being written
    monotonic:   the clock, in seconds
    """

    def __init__(
        self, sink: LineSink, *, queue_bytes: int = _QUEUE_BYTES, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep the settings; the thread isn't started yet."""
        self._sink = sink
        self._free_bytes = queue_bytes
        self._resume_bytes = queue_bytes // 2  # this much free space ends an overflow
        self._monotonic = monotonic
        self._wakeup = threading.Condition()
        self._thread: threading.Thread | None = None
        self._queue: list[bytes] = []
        self._writing: Sequence[bytes] = ()
        self.looking = False  # checking the sink now
        self._since = 0.0  # when the queue was last empty, written or the disk checked
        self._reopening = self._closing = False
        self._lost: Counter[str] = Counter()  # besides those that the file counts
        self._overflowing = False
        self._reporting = threading.Lock()
        self._reported = ""  # the problem that was logged, until its end is
        self._reported_at: dict[str, float] = {}

    @property
    def problem(self) -> str:
        """Why lines are being lost, or may be soon; '' without a problem."""
        if self._overflowing:
            return f"{self._sink.target} is too slow for the {self._sink.label}, lines are lost: queue full"
        waiting = bool(self._writing or self._queue)
        if (waiting or self.looking) and self._monotonic() - self._since > _STALLED_SECONDS:
            doing = "accepted lines of" if waiting else "answered"
            return f"{self._sink.target} hasn't {doing} the {self._sink.label} for more than {_STALLED_SECONDS:g} s"
        return f"lines of the {self._sink.label} are lost: {self._sink.problem}" if self._sink.problem else ""

    @property
    def lost_lines(self) -> int:
        """Number of lines that were not written."""
        return self._lost.total() + self._sink.lost.total()

    def start(self) -> None:
        """Start the thread, which checks the sink at once."""
        with self._wakeup:
            self._start()
            self._reopening = True
            self._wakeup.notify()

    def report_problem(self) -> None:
        """Log the current problem, at most once a minute, and its end.

        The thread does so after each batch; the agent's timer does so too, for a disk that blocks the thread.
        """
        with self._reporting:
            problem, reported, now = self.problem, self._reported, self._monotonic()
            if problem and now - self._reported_at.get(problem, -_REPORT_SECONDS) >= _REPORT_SECONDS:
                if len(self._reported_at) >= _MAX_REPORTED:
                    self._reported_at.clear()
                self._reported_at[problem] = now
                self._reported = problem
                log.error("%s; lost_lines=%d", problem, self.lost_lines)
            elif reported and not problem:
                self._reported = ""
                log.info("%s is written again; lost_lines=%d", self._sink.label, self.lost_lines)

    def write(self, lines: Sequence[bytes]) -> None:
        """Queue lines, each with its newline, to be appended in order; returns at once."""
        if not lines:
            return
        with self._wakeup:
            fitting = _fitting(lines, self._free_bytes)
            if not (self._queue or self._writing):
                self._since = self._monotonic()
            self._free_bytes -= sum(map(len, fitting))
            self._queue += fitting
            self._lost[QUEUE_FULL] += len(lines) - len(fitting)
            self._overflowing |= len(fitting) < len(lines)
            self._start()
            self._wakeup.notify()
        if self._overflowing:
            self.report_problem()

    def reopen(self) -> None:
        """Reopen the sink: the next lines go to the file that the path then names."""
        with self._wakeup:
            self._reopening = True
            self._wakeup.notify()

    def end(self) -> None:
        """Let the thread stop once the queued lines are written; returns at once."""
        with self._wakeup:
            self._closing = True
            self._wakeup.notify()

    def close(self, seconds: float = 2.0) -> None:
        """Write the queued lines, within so many seconds, and stop; the lines left after that are lost."""
        self.end()
        if self._thread is None:
            return
        self._thread.join(seconds)
        with self._wakeup:
            left = len(self._writing) + len(self._queue)
            self._lost[STOPPED] += left
            self._queue.clear()
        if left:
            log.error(
                "%s doesn't accept the %s; lines dropped at this stop: lost_lines=%d",
                self._sink.target,
                self._sink.label,
                left,
            )

    def status(self) -> SinkStatus:
        """Return the status for `dump state`."""
        # The thread may add a reason meanwhile: a copy is made in one step.
        lost = {reason: count for reason, count in (self._lost + Counter(self._sink.lost)).items() if count}
        return SinkStatus(
            problem=self.problem,
            errors=self._sink.errors,
            lost_lines=sum(lost.values()),
            lost_by=dict(sorted(lost.items())),
            queued_lines=len(self._queue) + len(self._writing),
            last_error=self._sink.last_error,
        )

    def _start(self) -> None:
        if self._thread is None and not self._closing:
            thread = threading.Thread(target=self._run, name="verdict-log", daemon=True)
            with suppress(RuntimeError):  # the limit of threads is reached; the next lines try again
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while self._take():
            if self.looking:
                self._sink.check()
            if self._writing:
                self._sink.write(self._writing)
            with self._wakeup:
                self._free_bytes += sum(map(len, self._writing))
                self._writing, self.looking, self._since = (), False, self._monotonic()
                self._overflowing &= self._free_bytes < self._resume_bytes
            self.report_problem()
        self._sink.close()

    def _take(self) -> bool:
        """Wait for lines and take all, or until the disk is to be checked; return False once closed and empty."""
        with self._wakeup:
            woken = self._wakeup.wait_for(lambda: self._queue or self._reopening or self._closing, _CHECK_SECONDS)
            if not self._queue:
                self._since = self._monotonic()
            reopening, self._reopening = self._reopening, False
            self.looking = reopening or not woken
            self._writing, self._queue = self._queue, []
            ended = self._closing and not self._writing
        if reopening:
            self._sink.reopen()
        return not ended


def _fitting(lines: Sequence[bytes], free: int) -> Sequence[bytes]:
    """Return the first lines that fit into the free bytes."""
    if sum(map(len, lines)) <= free:
        return lines
    for count, line in enumerate(lines):
        free -= len(line)
        if free < 0:
            return lines[:count]
    return lines
