"""Progress of a latency run: a line for each scenario, and on a terminal what is being done and for how long."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from nfagent.lab.latency.quantiles import latencies, quantile
from nfagent.lab.latency.samples import DataPath, ScenarioName
from nfagent.lab.latency.try_ import Outcome

_MS = 1e3
_MINUTES = 90.0


class Output(Protocol):
    """Writes lines, and a line of progress that the next one replaces (demo_output.DemoOutput)."""

    def text(self, words: str) -> None:
        """Write a line."""
        ...

    def progress(self, words: str) -> None:
        """Replace the line of progress."""
        ...


class LatencyProgress:
    """Reports what a run does, and estimates how long it still takes."""

    def __init__(self, output: Output) -> None:
        """Write to an output."""
        self._output = output
        self._total = self._done = 0.0
        self._spent = 0.0
        self._began = 0.0
        self._doing = ""

    def plan(self, weights: Sequence[float]) -> None:
        """Set the weights of all turns, by scenario."""
        self._total = sum(weights)

    def say(self, words: str) -> None:
        """Note what is being done now."""
        self._doing = words
        self._began = time.monotonic()
        self._output.progress(self._doing)

    def turn(self, weight: float) -> None:
        """Note that a turn of a scenario begins."""
        now = time.monotonic()
        self._spent += now - self._began
        self._began = now
        # The first turns say little.
        known = self._done > 2 * weight
        left = max(0.0, self._spent * (self._total / self._done - 1)) if known else 0.0
        words = f"{left / 60:.0f} min" if left > _MINUTES else f"{left:.0f} s"
        self._output.progress(f"{self._doing}, about {words} left" if known else self._doing)
        self._done += weight

    def series(
        self, policies: int, found: Mapping[tuple[ScenarioName, DataPath], Sequence[Outcome]], disturbed: int
    ) -> None:
        """Write a line for each scenario that was measured."""
        self._output.progress("")
        for scenario in dict.fromkeys(name for name, _ in found):
            paths = {path: outcomes for (name, path), outcomes in found.items() if name == scenario}
            words = "; ".join(f"{path} {_summary(outcomes)}" for path, outcomes in paths.items())
            self._output.text(f"{policies:>6,} policies, {scenario}: {words}")
        if disturbed:
            self._output.text(f"{'':>6}  {disturbed} tries made again: something else than the change decided them")

    def relapses(self, counts: Mapping[DataPath, int]) -> None:
        """Write how often packets met the previous verdict again, so far, where they did."""
        for path, count in counts.items():
            self._output.text(f"{'':>6}  {path}: {count} times so far, packets met the previous verdict again later")


def _summary(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "not measured"
    times = latencies(outcome.latency for outcome in outcomes)
    late = times.count(math.inf)
    if late == len(times):
        return "no packet with the new verdict"
    words = ", ".join(f"p{percent} {_milliseconds(quantile(times, percent))}" for percent in (50, 99))
    return f"{words}, {late} without the new verdict" if late else words


def _milliseconds(latency: float) -> str:
    return "not reached" if latency == math.inf else f"{latency / _MS:.2f} ms"
