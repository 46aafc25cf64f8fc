"""The same questions over and over, while something happens that must change none of the answers.

with Vigil(servers, {probe: True, other: False}) as vigil:
    plane.kill()
    vigil.wait_for(10)          # rounds
assert vigil.wrong == []
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from nfagent.errors import KernelError
from nfagent.lab.listeners import Listeners
from nfagent.lab.probe import Probe, run_probes

_DEADLINE = 0.4
_LATE = 3.0
_PATIENCE = 60.0


class ContinuousProbe:
    """Asks in a thread of its own; a context manager that has ended it after.

    asked: probes that were sent so far
    wrong: those that ended otherwise than expected, in words. One that should have been answered and wasn't gets a
           second, longer try: what a busy machine answers late is no verdict
    """

    def __init__(self, servers: Listeners, expected: Mapping[Probe, bool]) -> None:
        """Plan it: expected says of each probe whether it must be answered."""
        self.asked = 0
        self.wrong: list[str] = []
        self._servers = servers
        self._expected = dict(expected)
        self._rounds = 0
        self._round = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lab vigil", daemon=True)

    def __enter__(self) -> Self:
        """Begin, and return after the first round."""
        self._thread.start()
        self.wait_for(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End after the round that is under way."""
        self._stop.set()
        self._thread.join()

    def wait_for(self, rounds: int) -> None:
        """Return when so many more rounds are over. Raises KernelError when none is for a minute."""
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
            # A packet that arrived was let pass, whatever became of its answer.
            passed = outcome.reached or (not allowed and outcome.seen_from is not None)
            if passed != allowed:
                found = "passed" if passed else outcome.error or "no answer"
                self.wrong.append(f"{probe.source} -> {probe.destination} {probe.port}/{probe.protocol}: {found}")
