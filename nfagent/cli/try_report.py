"""The outcome of a trial as people read it: a table of what changes, a summary in words, remarks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any

import msgspec

from nfagent.cli.log_flows import LoggedRecord
from nfagent.cli.output import remark
from nfagent.cli.tables import paint, table
from nfagent.errors import ValidationIssue
from nfagent.model.plurals import counted
from nfagent.simulate.job import SimulationResult
from nfagent.simulate.simulation import FlowChange, FlowCounts, Verdict

_HEADER = ("flow", "traffic", "count", "before", "after", "why")
_TRAFFIC_SHOWN = 6
_ENDS_SHOWN = 3
_ORDER: dict[Verdict, int] = {"denied": 0, "allowed": 1}


class _Row(msgspec.Struct):
    """Changes that are alike but for one end: they have the same verdicts, and the same reason.

    sources, destinations: names, in the order in which they came
    """

    sources: dict[str, None]
    destinations: dict[str, None]
    traffic: str
    count: int
    before: Verdict
    after: Verdict
    why: str

    @property
    def flow(self) -> str:
        """Name the ends."""
        return f"{_listed(self.sources, _ENDS_SHOWN)} -> {_listed(self.destinations, _ENDS_SHOWN)}"

    @property
    def rank(self) -> tuple[int, int, str, str]:
        """Where it stands: what would be denied comes first, and what was seen often."""
        return (_ORDER[self.after], -self.count, self.flow, self.traffic)


def text(changes: Iterable[FlowChange]) -> list[str]:
    """Write the table, what would be denied first; changes between the same two, for the same reason, in one row.

    Pairs of Pods that differ in one end alone are in one row too: there are many of them.
    """
    alike: dict[tuple[str, ...], list[FlowChange]] = {}
    for change in changes:
        key = (_name(change.source), _name(change.destination), change.after, why(change))
        alike.setdefault(key, []).append(change)
    rows: dict[tuple[object, ...], _Row] = {}
    for found in alike.values():
        row = _row(found)
        # The reason names the Pod that is judged: what has one reason in common has that end in common.
        known = rows.setdefault((row.after, row.traffic, row.why, row.flow if row.count else ""), row)
        known.sources |= row.sources
        known.destinations |= row.destinations
    shown = [
        [row.flow, row.traffic, str(row.count or ""), paint(row.before), paint(row.after), row.why]
        for row in sorted(rows.values(), key=lambda row: row.rank)
    ]
    return [*table(_HEADER, shown, {2}), ""] if shown else []


def why(change: FlowChange) -> str:
    """Say which end turns, who decides there then, and who did before."""
    return "; ".join(f"{end.direction} at {end.pod}: {end.after} (before: {end.before})" for end in change.turned)


def summary(outcome: SimulationResult) -> list[str]:
    """Say in words what would change."""
    lines = []
    if outcome.log.judged or outcome.pods is None:
        lines.append(_sentence(outcome.log, "of the log"))
    if outcome.pods is not None:
        lines.append(_sentence(outcome.pods, "between Pods"))
    return lines


def view(
    changes: Iterable[FlowChange], outcome: SimulationResult, logged: LoggedRecord, problems: Iterable[ValidationIssue]
) -> dict[str, Any]:
    """Show everything, as JSON can hold it."""
    sightings = logged.sightings
    return {
        "notes": list(outcome.notes),
        "policies": list(outcome.policies),
        "already_so": list(outcome.idle),
        "pods_judged": outcome.judged,
        "pods_not_whole_in_log": outcome.unlogged,
        "problems": [str(problem) for problem in problems],
        "log": {
            "path": str(logged.path),
            "records": sightings.records,
            "first": sightings.first,
            "last": sightings.last,
            "left_out": sightings.left_out,
            "unread_lines": logged.unread,
            **_numbers(outcome.log),
        },
        "pods": None if outcome.pods is None else _numbers(outcome.pods),
        "changes": [msgspec.to_builtins(change) for change in sorted(changes, key=lambda item: _ORDER[item.after])],
    }


def remark_on(outcome: SimulationResult) -> None:
    """Say what the numbers leave out."""
    for words in outcome.notes:
        remark("warning", words)
    verb = "is" if len(outcome.idle) == 1 else "are"
    if outcome.idle:
        remark("note", f"{', '.join(outcome.idle)} {verb} already as the files say")
    if not outcome.judged:
        remark("warning", "these policies judge no Pod that has an address: nothing can change")
    elif outcome.unlogged and outcome.pods is None:
        remark(
            "note",
            f"these policies judge {counted(outcome.judged, 'Pod')}; this log can't have all connections of "
            f"{outcome.unlogged} (on other nodes, or judged by no policy yet): --pods judges all pairs of Pods",
        )
    gone = outcome.log.gone
    if gone:
        remark("note", f"{counted(gone, 'flow')} with an end whose Pod is gone: judged by who has the address now")


def _row(alike: list[FlowChange]) -> _Row:
    """Make a row of changes between the same two, which have verdicts and reason in common."""
    first = alike[0]
    return _Row(
        sources={_name(first.source): None},
        destinations={_name(first.destination): None},
        traffic=_listed(dict.fromkeys(change.traffic for change in alike), _TRAFFIC_SHOWN),
        count=sum(change.count for change in alike),
        before=first.before,
        after=first.after,
        why=why(first),
    )


def _listed(words: Collection[str], most: int) -> str:
    more = len(words) - most
    return ", ".join([*islice(words, most), *([f"{more} more"] if more > 0 else [])])


def _name(words: str) -> str:
    """Name an end without its address, unless that is all there is."""
    return words.partition(" (")[0]


def _sentence(tally: FlowCounts, where: str) -> str:
    if not tally.judged:
        return f"no flows {where} can change"
    of = f"of {counted(tally.judged, 'flow')} {where}"
    if not tally.denied and not tally.allowed:
        return f"none {of} would change"
    denied = f"{tally.denied or 'none'} {of} would be denied that {'is' if tally.denied == 1 else 'are'} allowed now"
    return (
        f"{denied}; {tally.allowed or 'none'} would be allowed that {'is' if tally.allowed == 1 else 'are'} denied now"
    )


def _numbers(tally: FlowCounts) -> dict[str, int]:
    return {**msgspec.to_builtins(tally), "unchanged": tally.unchanged}
