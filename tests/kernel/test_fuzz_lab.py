"""The fuzzer with packets: a few histories with fixed seeds, and a fault that only packets show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.desired.state import DesiredState
from nfagent.kernel.backend_choice import BackendName
from nfagent.lab.topology.plan import NodePlan, PodPlan
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.policy.evaluator import Flow
from tests.fuzz.case import Case, Document, LinkDestination, ManifestChange, Question, Step, step_of
from tests.fuzz.folder import read_case
from tests.fuzz.generator import draw_case, file_of, generator
from tests.fuzz.link_scope import LINK_DESTINATIONS, PORT
from tests.fuzz.oracle_runner import OracleRunner
from tests.fuzz.oracles import Oracles
from tests.fuzz.packets import PacketLab
from tests.fuzz.session import FuzzPlan, keep
from tests.fuzz.stats import Counts
from tests.properties.objects import NODE_CIDRS
from tests.support.fuzz_search import first_finding
from tests.support.packet_labs import node_document, pod_document, policy_document
from tests.support.two_node_cluster import NODE_ADDRESSES, NODES

pytestmark = [pytest.mark.kernel, pytest.mark.both_backends(asked=True)]

SEED = 8
STEPS = 4
MOST_CASES = 12


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, backend: BackendName) -> Iterator[PacketLab]:
    with PacketLab(tmp_path_factory.mktemp("lab"), backend=backend) as running:
        yield running


@pytest.mark.parametrize("number", range(2))
def test_evaluate_rules_and_packets_agree(lab: PacketLab, number: int) -> None:
    counts, random = Counts(), generator(SEED, number)
    steps = draw_case(random, steady=True).steps[:STEPS]
    case = Case((*steps[:-1], step_of(steps[-1].changes, "clear")))
    assert OracleRunner(counts, lab).search(case, random, packets=True) is None
    assert (counts.cases, counts.packet_cases, counts.steps) == (1, 1, len(steps))
    assert counts.probes > 20
    assert counts.again < counts.probes


def put(*documents: Document) -> Step:
    return step_of([ManifestChange(file_of(document), document) for document in documents], "clear")


CLUSTER = put(
    *(node_document(NodePlan(name, NODE_ADDRESSES[name], NODE_CIDRS[name])) for name in NODES),
    pod_document(PodPlan("shop", "near", "a", ("10.64.0.1",))),
    pod_document(PodPlan("shop", "far", "b", ("10.64.1.1", "2001:db8:0:b::1"))),
)
DENY = put(policy_document("shop", "deny", podSelector={"matchLabels": {"pod": "far"}}, policyTypes=["Ingress"]))
LIFTED = step_of([ManifestChange(change.file, None) for change in DENY.changes], "clear")
OPEN_FLOWS = [
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
    ids=["revoked rightly", "open though denied", "ended though allowed"],
)
def test_an_established_connection_is(lab: PacketLab, told: Step, done: Step, found: dict[str, str] | None) -> None:
    oracles = Oracles()
    lab.clear()
    oracles.take(CLUSTER)
    lab.take(CLUSTER)
    lab.make(OPEN_FLOWS)
    assert list(lab.established(oracles, 1.0, lone=True)) == []
    oracles.take(told)
    lab.take(done)
    findings = list(lab.established(oracles, 1.0, lone=True))
    assert [(finding.question, finding.verdicts) for finding in findings] == [
        (Question(flow, "established"), found) for flow in OPEN_FLOWS if found is not None
    ]
    asked = oracles.counts.long_lived
    oracles.take(LIFTED)
    lab.take(LIFTED)
    assert list(lab.established(oracles, 1.0, lone=True)) == []
    # UDP continues as soon as it is allowed; TCP that has ended is closed.
    assert oracles.counts.long_lived - asked == (2 if done == DENY else 4)


BRIDGED_CLUSTER = put(
    *(node_document(NodePlan(name, NODE_ADDRESSES[name], NODE_CIDRS[name])) for name in NODES),
    pod_document(PodPlan("shop", "near", "a", ("10.64.0.1", "2001:db8:0:a::1"))),
    pod_document(PodPlan("shop", "far", "a", ("10.64.0.2", "2001:db8:0:a::2"))),
)
CALLS: list[tuple[Flow, LinkDestination]] = [
    (Flow("10.64.0.1", "10.64.0.2", "udp", PORT), to) for to in LINK_DESTINATIONS[4]
] + [(Flow("2001:db8:0:a::1", "2001:db8:0:a::2", "udp", PORT), to) for to in LINK_DESTINATIONS[6]]


def test_packets_to_link_local_addresses_arrive_only_where_no_pod_is_isolated(
    tmp_path: Path, backend: BackendName
) -> None:
    oracles = Oracles()
    with PacketLab(tmp_path, "bridge", backend=backend) as lab:
        oracles.take(BRIDGED_CLUSTER)
        lab.take(BRIDGED_CLUSTER)
        assert set(lab.arrived(CALLS)) == {call for call in CALLS if ":" not in call[0].source}
        oracles.take(DENY)
        lab.take(DENY)
        assert lab.arrived(CALLS) == ()
        assert list(lab.link_scope(oracles, CALLS)) == []
    assert oracles.counts.link_scope == len(CALLS)


class WithoutPolicies(DesiredState):
    """A desired state without NetworkPolicies, which the agents have."""

    def put(self, item: Item) -> bool:
        return not isinstance(item, NetworkPolicy) and super().put(item)


def test_a_fault_that_only_packets_show_is_found_shrunk_and_replayed(lab: PacketLab, tmp_path: Path) -> None:
    runner = OracleRunner(Counts(), lab, WithoutPolicies)
    case, finding = first_finding(runner, SEED, MOST_CASES, steady=True, packets=True)
    # Which packets show it first depends on the connections that were open: first ones, or established ones.
    assert finding.question is not None
    assert finding.verdicts["packets"] != finding.verdicts["evaluate"]
    assert finding.verdicts.get("rules") == (finding.verdicts["evaluate"] if finding.question.kind == "first" else None)

    plan = FuzzPlan(SEED, 0.0, packets=True, build=tmp_path, shrink=4.0)
    found = keep(case, finding, runner, plan, number=0, show=lambda _words: None)
    assert found.repeated
    assert found.documents[1] < found.documents[0]

    small, recorded = read_case(Path(found.folder))
    again = runner.repeat(small, recorded.finding)
    assert again is not None
    assert again.like(finding)
    assert OracleRunner(Counts(), lab).repeat(small, recorded.finding, alike=False) is None
