"""A hundred revocations under traffic: no packet passes after the commit, counted at the receivers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import pytest

from benchmarks.data.revocation_scenarios import CHANGES
from benchmarks.registry import Run
from benchmarks.suites.revocations import measure, table
from nfagent.lab.cluster.agents import BACKEND_VARIABLE
from nfagent.lab.demo.output import DemoOutput
from tests.support.session_report import PRINTED

pytestmark = [pytest.mark.kernel, pytest.mark.both_backends(asked=True)]

TIMES = 100


def test_32_no_packet_after_the_commits_of_a_hundred_revocations(
    record_property: Callable[[str, object], None], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BACKEND_VARIABLE, backend)
    outcome = measure(Run(quick=False, progress=lambda _words: None), TIMES)
    found = outcome.revocations
    header, *lines = table(outcome)
    shown = StringIO()
    with redirect_stdout(shown):
        DemoOutput().step(f"{len(found)} revocations")
        DemoOutput().table(header, lines)
    record_property(PRINTED, shown.getvalue())
    assert len(found) == TIMES
    assert {one.kind for one in found} == CHANGES.keys()
    assert [one for one in found if not one.before or one.connections != 4] == [], (
        "every connection was counted before the change"
    )
    assert [one for one in found if one.after] == []
    assert sum(outcome.lost) == 0
