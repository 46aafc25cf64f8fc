"""Recorded cases with real packets, through agents that keep their rules in iptables and ipset.

`test_xtables_conformance_lab.py` has every tag, with rules that are loaded whole; here agents follow the steps of each
case by changes. Set NFAGENT_CONFORMANCE_CASES=all to send the packets of every case.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conformance import load_conformance, small
from tests.conformance.cover import cover
from tests.conformance.packets import ConformanceLab
from tests.conformance.suites import NAMES, Case, Suite, read

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

SMALL = read("small", small.content())
SUITES = [read(name, load_conformance(f"{name}.json")) for name in NAMES]
WHOLE = os.environ.get("NFAGENT_CONFORMANCE_CASES") == "all"
EACH = 3
"""Cases of a suite that are tried, of those that cover every tag."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConformanceLab]:
    with ConformanceLab(SMALL.nodes, "routed", tmp_path_factory.mktemp("lab"), kind="iptables").running() as running:
        yield running


@pytest.mark.parametrize(
    ("suite", "case"),
    [
        pytest.param(suite, case, id=f"{case.id} {', '.join(case.tags)}")
        for suite in (SMALL, *SUITES)
        for case in (suite.cases if WHOLE else cover(suite.cases)[:EACH])
    ],
)
def test_packets_get_the_verdicts_that_the_suite_expects(lab: ConformanceLab, suite: Suite, case: Case) -> None:
    result = lab.judge(suite, case)
    assert result.outcome == "passed", "\n".join(map(str, result.failures[:5]))
