"""A cold start's commit: a node's whole ruleset as netlink batches, beside the same as text through libnftables.

    python -m benchmarks --only cold-start

Each load is a process and a network namespace of its own. The same is measured of the agent of an earlier version,
where NFAGENT_BENCH_BEFORE names its checkout.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks.harness.child_process import ChildProcess
from benchmarks.harness.earlier_checkout import benchmark_environment, earlier_checkout, has_earlier_checkout
from benchmarks.harness.netlink_traffic import can_trace, netlink_traffic
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from benchmarks.suites.cold_start_child import LoadCosts, Table, Way

_CHILD = "benchmarks.suites.cold_start_child"
_ROUNDS, _QUICK_ROUNDS = 7, 3
_TABLES = (("pods", 150_000, "10,000 policies, node of 250 Pods"), ("chains", 4_000, "4,000 chains and sets"))
_QUICK_TABLES = (("pods", 1_000, "1,000 policies, node of 50 Pods"),)


class _Loader(msgspec.Struct, frozen=True):
    """A way to load, its child process, and the costs of its loads."""

    name: str
    child: ChildProcess
    way: Way
    costs: list[LoadCosts]


class _Figure(msgspec.Struct, frozen=True):
    """A figure of a load."""

    name: str
    unit: str
    of: Callable[[LoadCosts], float]
    limit: float | None = None


_FIGURES = (
    _Figure("time", "ms", lambda costs: costs.seconds * 1e3, 1.0),
    _Figure("CPU in the process", "ms", lambda costs: costs.user * 1e3),
    _Figure("CPU in the kernel", "ms", lambda costs: costs.system * 1e3),
    _Figure("peak of memory", "MiB", lambda costs: costs.memory, 1.0),
)


@bench("cold-start", "commit of a node's whole ruleset by netlink batches, beside libnftables' text: time, CPU, memory")
def cold_start(run: Run) -> Iterator[Row]:
    """Load each table in all ways, in turns."""
    for kind, size, name in _QUICK_TABLES if run.quick else _TABLES:
        run.progress(name)
        with ExitStack() as stack:
            yield from _table_rows(run, stack, (kind, str(size), str(run.seed)), name)


def _table_rows(run: Run, stack: ExitStack, arguments: tuple[str, str, str], name: str) -> Iterator[Row]:
    child, table = _child(stack, arguments)
    about = f"{table.commands:,} commands: {table.chains:,} chains with {table.rules:,} rules, {table.sets:,} sets"
    loaders = [_Loader("agent", child, "agent", []), _Loader("libnftables' text", child, "libnftables", [])]
    if has_earlier_checkout():
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-cold-start-")))
        earlier, _table = _child(stack, arguments, benchmark_environment(earlier_checkout(), folder / "packages"))
        loaders.append(_Loader("before", earlier, "agent", []))
    yield from _rows(run, loaders, f"load, {name}", f"{about} with {table.elements:,} elements")
    if table.has_encoder:
        encoders = [_Loader("encoder", child, "encoder", []), _Loader("text", child, "text", [])]
        yield from _rows(run, encoders, f"encoding alone, {name}", "nothing is sent to the kernel")


def _child(
    stack: ExitStack, arguments: tuple[str, str, str], environment: Mapping[str, str] | None = None
) -> tuple[ChildProcess, Table]:
    child = stack.enter_context(ChildProcess(_CHILD, *arguments, environment=environment))
    return child, child.receive(Table)


def _rows(run: Run, loaders: list[_Loader], what: str, about: str) -> Iterator[Row]:
    """Measure in turns, after a round that warms up; the first loader is compared with each of the others."""
    rounds = _QUICK_ROUNDS if run.quick else _ROUNDS
    for turn in range(rounds + 1):
        run.progress(f"{what}: round {turn} of {rounds}")
        for loader in loaders[:: 1 if turn % 2 else -1]:
            costs = loader.child.request(LoadCosts, "load", way=loader.way, hold=False)
            if turn:
                loader.costs.append(costs)
    first, *others = loaders
    sends = first.way == "agent"
    for other in others:
        for figure in _FIGURES:
            yield Row(
                name=f"{what}, beside {other.name}: {figure.name}",
                unit=figure.unit,
                values=[figure.of(costs) for costs in first.costs],
                reference=[figure.of(costs) for costs in other.costs],
                reference_name=other.name,
                paired=True,
                targets=() if figure.limit is None or not sends else (at_most("ratio", figure.limit),),
                note=about if figure is _FIGURES[0] and other is others[0] else "",
            )
    yield from _sizes(loaders, what)


def _sizes(loaders: list[_Loader], what: str) -> Iterator[Row]:
    """Yield what is produced and, where something is sent, what strace sees of it."""
    first, second = (loader.costs[-1].size for loader in loaders[:2])
    if first and second:
        yield _size_row(f"{what}: size", first, second, loaders[1].name)
    elif can_trace():
        for other in loaders[1:]:
            traffic = []
            for loader in (loaders[0], other):
                with netlink_traffic(loader.child.pid) as found:
                    loader.child.request(LoadCosts, "load", way=loader.way, hold=True)
                loader.child.release()
                traffic.append(found)
            ours, theirs = traffic
            yield _size_row(
                f"{what}, beside {other.name}: sent to the kernel", ours.sent_bytes, theirs.sent_bytes, other.name
            )
            yield _size_row(
                f"{what}, beside {other.name}: read from the kernel", ours.read_bytes, theirs.read_bytes, other.name
            )


def _size_row(name: str, ours: int, theirs: int, other: str) -> Row:
    return Row(name=name, unit="KiB", values=[ours / 1024], reference=[theirs / 1024], reference_name=other)
