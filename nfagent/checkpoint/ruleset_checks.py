"""Whether a saved ruleset may be restored."""

from __future__ import annotations

from datetime import UTC, datetime

from nfagent.checkpoint.ruleset_codec import LAYOUT, SavedHeader

_HOUR, _DAY = 3600, 86400


def refusal(header: SavedHeader, node: str, in_force: float, now: float, max_age: float) -> str:
    """Return why a saved ruleset isn't restored, and what to do; '' where it is.

    in_force: when it was last in force      now: the node's clock; both in seconds since the epoch
    max_age:  in seconds
    A clock that stands before `in_force` refuses nothing: old rules never allow what no rules would deny.
    """
    if header.node != node:
        return f"it is of node {header.node}, and this is node {node}; set `node` where the host name differs"
    if header.layout > LAYOUT:
        return (
            f"nfagent {header.version} wrote it with table layout {header.layout}; "
            f"this version knows layouts up to {LAYOUT}"
        )
    if now - in_force > max_age:
        return f"it was in force {age(now - in_force)} ago; boot.max_age_seconds allows {age(max_age)}"
    return ""


def clock_warning(in_force: float, now: float) -> str:
    """Return that the clock stands before the time at which the ruleset was in force; '' where it doesn't."""
    if now >= in_force:
        return ""
    return (
        f"the clock stands at {timestamp(now)}, before the saved ruleset was in force ({timestamp(in_force)}): "
        "its age isn't known, and isn't checked"
    )


def timestamp(seconds: float) -> str:
    """Return seconds since the epoch as `2024-05-06T07:08:09Z`."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return "an unknown time"


def age(seconds: float) -> str:
    """Return a span in words: `5 min`, `3.0 h`, `2.5 days`."""
    if seconds < _HOUR:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / _HOUR:.1f} h" if seconds < _DAY else f"{seconds / _DAY:.1f} days"
