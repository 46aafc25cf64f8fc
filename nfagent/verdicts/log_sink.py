"""What a sink of the verdict log is: `LogWriter` writes lines to one in a thread of its own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

log = logging.getLogger(__name__)


class LineSink(Protocol):
    """Accepts lines, in order; `write` and `check` may block, and raise no OSError.

    label:      the log in messages: 'verdict log in journald'
    target:     what the thread waits for, in messages: 'systemd-journald'
    errors:     number of batches that could not be written completely
    lost:       their lines that were not written, by the operating system's error
    last_error: the last error of the operating system; '' without one
    """

    label: str
    target: str
    errors: int
    lost: Counter[str]
    last_error: str

    @property
    def problem(self) -> str:
        """Why the last batch was not written completely, or the next can't be; '' without a problem."""
        ...

    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines, each with its newline."""
        ...

    def check(self) -> None:
        """Check whether a line could be written, without writing one."""
        ...

    def reopen(self) -> None:
        """Open anew with the next line."""
        ...

    def close(self) -> None:
        """Release what is open; a later `write` opens it again."""
        ...


class ErrorCounts:
    """Counts the lines that a sink could not write; the part that sinks without a file share."""

    def __init__(self) -> None:
        """Start without errors."""
        self.errors = 0
        self.lost: Counter[str] = Counter()
        self.last_error = ""
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the last batch was not written completely, or the next can't be; '' without a problem."""
        return self._problem

    def _failed(self, error: OSError, lines: int) -> None:
        self.lost[error.strerror or str(error)] += lines
        self.last_error = self._problem = str(error)
