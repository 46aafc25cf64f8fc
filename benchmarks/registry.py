"""Benchmarks by name, and what each is given.

    @bench("event", "one Pod joins a peer set: event received to kernel commit")
    def event(run: Run) -> Iterator[Row]:
        run.progress("150,000 Pods")
        yield Row(name="...", unit="ms", values=..., targets=(at_most("p50", 1), at_most("p99", 5)))

A benchmark raises MachineError for what this machine lacks: it is shown as skipped, with that reason, and the rows
that it gave before count. Its module's name stands in `benchmarks.__main__.MODULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from benchmarks.results import Row

SEED = 20_240


class Run(msgspec.Struct, frozen=True):
    """How this run is to be done.

    quick:    fewer rounds and smaller sizes: all benchmarks together take two minutes
    progress: shows where a long measurement is, on a terminal; never call it inside what is timed
    seed:     for whatever is random
    """

    quick: bool
    progress: Callable[[str], None]
    seed: int = SEED


Benchmark = Callable[[Run], Iterable[Row]]


class Bench(msgspec.Struct, frozen=True):
    """A benchmark, its name for `--only`, and what it measures in a sentence."""

    name: str
    about: str
    function: Benchmark


BENCHES: dict[str, Bench] = {}
"""Every benchmark whose module was imported, in that order."""


def bench(name: str, about: str) -> Callable[[Benchmark], Benchmark]:
    """Register a benchmark. Raises ValueError for a name that is taken."""

    def register(function: Benchmark) -> Benchmark:
        if name in BENCHES:
            raise ValueError(f"there is a benchmark {name!r} already")
        BENCHES[name] = Bench(name, about, function)
        return function

    return register
