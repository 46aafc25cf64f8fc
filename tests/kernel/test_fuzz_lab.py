"""The fuzzer with packets: a few histories of fixed numbers, and a fault that packets alone can show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.policy.choices import Choices
from nfagent.ruleset.desired import Desired
from tests.fuzz.asking import Judges
from tests.fuzz.case import Case, Finding, step_of
from tests.fuzz.drawing import draw_case, generator
from tests.fuzz.folder import read_case
from tests.fuzz.packets import PacketLab
from tests.fuzz.session import Plan, keep
from tests.fuzz.tally import Tally

pytestmark = pytest.mark.kernel

SEED = 7
STEPS = 4
MOST_CASES = 12


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacketLab]:
    with PacketLab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.mark.parametrize("number", range(3))
def test_evaluate_rules_and_packets_agree(lab: PacketLab, number: int) -> None:
    tally, random = Tally(), generator(SEED, number)
    steps = draw_case(random, steady=True).steps[:STEPS]
    case = Case((*steps[:-1], step_of(steps[-1].changes, "absolve")))
    assert Judges(tally, lab).search(case, random, packets=True) is None
    assert (tally.cases, tally.packet_cases, tally.steps) == (1, 1, len(steps))
    assert tally.probes > 20
    assert tally.again < tally.probes


def lenient(node: str) -> Desired:
    """Judge as if a Pod might always call its own node, which the agents were not told."""
    return Desired(node, choices=Choices(own_node="allowed"))


def search(judges: Judges) -> tuple[Case, Finding]:
    """Search case by case, as a run does."""
    for number in range(MOST_CASES):
        random = generator(SEED, number)
        case = draw_case(random, steady=True)
        finding = judges.search(case, random, packets=True)
        if finding is not None:
            return case, finding
    raise AssertionError(f"no finding in {MOST_CASES} cases")


def test_a_fault_that_packets_alone_show_is_found_shrunk_and_replayed(lab: PacketLab, tmp_path: Path) -> None:
    judges = Judges(Tally(), lab, lenient)
    case, finding = search(judges)
    assert finding.verdicts == {"evaluate": "allowed", "rules": "allowed", "packets": "denied"}

    plan = Plan(SEED, 0.0, packets=True, build=tmp_path, shrink=4.0)
    found = keep(case, finding, judges, plan, number=0, show=lambda _words: None)
    assert found.repeated
    assert found.documents[1] < found.documents[0]

    small, recorded = read_case(Path(found.folder))
    again = judges.repeat(small, recorded.finding)
    assert again is not None
    assert again.like(finding)
    assert Judges(Tally(), lab).repeat(small, recorded.finding, alike=False) is None
