"""The fuzzer with packets: a few histories with fixed seeds, and a fault that only packets show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.desired.state import DesiredState
from nfagent.lab.topology_plan import NodePlan, PodPlan
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.policy.evaluator import Flow
from tests.fuzz.case import Case, Change, Document, Finding, Question, Step, Way, step_of
from tests.fuzz.folder import read_case
from tests.fuzz.generator import draw_case, file_of, generator
from tests.fuzz.link_scope import PORT, WAYS
from tests.fuzz.oracle_runner import Judges
from tests.fuzz.oracles import Readings
from tests.fuzz.packets import PacketLab
from tests.fuzz.session import Plan, keep
from tests.fuzz.stats import Tally
from tests.properties.objects import NODE_CIDRS
from tests.support.packet_labs import node_document, pod_document, policy_document
from tests.support.two_node_cluster import NODE_ADDRESSES, NODES

pytestmark = pytest.mark.kernel

SEED = 8
STEPS = 4
MOST_CASES = 12


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacketLab]:
    with PacketLab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.mark.parametrize("number", range(2))
def test_evaluate_rules_and_packets_agree(lab: PacketLab, number: int) -> None:
    tally, random = Tally(), generator(SEED, number)
    steps = draw_case(random, steady=True).steps[:STEPS]
    case = Case((*steps[:-1], step_of(steps[-1].changes, "absolve")))
    assert Judges(tally, lab).search(case, random, packets=True) is None
    assert (tally.cases, tally.packet_cases, tally.steps) == (1, 1, len(steps))
    assert tally.probes > 20
    assert tally.again < tally.probes


def put(*documents: Document) -> Step:
    return step_of([Change(file_of(document), document) for document in documents], "absolve")


WORLD = put(
    *(node_document(NodePlan(name, NODE_ADDRESSES[name], NODE_CIDRS[name])) for name in NODES),
    pod_document(PodPlan("shop", "near", "a", ("10.64.0.1",))),
    pod_document(PodPlan("shop", "far", "b", ("10.64.1.1", "2001:db8:0:b::1"))),
)
DENY = put(policy_document("shop", "deny", podSelector={"matchLabels": {"pod": "far"}}, policyTypes=["Ingress"]))
LIFTED = step_of([Change(change.file, None) for change in DENY.changes], "absolve")
LIVING = [
    Flow("10.64.0.1", "10.64.1.1", "tcp", 80),
    Flow("10.64.0.1", "10.64.1.1", "udp", 53),
    Flow("203.0.113.7", "10.64.1.1", "tcp", 8080),
    Flow("fd00::1", "2001:db8:0:b::1", "udp", 80),
]


@pytest.mark.parametrize(
    ("told", "done", "found"),
    [
        (DENY, DENY, None),
        (DENY, put(), {"evaluate": "denied", "packets": "allowed"}),
        (put(), DENY, {"evaluate": "allowed", "packets": "denied"}),
    ],
    ids=["revoked, as it must be", "going on though it is denied", "ended though it is allowed"],
)
def test_a_living_connection_is(lab: PacketLab, told: Step, done: Step, found: dict[str, str] | None) -> None:
    readings = Readings()
    lab.clear()
    readings.take(WORLD)
    lab.take(WORLD)
    lab.make(LIVING)
    assert list(lab.established(readings, 1.0, lone=True)) == []
    readings.take(told)
    lab.take(done)
    findings = list(lab.established(readings, 1.0, lone=True))
    assert [(finding.question, finding.verdicts) for finding in findings] == [
        (Question(flow, "established"), found) for flow in LIVING if found is not None
    ]
    asked = readings.tally.standing
    readings.take(LIFTED)
    lab.take(LIFTED)
    assert list(lab.established(readings, 1.0, lone=True)) == []
    # UDP goes on as soon as it may; TCP that has ended is no more.
    assert readings.tally.standing - asked == (2 if done == DENY else 4)


BRIDGED_WORLD = put(
    *(node_document(NodePlan(name, NODE_ADDRESSES[name], NODE_CIDRS[name])) for name in NODES),
    pod_document(PodPlan("shop", "near", "a", ("10.64.0.1", "2001:db8:0:a::1"))),
    pod_document(PodPlan("shop", "far", "a", ("10.64.0.2", "2001:db8:0:a::2"))),
)
CALLS: list[tuple[Flow, Way]] = [(Flow("10.64.0.1", "10.64.0.2", "udp", PORT), way) for way in WAYS[4]] + [
    (Flow("2001:db8:0:a::1", "2001:db8:0:a::2", "udp", PORT), way) for way in WAYS[6]
]


def test_packets_to_link_local_addresses_arrive_only_where_no_pod_is_isolated(tmp_path: Path) -> None:
    readings = Readings()
    with PacketLab(tmp_path, "bridge") as lab:
        readings.take(BRIDGED_WORLD)
        lab.take(BRIDGED_WORLD)
        assert set(lab.arrived(CALLS)) == {call for call in CALLS if ":" not in call[0].source}
        readings.take(DENY)
        lab.take(DENY)
        assert lab.arrived(CALLS) == ()
        assert list(lab.link_scope(readings, CALLS)) == []
    assert readings.tally.link_scope == len(CALLS)


class Deaf(DesiredState):
    """Judges as if there were no NetworkPolicies, which the agents have."""

    def put(self, item: Item) -> bool:
        return not isinstance(item, NetworkPolicy) and super().put(item)


def search(judges: Judges) -> tuple[Case, Finding]:
    """Search case by case, as a run does."""
    for number in range(MOST_CASES):
        random = generator(SEED, number)
        case = draw_case(random, steady=True)
        finding = judges.search(case, random, packets=True)
        if finding is not None:
            return case, finding
    raise AssertionError(f"no finding in {MOST_CASES} cases")


def test_a_fault_that_only_packets_show_is_found_shrunk_and_replayed(lab: PacketLab, tmp_path: Path) -> None:
    judges = Judges(Tally(), lab, Deaf)
    case, finding = search(judges)
    assert finding.verdicts["evaluate"] == finding.verdicts["rules"] != finding.verdicts["packets"]

    plan = Plan(SEED, 0.0, packets=True, build=tmp_path, shrink=4.0)
    found = keep(case, finding, judges, plan, number=0, show=lambda _words: None)
    assert found.repeated
    assert found.documents[1] < found.documents[0]

    small, recorded = read_case(Path(found.folder))
    again = judges.repeat(small, recorded.finding)
    assert again is not None
    assert again.like(finding)
    assert Judges(Tally(), lab).repeat(small, recorded.finding, alike=False) is None
