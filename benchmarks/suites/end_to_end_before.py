"""Time from an API write to the first packet with the new verdict, and the agent's CPU, beside an earlier version's.

    git worktree add ../before v0.1.0
    NFAGENT_BENCH_BEFORE=../before python -m benchmarks --only end-to-end-before

Each version's agent follows a real API server of its own, in equal labs: a small cluster, and one of 5,000 Pods and
1,000 policies. Each change is made in one lab, and then in the other. A new connection's packet is sent every 0.2 ms.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from benchmarks.harness.earlier_checkout import VARIABLE, earlier_checkout
from benchmarks.harness.paired_labs import BEFORE, CYCLE, NOW, ChangeKind, Scenario, large, small, version_labs
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from benchmarks.suites.end_to_end import Measurement, measured, wait_until_idle
from benchmarks.suites.idle import SIZE
from nfagent.lab.latency.prober import INTERVAL_US

_ROUNDS, _QUICK_ROUNDS = 60, 5
_NET_MS = 2.5
"""Aim for a created policy, from the API server's response to the packet."""


class _Figure(msgspec.Struct, frozen=True):
    """A figure of a change, in ms."""

    name: str
    of: Callable[[Measurement], float]
    changes: tuple[ChangeKind, ...]


_ALL = tuple(change for change, _blocks in CYCLE)
_BLOCKING = tuple(change for change, blocks in CYCLE if blocks)
_FIGURES = (
    _Figure("API write to packet", lambda one: one.fresh, _ALL),
    _Figure("API write to an established connection's last packet", lambda one: one.live, _BLOCKING),
    _Figure("agent's CPU", lambda one: one.cpu, _ALL),
)


@bench("end-to-end-before", f"from an API write to the packet, and CPU, beside an earlier version: {VARIABLE}=CHECKOUT")
def end_to_end_before(run: Run) -> Iterator[Row]:
    """Measure the small cluster, then, unless quick, the large one."""
    earlier = earlier_checkout()
    for scenario in (small(), *(() if run.quick else (large(SIZE, run.seed),))):
        run.progress(f"{scenario.name}: labs")
        load = os.getloadavg()[0]
        with (
            tempfile.TemporaryDirectory(prefix="nfagent-latency-") as folder,
            version_labs(scenario, Path(folder), earlier) as pair,
        ):
            for lab in pair:
                wait_until_idle(lab.pid)
            found = list(measured(pair, scenario, _QUICK_ROUNDS if run.quick else _ROUNDS, run.progress))
        yield from rows(scenario, found, f"load {load:.2f} to {os.getloadavg()[0]:.2f}")


def rows(scenario: Scenario, found: list[Measurement], load: str) -> Iterator[Row]:
    """Yield a cluster's rows, the earlier version's figures as reference."""
    note = f"a packet every {INTERVAL_US / 1e3:g} ms; negative: before the response; {load}"
    for change in _ALL:
        for version in (NOW, BEFORE):
            aimed = change == "policy created" and version == NOW
            yield Row(
                name=f"{scenario.name}, {change}: API server's response to packet, {version}",
                unit="ms",
                values=[one.fresh - (one.answer or 0.0) for one in _of(found, change, version)],
                targets=(at_most("p50", _NET_MS),) if aimed else (),
                note=note if aimed else "",
            )
    for figure in _FIGURES:
        for change in figure.changes:
            ours, theirs = ([figure.of(one) for one in _of(found, change, version)] for version in (NOW, BEFORE))
            yield Row(
                name=f"{scenario.name}, {change}: {figure.name}",
                unit="ms",
                values=ours,
                reference=theirs,
                reference_name=BEFORE,
                paired=True,
            )


def _of(found: list[Measurement], change: ChangeKind, version: str) -> list[Measurement]:
    return [one for one in found if (one.change, one.source) == (change, version)]
