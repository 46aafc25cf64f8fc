"""Issue 5: a hundred revocations under traffic, with counters at the receivers: packets after the commit: 0."""

from __future__ import annotations

import pytest

from benchmarks.circles import CHANGES
from benchmarks.registry import Run
from benchmarks.revocations import measure, table
from nfagent.lab.stage import Stage

pytestmark = pytest.mark.kernel

TIMES = 100


def test_32_no_packet_after_the_commits_of_a_hundred_revocations(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = measure(Run(quick=False, progress=lambda _words: None), TIMES)
    found = outcome.revocations
    header, *lines = table(outcome)
    with capsys.disabled():
        Stage().step(f"{len(found)} revocations")
        Stage().table(header, lines)
    assert len(found) == TIMES
    assert {one.kind for one in found} == CHANGES.keys()
    assert [one for one in found if not one.before or one.connections != 4] == [], "nobody was heard before"
    assert [one for one in found if one.after] == []
    assert sum(outcome.lost) == 0
