"""When the rules of other programs that log to the verdict log's group are looked for, and what is reported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from nfagent.errors import KernelError
from nfagent.kernel.log_group_watch import LogGroupWatch
from nfagent.nftables.foreign_logs import LogUse

RULE = LogUse("table ip router, chain c", "handle 2")


class Script:
    """Time that passes with waits, rules and records of others; ends the watch after the last step."""

    def __init__(self, *steps: Callable[[Script], object]) -> None:
        self.now = 0.0
        self.foreign = 0
        self.rules: list[LogUse] = []
        self.failure = ""
        self.readings: list[float] = []
        self.problems: list[str] = []
        self._steps = list(steps)
        self.watch = LogGroupWatch(100, lambda: self.foreign, self, self.read)

    def monotonic(self) -> float:
        return self.now

    async def wait(self, _event: asyncio.Event, seconds: float) -> bool:
        self.problems.append(self.watch.problem)
        if not self._steps:
            raise asyncio.CancelledError
        self._steps.pop(0)(self)
        self.now += seconds
        return False

    def read(self, group: int) -> list[LogUse]:
        assert group == 100
        self.readings.append(self.now)
        if self.failure:
            raise KernelError(self.failure)
        return list(self.rules)

    def run(self) -> Script:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(self.watch.run())
        return self


def nothing(_script: Script) -> None:
    """Let time pass."""


def records(script: Script) -> None:
    """Let another program's records arrive."""
    script.foreign += 3


def rule_is_loaded(script: Script) -> None:
    """Let another program load a rule, and log."""
    script.rules = [RULE]
    records(script)


def rule_is_gone(script: Script) -> None:
    """Let the other program delete its rule."""
    script.rules = []


def test_rules_are_read_at_the_start_and_not_again_without_records_of_others() -> None:
    assert Script(nothing, nothing, nothing).run().readings == [0]


def test_a_rule_that_was_there_before_the_agent_is_reported_before_it_logs() -> None:
    script = Script()
    script.rules = [RULE]
    assert "table ip router, chain c, `handle 2`" in script.run().problems[0]


def test_records_of_others_are_looked_into_at_the_next_poll_and_then_every_ten_minutes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    script = Script(nothing, rule_is_loaded, records, nothing, rule_is_gone, nothing).run()
    assert script.readings == [0, 20, 620, 1220, 1820]
    assert [bool(problem) for problem in script.problems] == [False, False, True, True, True, False, False]
    assert "`handle 2`" in script.watch.problem or script.watch.problem == ""
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"], "each once"


def test_records_whose_rules_cannot_be_found_are_reported_until_no_more_come() -> None:
    script = Script(records, records, nothing).run()
    text = "records of other programs arrive in NFLOG group 100"
    assert [problem.split(";")[0] for problem in script.problems] == ["", text, text, ""]


def test_a_failure_is_logged_once_and_records_are_reported_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(records, records)
    script.failure = "no answer"
    script.run()
    assert "records of other programs arrive" in script.watch.problem
    assert sum("no answer" in record.message for record in caplog.records) == 1
