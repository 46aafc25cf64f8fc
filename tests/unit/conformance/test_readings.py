"""Every recorded case by `evaluate`, and by both nodes' rulesets interpreted, against the suite's verdicts."""

from __future__ import annotations

import pytest

from nfagent.model.admin_policy import TierPolicy
from nfagent.model.networkpolicy import NetworkPolicy
from tests.conformance import small
from tests.conformance.readings import decode, judge
from tests.conformance.results import NO_PACKET, NO_VERDICT
from tests.conformance.suites import NAMES, Case, Suite, read, recorded

SUITES = [recorded(name) for name in NAMES]
SMALL = read("small", small.content())


@pytest.mark.parametrize(
    ("suite", "case"),
    [
        pytest.param(suite, case, id=f"{case.id} {', '.join(case.tags)}")
        for suite in (*SUITES, SMALL)
        for case in suite.cases
    ],
)
def test_evaluate_and_rules_give_the_verdicts_that_the_suite_expects(suite: Suite, case: Case) -> None:
    for result in judge(suite, case):
        assert result.outcome == "passed", f"{result.reading}: " + "\n".join(map(str, result.failures[:5]))


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        pytest.param(["11", "10"], "x/a -> x/b 80/tcp (10.64.0.11 -> 10.64.1.11): expected allowed, found denied"),
        pytest.param(["10", "00"], "x/b -> x/a 80/tcp (10.64.1.11 -> 10.64.0.11): expected denied, found allowed"),
    ],
    ids=["one that should pass and doesn't", "one that passes and shouldn't"],
)
def test_both_readings_find_a_verdict_that_is_wrong(rows: list[str], found: str) -> None:
    suite = read("small", small.with_rows(*rows))
    for result in judge(suite, suite.cases[0]):
        assert result.outcome == "failed"
        assert str(result.failures[0]) == f"step 1: {found}"
        assert [failure.step for failure in result.failures] == [1, 1], "once for each family"


def test_probes_that_are_not_checked_are_counted_with_their_reason() -> None:
    first, second = ({result.reading: result for result in judge(SMALL, case)} for case in SMALL.cases)
    assert first["evaluate"].aside == {}
    assert first["rules"].aside == {NO_PACKET: 2 * (2 + 3)}
    assert first["evaluate"].asked == first["rules"].asked + 10 == 2 * (4 + 8)
    assert second["evaluate"].aside == second["rules"].aside == {NO_VERDICT: 1}


@pytest.mark.parametrize(
    ("name", "cases", "policies"), [("cyclonus", 230, 247), ("tiers-v1alpha1", 24, 65), ("tiers-v1alpha2", 24, 65)]
)
def test_every_case_is_here_and_every_policy_is_read_without_fault(name: str, cases: int, policies: int) -> None:
    suite = SUITES[NAMES.index(name)]
    assert len(suite.cases) == cases
    items = [decode(document) for case in suite.cases for step in case.steps for document in step.apply]
    found = [item for item in items if isinstance(item, NetworkPolicy | TierPolicy)]
    assert len(found) == policies
    assert [problem for policy in found for problem in policy.problems] == []
