"""How far an answer can be relied on: what isn't known, and what is as it was before.

The rule: what is not known is never reported as allowed or none. A view carries what `head` makes, and a command
ends with exit code 2 where an answer isn't complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

_KINDS_NAMED = 3
_MINUTE, _HOUR = 60, 3600


class StaleResource(msgspec.Struct, frozen=True):
    """Kinds that nobody follows now: what was read of them last holds.

    since:   when the API server was last heard about one of them, as 2024-05-06T07:08:09Z
    seconds: how long ago that is
    trouble: what is in the way
    """

    kinds: tuple[str, ...]
    since: str
    seconds: float
    trouble: str

    def __str__(self) -> str:
        """Read as a sentence that says since when the data is old, and what is in the way."""
        age = _span(self.seconds)
        return (
            f"{_named(self.kinds)}: not followed, last heard of {age} ago ({self.since}), what was read until then "
            f"holds: {self.trouble}"
        )


class Freshness(msgspec.Struct, frozen=True):
    """How it stands with whoever answers. The default is that of files, which were read whole.

    unread:  kinds that weren't read whole yet; as long as there are any, what isn't there may only be unread
    trouble: what is in the way of reading them
    stale:   kinds that were read, and aren't followed now
    refused: why the kernel doesn't hold what it must, '' where it does as far as anybody knows
    """

    unread: tuple[str, ...] = ()
    trouble: str = ""
    stale: tuple[StaleResource, ...] = ()
    refused: str = ""

    @property
    def unknown(self) -> str:
        """Say that not everything was read, and what to do next; '' where everything was."""
        if not self.unread:
            return ""
        trouble = f", {self.trouble}" if self.trouble else ""
        return (
            f"the agent hasn't read the whole cluster yet (not yet {_named(self.unread)}{trouble}); "
            "ask again when the line API server of `nfagent dump state` says ok"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what may be older, or other, than what is shown."""
        return (*map(str, self.stale), *((self.unenforced,) if self.unenforced else ()))

    @property
    def unenforced(self) -> str:
        """Say that the kernel holds something else than it must."""
        if not self.refused:
            return ""
        return f"the kernel doesn't hold these rules: {self.refused}; what it holds instead: `nfagent dump diff`"


class ViewHead(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that every view begins with.

    complete: whether everything that was requested is known
    unknown:  what isn't, and what to do next
    notes:    what may be older than the cluster, or differ from what is in force
    """

    complete: bool
    unknown: list[str]
    notes: list[str]


WHOLE = Freshness()


def standing_of(resources: Mapping[str, Mapping[str, Any]], now_ns: int, refused: str, *, whole: bool) -> Freshness:
    """Read how it stands out of what the source of objects says of each kind.

    resources: kind -> whether it was read (`synced`), what is in the way (`trouble`), `heard_seconds_ago`
    whole:     whether everything was read once
    """
    unread = tuple(kind for kind, found in resources.items() if not found["synced"])
    troubles: dict[str, list[str]] = {}
    for kind, found in resources.items():
        if found["trouble"] and kind not in unread:
            troubles.setdefault(found["trouble"], []).append(kind)
    stale = []
    for trouble, kinds in troubles.items():
        ages = [age for kind in kinds if (age := resources[kind]["heard_seconds_ago"]) is not None]
        seconds = float(max(ages, default=0.0))
        since = datetime.fromtimestamp(now_ns / 1e9 - seconds, UTC)
        stale.append(StaleResource(tuple(kinds), f"{since:%Y-%m-%dT%H:%M:%SZ}", seconds, trouble))
    if whole:
        return Freshness(stale=tuple(stale), refused=refused)
    ways = dict.fromkeys(found["trouble"] for found in resources.values() if found["trouble"])
    return Freshness(unread or ("the manifests",), "; ".join(ways), tuple(stale))


def head(standing: Freshness, *unknown: str, none: bool = False) -> dict[str, Any]:
    """Return the fields of ViewHead; an `unknown` that is '' is left out.

    none: the view says that there is nothing, which isn't known where the kernel holds other rules
    """
    found = [words for words in (standing.unknown, *unknown, standing.unenforced if none else "") if words]
    return {"complete": not found, "unknown": found, "notes": [note for note in standing.notes if note not in found]}


def _named(kinds: tuple[str, ...]) -> str:
    more = len(kinds) - _KINDS_NAMED
    return ", ".join(kinds[:_KINDS_NAMED]) + (
        f" and {more} more {'kind' if more == 1 else 'kinds'}" if more > 0 else ""
    )


def _span(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.1f} h"
