"""Writes the agent's log to stderr from a thread, so that a stalled reader never blocks the agent.

A pipe without a reader, or a journal that hangs, blocks writers after some kilobytes. So lines are queued, up to a
limit. Lines that don't fit, or that a disk refuses, are counted, and reported when there is space again.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from contextlib import suppress
from typing import TypeAlias

from nfagent.system.threads import start_daemon

_QUEUE_BYTES = 1024 * 1024
_FLUSH_SECONDS = 2.0
_STDERR = 2


_Entry: TypeAlias = tuple[bytes, int]
"""A line, and the number of lost lines that it starts with a report of."""


class StderrLog(logging.Handler):
    """Writes to a descriptor; the thread starts by `start`, or with the first line.

    lost_lines: number of records that were dropped
    """

    def __init__(self, descriptor: int = _STDERR, queue_bytes: int = _QUEUE_BYTES) -> None:
        """Store the settings; the first line starts the thread."""
        super().__init__()
        self.lost_lines = 0
        self._unreported = 0  # of these, the ones not yet reported in the log
        self._descriptor = descriptor
        self._free = queue_bytes
        self._changed = threading.Condition()
        self._queue: list[_Entry] = []
        self._writing: list[_Entry] = []
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> bool:
        """Return whether lines are not written yet."""
        return bool(self._queue or self._writing)

    def start(self) -> None:
        """Start the thread, where it doesn't run yet and the limit of threads allows it; each line tries again."""
        if self._thread is None:
            with suppress(OSError):
                self._thread = start_daemon(self._run, "stderr-log")

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record; returns at once."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 - arguments that don't fit the message; logging would print to stderr
            line = f"{record.levelname.lower()} {record.msg!r}\n".encode(errors="backslashreplace")
        with self._changed:
            if len(line) > self._free:
                self.lost_lines += 1
                self._unreported += 1
                return
            reported = self._unreported
            if reported:
                line = self._loss_report(record) + line
            self._free -= len(line)
            self._queue.append((line, reported))
            self.start()
            self._changed.notify_all()

    def flush(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Wait until all lines are written, for so many seconds at most."""
        with self._changed:
            if self._thread is None:
                self._write_what_fits()
            self._changed.wait_for(lambda: not self.waiting, seconds)

    def close(self) -> None:
        """Drop queued lines; call `flush` before."""
        with self._changed:
            self._queue.clear()
        super().close()

    def _write_what_fits(self) -> None:
        """Write lines in this thread, where no other could be started, as long as the reader takes them."""
        while self._queue and select.select([], [self._descriptor], [], 0)[1]:
            line, _ = self._queue.pop(0)
            self.lost_lines += _write_whole(self._descriptor, line)

    def _loss_report(self, record: logging.LogRecord) -> bytes:
        report = logging.LogRecord(
            record.name,
            logging.WARNING,
            "",
            0,
            "log output was blocked or refused; lost_lines=%d",
            (self._unreported,),
            None,
        )
        self._unreported = 0
        return f"{self.format(report)}\n".encode(errors="backslashreplace")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                self._writing, self._queue = self._queue, []
            lost = unreported = 0
            for line, reported in self._writing:
                # By the descriptor: a thread that holds the lock of sys.stderr would block the exit of the process.
                refused = _write_whole(self._descriptor, line)
                if reported and refused == line.count(b"\n"):
                    # The report of lost lines is lost itself; it doesn't count as one, and is repeated.
                    refused, unreported = refused - 1, unreported + reported
                lost += refused
            with self._changed:
                self.lost_lines += lost
                self._unreported += lost + unreported
                self._free += sum(len(line) for line, _ in self._writing)
                self._writing = []
                self._changed.notify_all()


def _write_whole(descriptor: int, content: bytes) -> int:
    """Write all bytes; return the number of lines refused, by a full disk or a closed pipe."""
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:  # another process may have set O_NONBLOCK on the shared descriptor
            select.select([], [descriptor], [])
        except OSError:
            return bytes(left).count(b"\n")
    return 0


def lost_lines() -> int:
    """Return the number of lines that this process's log has lost."""
    return sum(found.lost_lines for found in logging.getLogger().handlers if isinstance(found, StderrLog))
