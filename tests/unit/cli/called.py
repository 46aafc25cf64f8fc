"""The result of a command that a test called."""

from __future__ import annotations

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
