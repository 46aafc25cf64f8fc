"""The recorded suites with real packets, through rules of iptables and ipset.

Set NFAGENT_CONFORMANCE_CASES=all to send the packets of every case.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.lab.topology.plan import Attachment
from tests.conformance import load_conformance, small
from tests.conformance.cover import cover
from tests.conformance.packets import ConformanceLab
from tests.conformance.suites import NAMES, Case, Node, Suite, read
from tests.support.xtables_cluster import XtablesCluster

pytestmark = pytest.mark.kernel

SMALL = read("small", small.content())
SUITES = [read(name, load_conformance(f"{name}.json")) for name in NAMES]
WHOLE = os.environ.get("NFAGENT_CONFORMANCE_CASES") == "all"


class XtablesLab(ConformanceLab):
    """A lab whose nodes have rules of iptables."""

    def __init__(self, nodes: tuple[Node, ...], attachment: Attachment, folder: Path) -> None:
        super().__init__(nodes, attachment, folder)
        self._cluster = XtablesCluster(self._fabric, folder / "manifests")


@pytest.fixture(scope="module", params=["routed", "bridge"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConformanceLab]:
    with XtablesLab(SMALL.nodes, request.param, tmp_path_factory.mktemp("lab")).running() as running:
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
