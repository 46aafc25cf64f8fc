"""The agent's own log on stderr, written from a thread of its own: a reader that stops reading holds nobody up.

A pipe that nobody empties, and a journal that hangs, take no more after some kilobytes, and whoever writes to them
waits. Lines wait here in a queue that has an end. What does not fit, and what a disk refuses, is counted, and said as
soon as there is room.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import TypeAlias

_QUEUE_BYTES = 1024 * 1024
_FLUSH_SECONDS = 2.0
_STDERR = 2


_Entry: TypeAlias = tuple[bytes, int]
"""A line, and how many lost ones it begins with telling of."""


class StderrLog(logging.Handler):
    """Writes to a descriptor; the thread starts with the first line.

    lost_lines: records that were not written, and won't be
    """

    def __init__(self, descriptor: int = _STDERR, queue_bytes: int = _QUEUE_BYTES) -> None:
        """Keep the settings; nothing is started yet."""
        super().__init__()
        self.lost_lines = 0
        self._unsaid = 0  # of these, how many the log itself hasn't told of
        self._descriptor = descriptor
        self._room = queue_bytes
        self._news = threading.Condition()
        self._queue: list[_Entry] = []
        self._writing: list[_Entry] = []
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> bool:
        """Tell whether there is something that isn't written yet."""
        return bool(self._queue or self._writing)

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written; returns at once."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 - a record whose arguments don't fit its message; logging's own way is to print
            line = f"{record.levelname.lower()} {record.msg!r}\n".encode(errors="backslashreplace")
        with self._news:
            if len(line) > self._room:
                self.lost_lines += 1
                self._unsaid += 1
                return
            told = self._unsaid
            if told:
                line = self._lost_said(record) + line
            self._room -= len(line)
            self._queue.append((line, told))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stderr-log", daemon=True)
                self._thread.start()
            self._news.notify_all()

    def flush(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Wait until all is written, for so many seconds at most."""
        with self._news:
            self._news.wait_for(lambda: not self.waiting, seconds)

    def close(self) -> None:
        """Give what waits no further chance: `flush` comes before."""
        with self._news:
            self._queue.clear()
        super().close()

    def _lost_said(self, record: logging.LogRecord) -> bytes:
        said = logging.LogRecord(
            record.name,
            logging.WARNING,
            "",
            0,
            "nobody read this log for a while, or its disk took none; lines lost: %d",
            (self._unsaid,),
            None,
        )
        self._unsaid = 0
        return f"{self.format(said)}\n".encode(errors="backslashreplace")

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._queue)
                self._writing, self._queue = self._queue, []
            lost = unsaid = 0
            for line, told in self._writing:
                # By the descriptor: a thread that held the lock of sys.stderr would hold up the end of the process.
                refused = _write_whole(self._descriptor, line)
                if told and refused == line.count(b"\n"):
                    # What tells of lost lines is lost itself, and is none of them: it is told again.
                    refused, unsaid = refused - 1, unsaid + told
                lost += refused
            with self._news:
                self.lost_lines += lost
                self._unsaid += lost + unsaid
                self._room += sum(len(line) for line, _ in self._writing)
                self._writing = []
                self._news.notify_all()


def _write_whole(descriptor: int, content: bytes) -> int:
    """Write all of it; count the lines that were refused: the disk is full, or the reader has gone."""
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:  # whoever has the other end may have told it not to wait
            select.select([], [descriptor], [])
        except OSError:
            return bytes(left).count(b"\n")
    return 0


def lost_lines() -> int:
    """Count what this process's own log has lost."""
    return sum(found.lost_lines for found in logging.getLogger().handlers if isinstance(found, StderrLog))
