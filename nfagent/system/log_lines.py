"""The lines of the agent's own log: text for people and for the journal, or JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from nfagent.model.printable import printable, printable_json

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7
_INDENT = "  | "
"""Prefix of the lines of a traceback, so that none of them looks like a log line of its own."""


class TextLines(logging.Formatter):
    """`13:37:00 info message`, in local time; a traceback in indented lines below."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower()} " + "\n".join(_lines(self, record))


class JournalLines(logging.Formatter):
    """`<6>message`, every line with its priority: sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return "\n".join(f"{_priority(record)}{line}" for line in _lines(self, record))


class JsonLines(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message; exception where there is a traceback."""

    def __init__(self, *, journal: bool = False) -> None:
        """Write for the journal, where each line begins with its priority, or not."""
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        at = datetime.fromtimestamp(record.created, UTC)
        said = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        line = printable_json(json.dumps(said, ensure_ascii=False))
        return f"{_priority(record)}{line}" if self._journal else line


def formatter(form: str, *, journal: bool) -> logging.Formatter:
    """Return the formatter of a setting log_format. journal: stderr is the journal's stream."""
    if form == "json":
        return JsonLines(journal=journal)
    return JournalLines() if journal else TextLines()


def is_journal() -> bool:
    """Return whether stderr is the journal's stream: $JOURNAL_STREAM is its DEVICE:INODE, systemd.exec(5)."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        ours = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{ours.st_dev}:{ours.st_ino}"


def _lines(form: logging.Formatter, record: logging.LogRecord) -> Iterator[str]:
    """Yield the message as one line, then the indented lines of a traceback."""
    yield printable(record.getMessage())
    traceback = form.formatException(record.exc_info) if record.exc_info else ""
    for line in traceback.splitlines():
        yield f"{_INDENT}{printable(line)}"


def _priority(record: logging.LogRecord) -> str:
    return f"<{next((number for least, number in _PRIORITIES if record.levelno >= least), _DEBUG_PRIORITY)}>"
