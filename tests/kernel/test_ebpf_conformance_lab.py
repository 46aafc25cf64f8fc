"""The recorded suites over the eBPF path, with real packets: every tag of the cases that it covers, once.

`make conformance BACKEND=ebpf` sends the packets of every covered case.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from nfagent.lab.ebpf import program as ebpf_program
from tests.conformance import small
from tests.conformance.cover import cover
from tests.conformance.packets import ConformanceLab, uncovered
from tests.conformance.suites import Case, Suite, read, recorded
from tests.kernel.test_conformance_lab import (  # noqa: F401 - pytest collects it here too
    test_packets_find_a_verdict_that_is_wrong,
)

pytestmark = pytest.mark.kernel

CYCLONUS = recorded("cyclonus")
TIERS = recorded("tiers-v1alpha2")


ATTACHMENTS = ("routed", "bridge")


@pytest.fixture(scope="module", params=ATTACHMENTS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConformanceLab]:
    if lack := ebpf_program.missing():
        pytest.skip(lack)
    folder = tmp_path_factory.mktemp("lab")
    with ConformanceLab(CYCLONUS.nodes, request.param, folder, "ebpf").running() as running:
        yield running


@pytest.mark.parametrize(
    ("lab", "case"),
    [
        pytest.param(attachment, case, id=f"{attachment}-{case.id} {', '.join(case.tags)}")
        for attachment, case in zip(itertools.cycle(ATTACHMENTS), cover(CYCLONUS.cases), strict=False)
    ],
    indirect=["lab"],
    scope="module",
)
def test_packets_get_the_verdicts_that_the_suite_expects(lab: ConformanceLab, case: Case) -> None:
    result = lab.judge(CYCLONUS, case)
    assert result.outcome == "passed", "\n".join(map(str, result.failures[:5]))


@pytest.mark.parametrize(
    ("suite", "covered"),
    [
        pytest.param(CYCLONUS, 1.0, id="NetworkPolicies: all"),
        pytest.param(TIERS, 0.0, id="policies of the tiers: none"),
    ],
)
def test_the_cases_that_are_covered_are_known(suite: Suite, covered: float) -> None:
    assert sum(not uncovered(suite, case) for case in suite.cases) == covered * len(suite.cases)


def test_a_case_that_is_not_covered_is_not_applicable(lab: ConformanceLab) -> None:
    suite = read("small", small.content())._replace(cases=TIERS.cases[:1], base=TIERS.base, nodes=lab.nodes)
    result = lab.judge(suite, suite.cases[0])
    assert result.outcome == "not applicable"
    assert "the eBPF path doesn't cover the policies of the tiers" in result.aside
