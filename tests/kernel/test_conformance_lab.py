"""The recorded suites with real packets, through agents with both backends.

Every tag and support level is there at least once with each backend and with each kind of attachment, both families,
TCP, UDP and SCTP. Set
NFAGENT_CONFORMANCE_CASES=all to send the packets of every case; `make conformance` does so outside of pytest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conformance import small
from tests.conformance.cover import cover
from tests.conformance.packets import ConformanceLab
from tests.conformance.suites import NAMES, Case, Suite, read, recorded

pytestmark = pytest.mark.kernel

SMALL = read("small", small.content())
SUITES = [recorded(name) for name in NAMES]
WHOLE = os.environ.get("NFAGENT_CONFORMANCE_CASES") == "all"


ATTACHMENTS = ("routed", "bridge")
PATHS = ("nftables", "iptables")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((attachment, path), id=f"{path}, {attachment}") for path in PATHS for attachment in ATTACHMENTS
    ],
)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConformanceLab]:
    attachment, path = request.param
    with ConformanceLab(SMALL.nodes, attachment, tmp_path_factory.mktemp("lab"), path).running() as running:
        yield running


def _sent() -> Iterator[tuple[tuple[str, str], Suite, Case]]:
    """Yield each case with its labs: all four, or one of each backend and one of each attachment."""
    for suite in SUITES:
        for number, case in enumerate(suite.cases if WHOLE else cover(suite.cases)):
            for backend, path in enumerate(PATHS):
                chosen = (number + backend) % len(ATTACHMENTS)
                for attachment in ATTACHMENTS if WHOLE else ATTACHMENTS[chosen : chosen + 1]:
                    yield (attachment, path), suite, case


@pytest.mark.parametrize(
    ("lab", "suite", "case"),
    [
        pytest.param((attachment, path), suite, case, id=f"{path}, {attachment}-{case.id} {', '.join(case.tags)}")
        for (attachment, path), suite, case in _sent()
    ],
    indirect=["lab"],
    scope="module",
)
def test_packets_get_the_verdicts_that_the_suite_expects(lab: ConformanceLab, suite: Suite, case: Case) -> None:
    result = lab.judge(suite, case)
    assert result.outcome == "passed", "\n".join(map(str, result.failures[:5]))


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        pytest.param(["11", "10"], "expected allowed, found denied", id="one that should pass and doesn't"),
        pytest.param(["10", "00"], "expected denied, found allowed", id="one that passes and shouldn't"),
    ],
)
def test_packets_find_a_verdict_that_is_wrong(lab: ConformanceLab, rows: list[str], found: str) -> None:
    suite = read("small", small.with_rows(*rows))
    result = lab.judge(suite, suite.cases[0])
    assert result.outcome == "failed"
    assert [failure.step for failure in result.failures] == [1, 1], "once for each family"
    assert all(found in str(failure) for failure in result.failures)


def test_what_is_refused_is_not_denied(lab: ConformanceLab) -> None:
    """Without a listener the answer is a reset: a policy would have dropped the packet."""
    content = small.content()
    content["cases"][1]["steps"][0]["probes"][0] |= {"port": 81, "allowed": False}
    suite = read("small", content)
    result = lab.judge(suite, suite.cases[1])
    assert [failure.found for failure in result.failures] == ["refused: Connection refused"]


def test_a_step_that_fails_is_a_failure_with_its_reason(lab: ConformanceLab) -> None:
    content = small.content()
    content["cases"][0]["steps"][1]["apply"][0]["status"]["podIPs"] = [{"ip": "10.64.1.11"}, {"ip": "2001:db8:0:b::b"}]
    suite = read("small", content)
    result = lab.judge(suite, suite.cases[0])
    assert result.broken
    assert "address '10.64.1.11' is in the lab's plan twice" in str(result.failures[-1])
