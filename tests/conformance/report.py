"""The report of a run, as values for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from tests.conformance import replay
from tests.conformance.results import Reading, Result
from tests.conformance.suites import Case, Suite

By: TypeAlias = Literal["suite", "support", "tag"]
_LEVELS = ("core", "extended", "experimental")


class Count(msgspec.Struct):
    """Numbers of cases by outcome, and of checked probes."""

    passed: int = 0
    failed: int = 0
    not_applicable: int = 0
    probes: int = 0


class Row(msgspec.Struct):
    """The cases of a suite that have something in common: the suite itself, a support level, a tag."""

    suite: str
    by: By
    name: str
    cases: int
    readings: dict[Reading, Count]


class Aside(msgspec.Struct):
    """Probes that an implementation doesn't check, and why."""

    suite: str
    reading: Reading
    probes: int
    reason: str


class Failed(msgspec.Struct):
    """A failure, and how to see it again.

    source:    NAMESPACE/POD; empty, as all about the probe, where a step couldn't be made
    port:      like 80/tcp
    found:     allowed, denied, or in words how it was neither
    manifests: a folder with the objects of the step
    explain:   the command that says how the verdict comes about
    """

    suite: str
    case: str
    title: str
    reading: Reading
    step: int
    source: str
    source_address: str
    destination: str
    destination_address: str
    port: str
    expected: str
    found: str
    manifests: str
    explain: str


class Report(msgspec.Struct):
    """A whole run. seconds: elapsed time."""

    rows: list[Row]
    not_applicable: list[Aside]
    failures: list[Failed]
    seconds: float

    @property
    def good(self) -> bool:
        return not self.failures


def make(suites: Sequence[Suite], results: Sequence[Result], seconds: float, folder: Path) -> Report:
    """Sum up; the objects of every step that failed are written below `folder`."""
    rows, asides, failures = [], [], []
    for suite in suites:
        of_suite = [result for result in results if result.case.suite == suite.name]
        rows += list(_rows(suite, of_suite))
        asides += list(_asides(suite, of_suite))
        failures += [failed for result in of_suite for failed in _failures(suite, result, folder)]
    return Report(rows, asides, failures, round(seconds, 1))


def _rows(suite: Suite, results: Sequence[Result]) -> Iterator[Row]:
    levels: list[tuple[By, str]] = [("support", level) for level in _LEVELS]
    tags: list[tuple[By, str]] = [("tag", tag) for tag in sorted({tag for case in suite.cases for tag in case.tags})]
    for by, name in [("suite", suite.name), *levels, *tags]:
        cases = {case.id for case in suite.cases if _belongs(case, by, name)}
        if cases:
            yield Row(suite.name, by, name, len(cases), _counts(one for one in results if one.case.id in cases))


def _belongs(case: Case, by: By, name: str) -> bool:
    return by == "suite" or (case.support == name if by == "support" else name in case.tags)


def _counts(results: Iterator[Result]) -> dict[Reading, Count]:
    counts: dict[Reading, Count] = {}
    for result in results:
        count = counts.setdefault(result.reading, Count())
        count.passed += result.outcome == "passed"
        count.failed += result.outcome == "failed"
        count.not_applicable += result.outcome == "not applicable"
        count.probes += result.asked
    return counts


def _asides(suite: Suite, results: Sequence[Result]) -> Iterator[Aside]:
    found: Counter[tuple[Reading, str]] = Counter()
    for result in results:
        for reason, probes in result.aside.items():
            found[result.reading, reason] += probes
    for (reading, reason), probes in found.items():
        yield Aside(suite.name, reading, probes, reason)


def _failures(suite: Suite, result: Result, folder: Path) -> Iterator[Failed]:
    case = result.case
    written = {number: replay.write(folder, suite, case, number) for number in {one.step for one in result.failures}}
    for failure in result.failures:
        probe, flow, manifests = failure.probe, failure.flow, written[failure.step]
        yield Failed(
            suite=suite.name,
            case=case.id,
            title=case.title or ", ".join(case.tags),
            reading=result.reading,
            step=failure.step,
            source=probe.source if probe else "",
            source_address=flow.source if flow else "",
            destination=probe.destination if probe else "",
            destination_address=flow.destination if flow else "",
            port=f"{probe.port}/{probe.protocol}" if probe else "",
            expected=probe.expected if probe else "",
            found=failure.found,
            manifests=str(manifests),
            explain=replay.command(manifests, suite.nodes[0].name, failure),
        )
