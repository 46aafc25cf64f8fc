"""What a latency run says of each scenario is what its report says later."""

from __future__ import annotations

import pytest

from nfagent.lab.latency.progress import LatencyProgress
from nfagent.lab.latency.try_ import Outcome


class Lines:
    """Keeps the lines that are written."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def text(self, words: str) -> None:
        self.written.append(words)

    def progress(self, words: str) -> None:
        del words


def outcomes(*milliseconds: float | None) -> list[Outcome]:
    return [Outcome(None if each is None else each * 1e3, None, {}, disturbed=False, gap=0.0) for each in milliseconds]


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        pytest.param(outcomes(), "not measured", id="no try"),
        pytest.param(outcomes(None, None), "no packet with the new verdict", id="no try in time"),
        pytest.param(outcomes(3, 1, 2), "p50 2.00 ms, p99 3.00 ms", id="the middle one and the last"),
        pytest.param(
            outcomes(*range(1, 201)),
            "p50 100.00 ms, p99 198.00 ms",
            id="of 200 the 100th and the 198th, by the nearest rank as in the report",
        ),
        pytest.param(
            outcomes(1, 2, None),
            "p50 2.00 ms, p99 not reached, 1 without the new verdict",
            id="a deadline that passed is longer than every other try",
        ),
    ],
)
def test_a_scenario_is_summed_up_as_its_report_does(measured: list[Outcome], words: str) -> None:
    lines = Lines()
    LatencyProgress(lines).series(100, {("pod-relabelled", "ebpf"): measured}, disturbed=0)
    assert lines.written == [f"   100 policies, pod-relabelled: ebpf {words}"]
