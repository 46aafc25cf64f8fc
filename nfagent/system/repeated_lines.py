"""Keeps a line of the log from being written twice within a second; how often it came is written afterwards."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

SECONDS = 1.0
_MOST_LINES = 256
"""Lines that are remembered at once, the latest ones; further ones may be written twice."""

_Line: TypeAlias = tuple[str, int, str]


class RepeatedLines(logging.Filter):
    """Drops a record with the logger, level and message of one within the last second.

    The next record after that second is preceded by the number of those that were dropped. A record with a traceback is
    never dropped.
    """

    def __init__(
        self, emit: Callable[[logging.LogRecord], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without lines. emit: writes the record about those that were dropped."""
        super().__init__()
        self._emit = emit
        self._monotonic = monotonic
        self._lock = threading.Lock()
        # When each line was written last, and how often it came since; in the order of these times.
        self._written: dict[_Line, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record."""
        if record.exc_info:
            return True
        now = self._monotonic()
        self.report(now - SECONDS)
        line = (record.name, record.levelno, _message(record))
        with self._lock:
            at, count = self._written.get(line, (now, -1))
            self._written[line] = at, count + 1
        return count < 0

    def report(self, until: float | None = None) -> None:
        """Write how often lines came that were written last until a monotonic time, None for all; forget them."""
        with self._lock:
            over = [line for line, (at, _) in self._written.items() if until is None or at <= until]
            # In the order of their times: the first ones that stay are the oldest.
            left = len(self._written) - len(over)
            over += list(self._written)[len(over) :][: max(0, left - _MOST_LINES)]
            counts = [(line, self._written.pop(line)[1]) for line in over]
        for (name, level, message), count in counts:
            if count:
                times = "once more" if count == 1 else f"{count} more times"
                self._emit(logging.LogRecord(name, level, "", 0, "%s (%s within a second)", (message, times), None))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that don't fit the message: the handler writes what there is
        return str(record.msg)
