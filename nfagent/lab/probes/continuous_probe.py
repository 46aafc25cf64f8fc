"""Repeats the same probes while an event happens that must not change any verdict.

with ContinuousProbe(listeners, {probe: True, other: False}) as probing:
    plane.kill()
    probing.wait_for(10)          # rounds
assert probing.wrong == []
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from nfagent.errors import KernelError
from nfagent.lab.probes.listeners import Listeners
from nfagent.lab.probes.probe import Probe, run_probes

_DEADLINE = 0.4
_LATE = 3.0
_PATIENCE = 60.0


class ContinuousProbe:
    """Probes in a thread of its own; a context manager that ends the thread.

    asked: number of probes sent so far
    wrong: a line for each probe with another result than expected. A probe that should have been answered and wasn't
           is repeated with a longer deadline: a late answer of a busy machine is no verdict
    """

    def __init__(self, servers: Listeners, expected: Mapping[Probe, bool]) -> None:
        """Plan the probes; expected: whether each must be answered."""
        self.asked = 0
        self.wrong: list[str] = []
        self._servers = servers
        self._expected = dict(expected)
        self._rounds = 0
        self._round = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lab continuous probe", daemon=True)

    def __enter__(self) -> Self:
        """Start, and return after the first round."""
        self._thread.start()
        self.wait_for(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End after the current round."""
        self._stop.set()
        self._thread.join()

    def wait_for(self, rounds: int) -> None:
        """Wait for this many more rounds. Raises KernelError when one takes more than a minute."""
        with self._round:
            end = self._rounds + rounds
            while self._rounds < end:
                if not self._round.wait(_PATIENCE):
                    raise KernelError(f"no round of probes within {_PATIENCE:.0f} s")

    def _watch(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            began = time.monotonic()
            self._ask()
            pause = max(0.0, began + _DEADLINE - time.monotonic())
            with self._round:
                self._rounds += 1
                self._round.notify_all()

    def _ask(self) -> None:
        outcomes = run_probes(self._servers, self._expected, _DEADLINE)
        late = [probe for probe, allowed in self._expected.items() if allowed and not outcomes[probe].reached]
        outcomes |= run_probes(self._servers, late, _LATE) if late else {}
        self.asked += len(self._expected)
        for probe, allowed in self._expected.items():
            outcome = outcomes[probe]
            # A packet that arrived was accepted, even if its answer was lost.
            passed = outcome.reached or (not allowed and outcome.seen_from is not None)
            if passed != allowed:
                found = "passed" if passed else outcome.error or "no answer"
                self.wrong.append(f"{probe.source} -> {probe.destination} {probe.port}/{probe.protocol}: {found}")
