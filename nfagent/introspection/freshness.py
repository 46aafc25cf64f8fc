"""How complete and how old an answer is.

The rule: what is unknown is never reported as allowed or none. Every view has the fields of ViewHead, and a command
ends with exit code 2 where an answer isn't complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from nfagent.checkpoint.enforced_rules import CURRENT, EnforcedRules

_KINDS_NAMED = 3
_MINUTE, _HOUR = 60, 3600


class StaleResource(msgspec.Struct, frozen=True):
    """Kinds whose watch is interrupted: the last known state counts.

    since:   the API server's last update of one of them, as 2024-05-06T07:08:09Z
    seconds: how long ago that is
    trouble: the cause
    """

    kinds: tuple[str, ...]
    since: str
    seconds: float
    trouble: str

    def __str__(self) -> str:
        """Return a sentence: since when the data is old, and the cause."""
        age = _span(self.seconds)
        return (
            f"{_named(self.kinds)}: watch interrupted, last update {age} ago ({self.since}); "
            f"keeping the last known state: {self.trouble}"
        )


class Freshness(msgspec.Struct, frozen=True):
    """How complete and how old the known state is. The default is that of files, which are read whole.

    unread:  kinds that weren't read whole yet; as long as there are any, a missing object may only be unread
    trouble: why they can't be read
    stale:   kinds that were read, and whose watch is interrupted
    refused: why the kernel doesn't hold the desired ruleset, '' where it does as far as is known
    enforced: which rules the kernel enforces, as far as is known
    """

    unread: tuple[str, ...] = ()
    trouble: str = ""
    stale: tuple[StaleResource, ...] = ()
    refused: str = ""
    enforced: EnforcedRules = CURRENT

    @property
    def unknown(self) -> str:
        """Return that not everything was read, and what to do next; '' where everything was."""
        if not self.unread:
            return ""
        trouble = f", {self.trouble}" if self.trouble else ""
        return (
            f"the agent hasn't read the whole cluster yet (not yet {_named(self.unread)}{trouble}); "
            f"ask again when the line API server of `nfagent dump state` says ok{self._until_then}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what may be older than the cluster, or differ from what is in force."""
        return (*map(str, self.stale), *((self.unenforced,) if self.unenforced else ()))

    @property
    def unenforced(self) -> str:
        """Return that the kernel doesn't hold the desired ruleset; '' where it does."""
        if not self.refused:
            return ""
        return (
            f"the kernel doesn't hold these rules: {self.refused}; what it holds instead: `nfagent dump diff`"
            f"{self._until_then}"
        )

    @property
    def _until_then(self) -> str:
        return f". Enforced until then: {self.enforced}" if self.enforced.words else ""


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


def freshness_of(
    resources: Mapping[str, Mapping[str, Any]],
    now_ns: int,
    refused: str,
    *,
    whole: bool,
    enforced: EnforcedRules = CURRENT,
) -> Freshness:
    """Return the freshness from the source's status of each kind.

    resources: kind -> whether it was read (`synced`), why it isn't watched (`trouble`), `heard_seconds_ago`
    whole:     whether everything was read once
    enforced:  as in Freshness
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
        return Freshness(stale=tuple(stale), refused=refused, enforced=enforced)
    troubles_now = dict.fromkeys(found["trouble"] for found in resources.values() if found["trouble"])
    return Freshness(unread or ("the manifests",), "; ".join(troubles_now), tuple(stale), enforced=enforced)


def head(freshness: Freshness, *unknown: str, none: bool = False) -> dict[str, Any]:
    """Return the fields of ViewHead; an `unknown` that is '' is left out.

    none: the view says that there is nothing, which isn't known where the kernel holds other rules
    """
    found = [words for words in (freshness.unknown, *unknown, freshness.unenforced if none else "") if words]
    return {"complete": not found, "unknown": found, "notes": [note for note in freshness.notes if note not in found]}


def _named(kinds: tuple[str, ...]) -> str:
    more = len(kinds) - _KINDS_NAMED
    return ", ".join(kinds[:_KINDS_NAMED]) + (
        f" and {more} more {'kind' if more == 1 else 'kinds'}" if more > 0 else ""
    )


def _span(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.1f} h"
