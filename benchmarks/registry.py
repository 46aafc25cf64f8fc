"""Registry of suites by name, and the parameters of a run.

    @bench("event-latency", "one Pod joins a peer set: event received to kernel commit")
    def event_latency(run: Run) -> Iterator[Row]:
        run.progress("150,000 Pods")
        yield Row(name="...", unit="ms", values=..., targets=(at_most("p50", 1), at_most("p99", 5)))

A suite raises HostError where the machine lacks something: it is shown as skipped, with that reason, and the rows
that it yielded before count. Its module is listed in `benchmarks.__main__.MODULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from benchmarks.results import Row

SEED = 20_240


class Run(msgspec.Struct, frozen=True):
    """Parameters of a run.

    quick:    fewer rounds and smaller sizes: all suites together take two minutes
    progress: shows the progress of a long measurement on a terminal; never call it while timing
    seed:     of all random choices
    """

    quick: bool
    progress: Callable[[str], None]
    seed: int = SEED


Benchmark = Callable[[Run], Iterable[Row]]


class Bench(msgspec.Struct, frozen=True):
    """A suite: its name for `--only`, what it measures in a sentence, and its function."""

    name: str
    about: str
    function: Benchmark


BENCHES: dict[str, Bench] = {}
"""Every suite whose module was imported, in that order."""


def bench(name: str, about: str) -> Callable[[Benchmark], Benchmark]:
    """Register a suite. Raises ValueError for a name that is taken."""

    def register(function: Benchmark) -> Benchmark:
        if name in BENCHES:
            raise ValueError(f"there is a suite {name!r} already")
        BENCHES[name] = Bench(name, about, function)
        return function

    return register
