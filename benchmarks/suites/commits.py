"""What a transaction costs: events at the largest cluster, and one policy at growing sizes of the node's own table.

    git worktree add ../before v0.1.0
    NFAGENT_BENCH_BEFORE=../before python -m benchmarks --only commits

With an earlier version's checkout, each event is committed by both, in turns: two processes with the same cluster, each
with a table in a network namespace of its own. Without one, this version is measured alone.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks.harness.child_process import ChildProcess
from benchmarks.harness.earlier_checkout import (
    VARIABLE,
    benchmark_environment,
    earlier_checkout,
    has_earlier_checkout,
)
from benchmarks.harness.netlink_traffic import NetlinkTraffic, can_trace, netlink_traffic
from benchmarks.registry import Run, bench
from benchmarks.results import Figure, Row, Target, at_most
from benchmarks.suites.commits_child import EventCosts, LoadedTable
from nfagent.lab.topology import netns

_NOW, _BEFORE = "now", "before"
_CHILD = "benchmarks.suites.commits_child"
_PODS, _QUICK_PODS = 150_000, 1_000
_CHAINS, _QUICK_CHAINS = (50, 200, 700, 2_000), (50, 200)
_FLAT = 1.5
_VALIDATION = "what grows is the kernel's: it validates all reachable chains when a verdict map gets an element"


class _Measured(msgspec.Struct, frozen=True):
    """A stream of events.

    names:        of its events, in turn: created, deleted
    block, count: events of one turn of a version, and in all
    limits:       targets of the first name
    """

    stream: str
    names: tuple[str, ...]
    block: int
    count: int
    limits: tuple[tuple[Figure, float], ...] = ()


_STREAMS = (
    _Measured(
        "policy", ("a policy created that isolates {farm} local Pods", "the policy deleted"), 2, 200, (("p99", 10),)
    ),
    _Measured("Pod", ("a Pod joins or leaves a peer set",), 20, 1_000, (("p50", 1), ("p99", 5))),
    _Measured("label", ("a label change that blocks", "a label change that allows"), 10, 400),
)
_ON_A_TABLE = _Measured("policy", ("created", "deleted"), 2, 100)


class _Version:
    """One version's child process, and the cost of each event so far."""

    def __init__(self, name: str, child: ChildProcess) -> None:
        self.name = name
        self.child = child
        self.loaded = child.receive(LoadedTable)
        self.costs: dict[str, list[EventCosts]] = {}
        self.traffic: NetlinkTraffic | None = None

    def commit(self, stream: str, count: int) -> EventCosts:
        return self.child.request(EventCosts, "events", stream=stream, count=count)

    def of(self, measured: _Measured, place: int, figure: str) -> list[float]:
        """Return a figure of the events with one of the stream's names."""
        values = itertools.chain.from_iterable(getattr(costs, figure) for costs in self.costs[measured.stream])
        return list(itertools.islice(values, place, None, len(measured.names)))

    def shares(self, measured: _Measured) -> str:
        """Return the mean CPU time of an event, the process's own and the kernel's."""
        costs = self.costs[measured.stream]
        events = sum(len(one.took) for one in costs)
        user, system = sum(one.user for one in costs) / events, sum(one.system for one in costs) / events
        return f"{self.name} {user:.2f} ms user, {system:.2f} ms kernel"


@bench("commits", f"events and one policy at growing tables, beside an earlier version's commits: {VARIABLE}=CHECKOUT")
def commits(run: Run) -> Iterator[Row]:
    """Measure the events of a large cluster, then the same policy on growing tables."""
    yield from _events(run, _QUICK_PODS if run.quick else _PODS)
    yield from _tables(run, _QUICK_CHAINS if run.quick else _CHAINS)


def _versions(stack: ExitStack, *arguments: str) -> tuple[_Version, ...]:
    """Start this version's child and, where there is one, the earlier one's, which comes last."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-commits-")))
    environments: dict[str, Mapping[str, str]] = {_NOW: {}}
    if has_earlier_checkout():
        environments[_BEFORE] = benchmark_environment(earlier_checkout(), folder / "packages")
    names = {name: f"{netns.prefix('commits', os.getpid())}{name}" for name in environments}
    stack.callback(netns.remove, list(names.values()))
    netns.make(names.values())
    # Both are started, and then awaited: they read the cluster at the same time.
    children = {
        name: stack.enter_context(
            ChildProcess(
                _CHILD, *arguments, within=["ip", "netns", "exec", names[name]], environment=environments[name]
            )
        )
        for name in environments
    }
    return tuple(_Version(name, child) for name, child in children.items())


def _measure(run: Run, versions: Sequence[_Version], measured: _Measured, what: str) -> None:
    """Let the versions commit the same events, in turns; the first one warms up."""
    blocks = (measured.count // (10 if run.quick else 1)) // measured.block
    for version in versions:
        version.commit(measured.stream, measured.block)
        version.costs[measured.stream] = []
    for turn in range(blocks):
        run.progress(f"{what}, {measured.stream}: {turn * measured.block:,} of {measured.count:,} events")
        for version in versions[:: 1 if turn % 2 else -1]:
            version.costs[measured.stream].append(version.commit(measured.stream, measured.block))


def _events(run: Run, pods: int) -> Iterator[Row]:
    where = f"{pods:,} Pods"
    run.progress(where)
    with ExitStack() as stack:
        versions = _versions(stack, "pods", str(pods), str(run.seed))
        farm = {1_000: 20, 150_000: 100}[pods]
        for measured in _STREAMS:
            _measure(run, versions, measured, where)
            for place, name in enumerate(measured.names):
                targets = [at_most(figure, limit) for figure, limit in measured.limits if pods == _PODS and not place]
                yield from _event_rows(versions, measured, place, f"{name.format(farm=farm)}, {where}", targets)


def _event_rows(
    versions: Sequence[_Version], measured: _Measured, place: int, name: str, targets: Sequence[Target]
) -> Iterator[Row]:
    loaded = versions[0].loaded
    table = f"{loaded.chains} chains, {loaded.sets} sets, {loaded.elements:,} elements"
    took = _row(f"{name}: bytes to commit", versions, measured, place, "took")
    yield msgspec.structs.replace(took, targets=tuple(targets), note=table)
    yield _row(f"{name}: the commit", versions, measured, place, "commit")
    cpu = _row(f"{name}: CPU", versions, measured, place, "cpu")
    shares = "; ".join(version.shares(measured) for version in versions)
    yield cpu if place else msgspec.structs.replace(cpu, note=f"all of its stream: {shares}")


def _row(name: str, versions: Sequence[_Version], measured: _Measured, place: int, figure: str) -> Row:
    values = [version.of(measured, place, figure) for version in versions]
    if len(versions) == 1:
        return Row(name=name, unit="ms", values=values[0])
    return Row(name=name, unit="ms", values=values[0], reference=values[1], reference_name=_BEFORE, paired=True)


def _tables(run: Run, sizes: Sequence[int]) -> Iterator[Row]:
    medians: dict[tuple[str, str], list[float]] = {}
    for size in sizes:
        run.progress(f"a table of {size:,} chains")
        with ExitStack() as stack:
            versions = _versions(stack, "chains", str(size), str(run.seed))
            _measure(run, versions, _ON_A_TABLE, f"{size:,} chains")
            for version in versions if can_trace() else ():
                with netlink_traffic(version.child.pid) as version.traffic:
                    version.commit(_ON_A_TABLE.stream, 2)
        for place, word in enumerate(_ON_A_TABLE.names):
            name = f"a policy {word}, table of {size:,} chains and as many sets"
            commit = _row(f"{name}: the commit", versions, _ON_A_TABLE, place, "commit")
            traffic = "; ".join(_traffic(version.name, version.traffic) for version in versions if version.traffic)
            yield commit if place else msgspec.structs.replace(commit, note=traffic)
            yield _row(f"{name}: CPU", versions, _ON_A_TABLE, place, "cpu")
        for version in versions:
            for place, word in enumerate(_ON_A_TABLE.names):
                values = version.of(_ON_A_TABLE, place, "cpu")
                medians.setdefault((word, version.name), []).append(statistics.median(values))
    for (word, name), values in medians.items():
        yield Row(
            name=f"growth of the CPU of a policy {word} from {sizes[0]:,} to {sizes[-1]:,} chains, {name}",
            unit="times",
            values=[values[-1] / values[0]],
            targets=(at_most("max", _FLAT),) if name == _NOW else (),
            note=_VALIDATION if name == _NOW and word == _ON_A_TABLE.names[0] else "",
        )


def _traffic(name: str, found: NetlinkTraffic) -> str:
    return (
        f"{name}: created and deleted, {found.sent_bytes:,} bytes sent in {found.sent_calls} calls, "
        f"{found.read_bytes:,} read in {found.read_calls}"
    )
