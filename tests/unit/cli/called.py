"""The result of a command that a test called; a pipe for one that has lost its reader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol


class Said(NamedTuple):
    """Exit code, and what was written to stdout and stderr."""

    code: int
    out: str
    err: str


class Call(Protocol):
    """Calls a command line of nfagent, in this process."""

    def __call__(self, *arguments: str | Path) -> Said: ...


@contextmanager
def unread_pipe() -> Iterator[int]:
    """Return the end to write to of a pipe whose reader has gone before a command is started."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)
