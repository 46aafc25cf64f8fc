"""Work in steps, taken in one."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

Made = TypeVar("Made")


def finished(steps: Generator[None, None, Made]) -> Made:
    """Take all steps; return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Made = end.value
            return result
