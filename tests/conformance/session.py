"""A run over some suites: every case by every implementation, with progress."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path

from nfagent.lab.demo.output import DemoOutput
from nfagent.lab.topology import netns
from nfagent.lab.topology.plan import Attachment
from nfagent.model.plurals import counted
from tests.conformance import readings
from tests.conformance.packets import TAG, ConformanceLab, PacketPath, reading_of
from tests.conformance.results import Result
from tests.conformance.show import bar
from tests.conformance.suites import Suite


class Session:
    """The results so far."""

    def __init__(self, stage: DemoOutput, suites: Sequence[Suite]) -> None:
        self._stage = stage
        self._suites = suites
        self._of = sum(len(suite.cases) for suite in suites)
        self._live = sys.stdout.isatty()
        self.results: list[Result] = []

    def judge_by_values(self) -> None:
        """Check every case by `evaluate` and by the interpreted rules."""
        self._stage.step(f"evaluate, and both nodes' rules interpreted: {counted(self._of, 'case')}")
        pairs = (readings.judge(suite, case) for suite in self._suites for case in suite.cases)
        for done, pair in enumerate(pairs, start=1):
            self._note(done, pair)

    def judge_by_packets(self, attachments: Sequence[Attachment], path: PacketPath = "nftables") -> None:
        """Send every case's packets. Raises HostError; nothing is left behind, also after SIGTERM."""
        netns.sweep(TAG)
        before = signal.signal(signal.SIGTERM, _interrupt)
        scratch = Path(tempfile.mkdtemp(prefix="nfagent-conformance-"))
        try:
            for attachment in dict.fromkeys(attachments):
                self._stage.step(f"packets, {reading_of(attachment, path)}: {counted(self._of, 'case')}")
                with contextlib.closing(self._sent(attachment, path, scratch)) as results:
                    for done, result in enumerate(results, start=1):
                        self._note(done, (result,))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            signal.signal(signal.SIGTERM, before)

    def _sent(self, attachment: Attachment, path: PacketPath, scratch: Path) -> Generator[Result, None, None]:
        """Run cases in one lab, and in a new one after a broken step or for other nodes."""
        waiting = deque((suite, case) for suite in self._suites for case in suite.cases)
        while waiting:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            with ConformanceLab(waiting[0][0].nodes, attachment, folder, path).running() as lab:
                sound = True
                while waiting and sound and waiting[0][0].nodes == lab.nodes:
                    result = lab.judge(*waiting.popleft())
                    sound = not result.broken
                    yield result

    def _note(self, done: int, results: Sequence[Result]) -> None:
        """Show where the run is: a bar on a terminal, a line a case elsewhere."""
        self.results += results
        case, failed = results[0].case, [result for result in results if result.failures]
        if failed or not self._live:
            words = self._stage.bad("failed") if failed else "passed"
            names = ", ".join(result.reading for result in failed or results)
            asked = counted(sum(result.asked for result in results), "probe")
            self._stage.progress("")
            self._stage.text(f"{case.id}  {words}  {names}: {asked}")
        self._stage.progress(bar(done, self._of, case.id) if done < self._of else "")


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
