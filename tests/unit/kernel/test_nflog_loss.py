"""Packets that are lost before they are read are in the agent's log: when they are lost, and once a minute at most."""

from __future__ import annotations

import pytest

from nfagent.clock import SystemClock
from nfagent.kernel.nflog import NflogSource
from nfagent.kernel.nflog_reader import NflogReader


class SetClock(SystemClock):
    """Shows the time that the test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_loss_is_logged_when_it_grows_and_once_a_minute_at_most(caplog: pytest.LogCaptureFixture) -> None:
    source, clock = NflogSource(100), SetClock()
    reader = NflogReader(source, clock, lambda _packets: None)
    found = []
    for seconds, lost, overruns in ((0, 0, 0), (10, 5, 1), (20, 9, 2), (80, 9, 2), (200, 9, 2), (300, 9, 3)):
        clock.now = float(seconds)
        source.counters.lost, source.counters.overruns = lost, overruns
        reader.report_loss()
        found.append([record.getMessage().split(" since")[0].split("full: ")[1] for record in caplog.records])
        caplog.clear()
    assert found == [[], ["lost=5 overruns=1"], [], ["lost=9 overruns=2"], [], ["lost=9 overruns=3"]]
