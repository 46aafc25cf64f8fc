"""Text of a simulation's result: a table of the changed flows, a summary, remarks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any

import msgspec

from nfagent.cli.log_flows import LogScan
from nfagent.cli.output import write_remark
from nfagent.cli.tables import paint, table
from nfagent.egress.translation import TranslationKind
from nfagent.errors import ValidationIssue
from nfagent.model.plurals import counted
from nfagent.simulate.job import SimulationResult
from nfagent.simulate.simulation import FlowChange, FlowCounts, VerdictName
from nfagent.simulate.tie_changes import TieChanges
from nfagent.simulate.translations import TranslationChanges

_HEADER = ("flow", "traffic", "count", "before", "after", "why")
_TRAFFIC_SHOWN = 6
_SEVERAL = re.compile(r" \(\d+ Pods\)\Z")
_ENDS_SHOWN = 3
_TRANSLATION_HEADER = ("pods", "destinations outside", "seen as", "then as", "decided by")
_TIE_HEADER = ("tie", "EgressNATPolicies", "destinations")
_SEEN_AS: dict[TranslationKind, str] = {
    "cluster": "the Pod",
    "kept": "the Pod",
    "node": "its node",
    "gateway": "nothing",
}
_ORDER: dict[VerdictName, int] = {"denied": 0, "allowed": 1}


class _Row(msgspec.Struct):
    """Changes with the same verdicts and the same reason, which differ in one end at most.

    sources, destinations: their names, in the order of the changes
    """

    sources: dict[str, None]
    destinations: dict[str, None]
    traffic: str
    count: int
    before: VerdictName
    after: VerdictName
    why: str

    @property
    def flow(self) -> str:
        """Return the ends as text."""
        return f"{_listed(self.sources, _ENDS_SHOWN)} -> {_listed(self.destinations, _ENDS_SHOWN)}"

    @property
    def rank(self) -> tuple[int, int, str, str]:
        """The sort key: flows that would be denied come first, then those seen most often."""
        return (_ORDER[self.after], -self.count, self.flow, self.traffic)


def text(changes: Iterable[FlowChange]) -> list[str]:
    """Return the table of changes, those to denied first; changes of one pair with one reason share a row.

    Pairs of Pods that differ in one end only share a row too: there are many of them.
    """
    alike: dict[tuple[str, ...], list[FlowChange]] = {}
    for change in changes:
        key = (_name(change.source), _name(change.destination), change.after, why(change))
        alike.setdefault(key, []).append(change)
    rows: dict[tuple[object, ...], _Row] = {}
    for found in alike.values():
        row = _row(found)
        # The reason names the evaluated Pod: changes with one reason have that end in common.
        known = rows.setdefault((row.after, row.traffic, row.why, row.flow if row.count else ""), row)
        known.sources |= row.sources
        known.destinations |= row.destinations
    shown = [
        [row.flow, row.traffic, str(row.count or ""), paint(row.before), paint(row.after), row.why]
        for row in sorted(rows.values(), key=lambda row: row.rank)
    ]
    return [*table(_HEADER, shown, {2}), ""] if shown else []


def translations_text(found: TranslationChanges | None) -> list[str]:
    """Return the table of Pods that outside hosts would see under another address."""
    if found is None:
        return []
    shown = [
        [
            _listed(change.names, _ENDS_SHOWN, change.pods),
            _listed(change.destinations, _TRAFFIC_SHOWN),
            _seen_as(change.before, change.floating_before),
            _seen_as(change.after, change.floating),
            f"{change.decided} (before: {change.decided_before})",
        ]
        for change in sorted(found.changes, key=lambda change: (-change.pods, change.names, change.destinations))
    ]
    return [*([*table(_TRANSLATION_HEADER, shown, set()), ""] if shown else []), *_ties(found.ties)]


def _seen_as(kind: TranslationKind, floating: str) -> str:
    return floating or _SEEN_AS[kind]


def _ties(found: TieChanges) -> list[str]:
    """Return the table of policies that begin or cease to disagree."""
    shown = [
        [word, " and ".join(tie.policies), _listed(tie.destinations, _TRAFFIC_SHOWN)]
        for word, ties in (("created", found.created), ("removed", found.removed))
        for tie in ties
    ]
    return [*table(_TIE_HEADER, shown, set()), ""] if shown else []


def why(change: FlowChange) -> str:
    """Return which end's verdict changes, and what decides there before and after."""
    return "; ".join(f"{end.direction} at {end.pod}: {end.after} (before: {end.before})" for end in change.turned)


def summary(outcome: SimulationResult) -> list[str]:
    """Return sentences on how many flows would change."""
    lines = []
    if outcome.log.judged or (outcome.pods is None and outcome.egress is None):
        lines.append(_sentence(outcome.log, "of the log"))
    if outcome.pods is not None:
        lines.append(_sentence(outcome.pods, "between Pods"))
    if outcome.egress is not None:
        pods = outcome.egress.pods
        lines.append(f"{counted(pods, 'Pod') if pods else 'no Pod'} would be seen under another address outside")
        if outcome.egress.dropped:
            lines.append(f"packets of {counted(outcome.egress.dropped, 'Pod')} to some destinations would be dropped")
        lines += _tie_sentences(outcome.egress.ties)
    return lines


def _tie_sentences(found: TieChanges) -> list[str]:
    lines = []
    if found.created:
        pairs = counted(len(found.created), "pair")
        lines.append(f"{pairs} of policies would disagree: neither applies there, and it is masqueraded")
    if found.removed:
        lines.append(f"{counted(len(found.removed), 'pair')} of policies would no longer disagree")
    return lines


def view(
    changes: Iterable[FlowChange], outcome: SimulationResult, logged: LogScan, problems: Iterable[ValidationIssue]
) -> dict[str, Any]:
    """Return everything, for `-o json`."""
    records = logged.logged
    return {
        "notes": list(outcome.notes),
        "policies": list(outcome.policies),
        "already_so": list(outcome.idle),
        "pods_judged": outcome.judged,
        "pods_not_whole_in_log": outcome.unlogged,
        "problems": [str(problem) for problem in problems],
        "log": {
            "path": str(logged.path),
            "records": records.records,
            "first": records.first,
            "last": records.last,
            "left_out": records.left_out,
            "unread_lines": logged.counts.unread,
            **_numbers(outcome.log),
        },
        "pods": None if outcome.pods is None else _numbers(outcome.pods),
        "changes_not_listed": outcome.unlisted,
        "egress": msgspec.to_builtins(outcome.egress),
        "changes": [msgspec.to_builtins(change) for change in sorted(changes, key=lambda item: _ORDER[item.after])],
    }


def write_result_remarks(outcome: SimulationResult) -> None:
    """Write remarks on what the summary leaves out."""
    for note in outcome.notes:
        write_remark("warning", note)
    verb = "is" if len(outcome.idle) == 1 else "are"
    if outcome.idle:
        write_remark("note", f"{', '.join(outcome.idle)} {verb} unchanged by the files")
    if not outcome.judged and outcome.egress is None:
        write_remark("warning", "these policies select no Pod with an address: nothing can change")
    elif outcome.unlogged and outcome.pods is None:
        write_remark(
            "note",
            f"these policies select {counted(outcome.judged, 'Pod')}; this log can't have all connections of "
            f"{outcome.unlogged} (on other nodes, or selected by no policy yet): --pods evaluates all pairs of Pods",
        )
    if outcome.unlisted:
        write_remark(
            "note",
            f"{counted(outcome.unlisted, 'more change')} between Pods counted, but not listed: narrow them with -n NS "
            "or --pod NS/POD",
        )
    gone = outcome.log.gone
    if gone:
        write_remark(
            "note",
            f"{counted(gone, 'flow')} of Pods that are gone: evaluated with the current holders of their addresses",
        )


def _row(alike: list[FlowChange]) -> _Row:
    """Return the row of changes of one pair, which have their verdicts and reason in common."""
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


def _listed(words: Collection[str], most: int, total: int | None = None) -> str:
    more = (len(words) if total is None else total) - most
    return ", ".join([*islice(words, most), *([f"{more} more"] if more > 0 else [])])


def _name(end: str) -> str:
    """Return the name of an end without its address, or the address alone; of several Pods, with their number."""
    return end if _SEVERAL.search(end) else end.partition(" (")[0]


def _sentence(counts: FlowCounts, where: str) -> str:
    if not counts.judged:
        return f"no flows {where} can change"
    of = f"of {counted(counts.judged, 'flow')} {where}"
    if not counts.denied and not counts.allowed:
        return f"none {of} would change"
    denied = f"{counts.denied or 'none'} {of} would be denied that {'is' if counts.denied == 1 else 'are'} allowed now"
    verb = "is" if counts.allowed == 1 else "are"
    return f"{denied}; {counts.allowed or 'none'} would be allowed that {verb} denied now"


def _numbers(counts: FlowCounts) -> dict[str, int]:
    return {**msgspec.to_builtins(counts), "unchanged": counts.unchanged}
