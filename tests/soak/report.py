"""What a run has found: report.json, and a table for people."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from nfagent.lab.demo.output import DemoOutput
from nfagent.lab.latency.quantiles import quantile
from nfagent.lab.topology.plan import Attachment
from tests.fuzz.stats import Counts
from tests.soak.cycles import Churn, Problem
from tests.soak.plan import SPARED, Source
from tests.soak.resources import Sample
from tests.soak.slope import Slope, slope_of
from tests.soak.tables import TableContents

MOST_KIB_PER_HOUR = 512
"""A slope of memory that is no leak, though its confidence interval is above 0: half an hour doesn't show less."""

FILLING_CYCLES = 40
"""Cycles with new histories in which bounded caches fill (docs/soak.md). After fewer, a slope shows nothing else."""

_CONNECTIONS = 50
"""Entries of conntrack more than at first that are no leak: those of the last questions."""

_IDLE = 2
"""Connections to the API server more than at first that are no leak: one stays open for 30 s after a request."""

_POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""Threads more than at first that are no leak: asyncio's pool for calls that block grows to so many, and stays."""


class NodeAtRest(msgspec.Struct, frozen=True):
    """What there is on a node at rest: its tables, and what its agent uses."""

    tables: TableContents
    sample: Sample

    def warmed(self, later: NodeAtRest) -> NodeAtRest:
        """Return it with what an agent uses once it has done everything for the first time."""
        connections = self.sample.connections
        return NodeAtRest(self.tables, msgspec.structs.replace(later.sample, connections=connections))

    def differences(self, other: NodeAtRest, *, whole: bool) -> Iterator[str]:
        """Yield what another moment's is different in.

        whole: compare what needs time to converge as well: descriptors, threads, conntrack, reply tuples
        """
        yield from self.tables.differences(other.tables)
        if not whole:
            return
        if other.sample.descriptors != self.sample.descriptors:
            yield f"{other.sample.descriptors} descriptors, {self.sample.descriptors} at first"
        if other.sample.server > self.sample.server + _IDLE:
            yield f"{other.sample.server} connections to the API server, {self.sample.server} at first"
        if other.sample.threads > self.sample.threads + _POOL_THREADS:
            yield f"{other.sample.threads} threads, {self.sample.threads} at first"
        if other.tables.reply_tuples > self.tables.reply_tuples:
            yield f"{other.tables.reply_tuples} reply tuples, {self.tables.reply_tuples} at first"
        if other.sample.connections > self.sample.connections + _CONNECTIONS:
            yield f"{other.sample.connections} conntrack entries, {self.sample.connections} at first"


class SoakReport(msgspec.Struct, frozen=True):
    """A run, as report.json has it.

    minutes:     how long it took
    histories:   number of different histories: those of the first half are repeated in the second
    first, last: node -> what there was at rest at the begin, for what agents use after the first cycle; at the end
    slope:       of the resident memory of the spared node's agent at rest, in KiB an hour, over the second half of the
                 run; None where there are too few cycles
    blocks:      the same of the blocks of memory that its objects use: where these are flat and the memory is not,
                 what grows is free memory between objects
    anonymous:   the same of memory without files' content, in KiB an hour
    """

    seed: int
    minutes: float
    attachment: Attachment
    churn: Churn
    counts: Counts
    problems: list[Problem]
    first: dict[str, NodeAtRest]
    last: dict[str, NodeAtRest]
    slope: Slope | None
    source: Source = "folder"
    histories: int = 0
    blocks: Slope | None = None
    anonymous: Slope | None = None

    @property
    def judges_memory(self) -> bool:
        """Whether the slope says something: caches were full when it began."""
        return self.slope is not None and self.histories >= FILLING_CYCLES

    @property
    def leaks(self) -> bool:
        """Whether memory grows: the confidence interval is above 0, and the slope above what is negligible."""
        slope = self.slope
        return slope is not None and self.judges_memory and slope.low > 0 and slope.value > MOST_KIB_PER_HOUR

    @property
    def as_expected(self) -> bool:
        """Whether there is no problem, and memory doesn't grow."""
        return not self.problems and not self.leaks

    @property
    def answers(self) -> int:
        """The number of packets' answers that were compared with the evaluator's."""
        return self.counts.probes + self.counts.long_lived + self.counts.link_scope + self.churn.translated


def slope_at_rest(at_rest: Sequence[Sample], name: Literal["rss", "anonymous", "blocks"]) -> Slope | None:
    """Return the slope of what an agent at rest uses, an hour, over the second half of its samples.

    Of the process that lives at the end: after a restart, memory starts anew.
    """
    return slope_of([(each.seconds / 3600, getattr(each, name)) for each in _second_half(at_rest)])


def _second_half(at_rest: Sequence[Sample]) -> list[Sample]:
    lived = [each for each in at_rest if each.pid == at_rest[-1].pid]
    return [each for each in lived if each.seconds >= (lived[0].seconds + lived[-1].seconds) / 2]


def show_report(output: DemoOutput, report: SoakReport, folder: str) -> None:
    """Show the figures, and the problems."""
    output.progress("")
    churn, counts = report.churn, report.counts
    output.table(
        ("WHAT HAPPENED", "TIMES", "HEALED IN (P50)", "(MAX)"),
        [
            ("documents written or deleted", f"{churn.documents:,}"),
            ("network namespaces and links of Pods made anew", f"{churn.links:,}"),
            *(
                (name, f"{len(times):,}", f"{quantile(sorted(times), 50):.3f} s", f"{max(times):.3f} s")
                for name, times in sorted(churn.healed.items())
            ),
        ],
    )
    output.text("")
    output.table(
        ("ANSWERS OF PACKETS COMPARED WITH THE EVALUATOR'S", "", ""),
        [
            ("first packets", f"{counts.probes:,}"),
            ("packets of long-lived connections", f"{counts.long_lived:,}"),
            ("packets to addresses of the link", f"{counts.link_scope:,}"),
            ("source addresses outside", f"{churn.translated:,}"),
        ],
    )
    output.text("")
    output.table(("AT REST", "NODE", "FIRST", "LAST"), list(_rest_rows(report)))
    output.text("")
    output.text(_slope_text("memory", "KiB/h", report.slope))
    output.text(_slope_text("of it, memory without files' content", "KiB/h", report.anonymous))
    output.text(_slope_text("blocks in use", "an hour", report.blocks))
    if report.slope is not None and not report.judges_memory:
        output.text(
            f"memory isn't judged: caches fill in the first {FILLING_CYCLES} cycles, and the slope begins after "
            f"{report.histories}; run longer, with MINUTES="
        )
    for problem in report.problems[:20]:
        output.fail(
            f"cycle {problem.cycle}, step {problem.step}: {problem.kind}: {problem.words} {problem.fault}".rstrip()
        )
    for cycle in dict.fromkeys(problem.cycle for problem in report.problems):
        output.text(
            f"again: make soak SEED={report.seed} CYCLE={cycle} ATTACHMENT={report.attachment} SOURCE={report.source}"
        )
    output.text(f"report: {folder}/report.json, samples: {folder}/samples.jsonl")
    wrong = sum(problem.kind in {"verdict", "source address"} for problem in report.problems)
    cycles = f"{churn.cycles:,} cycles of {report.histories:,} histories"
    done = f"{report.minutes:.1f} minutes, {cycles}, {churn.steps:,} steps"
    output.summary(
        f"{done}; {wrong} wrong of {report.answers:,} answers; seed {report.seed}; {report.attachment} Pods; "
        f"{report.source}",
        as_expected=report.as_expected,
    )


def _rest_rows(report: SoakReport) -> Iterator[tuple[str, ...]]:
    for node in report.first:
        pair = report.first[node], report.last.get(node, report.first[node])
        for name in ("chains", "sets", "counters"):
            yield (name, node, *(str(len(getattr(each.tables, name))) for each in pair))
        for name in ("elements", "reply_tuples"):
            yield (name.replace("_", " "), node, *(str(getattr(each.tables, name)) for each in pair))
        for name, words, unit in (
            ("rss", "resident memory of the agent", " KiB"),
            ("anonymous", "of it without files' content", " KiB"),
            ("blocks", "blocks of memory in use by its objects", ""),
            ("descriptors", "descriptors", ""),
            ("server", "connections to the API server", ""),
            ("threads", "threads", ""),
            ("connections", "conntrack entries", ""),
            ("log", "log folder", " bytes"),
            ("state", "state folder", " bytes"),
        ):
            yield (words, node, *(f"{getattr(each.sample, name):,}{unit}" for each in pair))


def _slope_text(what: str, unit: str, found: Slope | None) -> str:
    if found is None:
        return f"{what}: too few cycles for a slope"
    return (
        f"{what} of the agent of node {SPARED} at rest, second half of the run: {found.value:+.0f} {unit} "
        f"(95 %: {found.low:+.0f} to {found.high:+.0f}; {found.points} cycles)"
    )
