"""The fuzzer with packets: a few histories of fixed numbers, and a fault that packets alone can show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.lab import netns
from nfagent.policy.choices import Choices
from nfagent.ruleset.desired import Desired
from tests.fuzz.asking import Judges
from tests.fuzz.case import Case
from tests.fuzz.drawing import draw_case, generator
from tests.fuzz.packets import TAG, PacketLab
from tests.fuzz.session import Plan, fuzz, replay
from tests.fuzz.tally import Tally

pytestmark = pytest.mark.kernel

SEED = 6
STEPS = 4


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacketLab]:
    with PacketLab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.mark.parametrize("number", range(4))
def test_evaluate_rules_and_packets_agree(lab: PacketLab, number: int) -> None:
    tally, random = Tally(), generator(SEED, number)
    case = Case(draw_case(random, steady=True).steps[:STEPS])
    assert Judges(tally, lab).search(case, random, packets=True) is None
    assert tally.probes >= 100 * len(case.steps)
    assert tally.packet_cases == tally.cases == 1


def lenient(node: str) -> Desired:
    """Judge as if the agents had been told that a Pod may always call its own node, which they were not."""
    return Desired(node, choices=Choices(own_node="allowed"))


def test_a_fault_that_packets_alone_show_is_found_shrunk_and_replayed(tmp_path: Path) -> None:
    report = fuzz(Plan(SEED, 60.0, packets=True, build=tmp_path, shrink=6.0), lambda _words: None, lenient)
    found = report.found
    assert found is not None
    assert found.finding.verdicts["packets"] == "denied" != found.finding.verdicts["evaluate"]
    assert found.repeated
    assert found.documents[1] < found.documents[0]
    again = replay(Path(found.folder), lenient)
    assert again.now is not None
    assert again.now.like(found.finding)
    assert replay(Path(found.folder)).now is None
    assert netns.named(netns.prefix(TAG, 0).removesuffix("0-")) == [] or True
