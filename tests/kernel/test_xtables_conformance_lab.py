"""The recorded suites with real packets, through rules of iptables and ipset.

Set NFAGENT_CONFORMANCE_CASES=all to send the packets of every case.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conformance import load_conformance, small
from tests.conformance.cover import cover
from tests.conformance.packets import ConformanceLab
from tests.conformance.suites import NAMES, Case, Suite, read
from tests.support.xtables_cluster import XtablesCluster

pytestmark = pytest.mark.kernel

SMALL = read("small", small.content())
SUITES = [read(name, load_conformance(f"{name}.json")) for name in NAMES]
WHOLE = os.environ.get("NFAGENT_CONFORMANCE_CASES") == "all"


@pytest.fixture(scope="module", params=["routed", "bridge"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConformanceLab]:
    folder = tmp_path_factory.mktemp("lab")
    with ConformanceLab(SMALL.nodes, request.param, folder, enforcers=XtablesCluster).running() as running:
        yield running


@pytest.mark.parametrize(
    ("suite", "case"),
    [
        pytest.param(suite, case, id=f"{case.id} {', '.join(case.tags)}")
        for suite in SUITES
        for case in (suite.cases if WHOLE else cover(suite.cases))
    ],
)
def test_packets_get_the_verdicts_that_the_suite_expects(lab: ConformanceLab, suite: Suite, case: Case) -> None:
    result = lab.judge(suite, case)
    assert result.outcome == "passed", "\n".join(map(str, result.failures[:5]))
