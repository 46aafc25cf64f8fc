"""Reads the options of `nfagent lab latency`; each error names the option and what to write. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from nfagent.errors import UsageError
from nfagent.lab.latency.cluster import MOST_POLICIES
from nfagent.lab.latency.samples import SCENARIOS, ScenarioName

_MOST = 10_000


def scenario_names(wanted: Sequence[str]) -> tuple[ScenarioName, ...]:
    """Return the scenarios of these names, all without one. Raises UsageError for an unknown one."""
    unknown = [name for name in wanted if name not in SCENARIOS]
    if unknown:
        raise UsageError(f"there is no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    return tuple(name for name in SCENARIOS if not wanted or name in wanted)


def policy_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of `0,1000,10000`, ascending. Raises UsageError."""
    words = [word.strip() for word in text.split(",")]
    if not all(_is_number(word) and int(word) <= MOST_POLICIES for word in words):
        raise UsageError(f"--policies {text!r}: write numbers from 0 to {MOST_POLICIES}, like 0,1000,10000")
    return tuple(sorted(set(map(int, words))))


def positive(option: str, value: int, least: int) -> int:
    """Return an option's number. Raises UsageError for one that is too small or too large."""
    if not least <= value <= _MOST:
        raise UsageError(f"{option} {value}: write a number from {least} to {_MOST}")
    return value


def _is_number(word: str) -> bool:
    # int() refuses a number of thousands of digits by an error of its own.
    return word.isascii() and word.isdecimal() and len(word) <= len(str(MOST_POLICIES))
