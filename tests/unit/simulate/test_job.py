"""Trials step by step: the question as bytes, the answer in parts, and never more than is bounded."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.errors import UsageError
from nfagent.manifests.policy_file_reader import decode_policies
from nfagent.policy.evaluator import Flow
from nfagent.simulate import job
from nfagent.simulate.codec import decode_request, encode_request
from nfagent.simulate.job import SimulationJob, SimulationPart, SimulationRequest, run_in_slices, start_simulation
from nfagent.simulate.policy_files import PolicyFile
from nfagent.simulate.simulation import ObservedFlow
from tests.support.two_node_cluster import TwoNodeCluster, labelled, pod, policy

WALL = PolicyFile(
    "wall.yaml",
    "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: shop, name: wall}, spec: {}}",
)
PODS = tuple(pod(f"shop/p{number}", "a", number, app=f"p{number}") for number in range(10, 16))
ADDRESSES = st.sampled_from(["10.64.0.10", "10.64.0.11", "2001:db8::1", "::"])
FLOWS = st.builds(
    Flow,
    ADDRESSES,
    ADDRESSES,
    st.sampled_from(["tcp", "icmp", "unknown"]),
    st.none() | st.integers(0, 65535),
    st.booleans(),
)
SEEN = st.builds(ObservedFlow, FLOWS, st.integers(1, 10**12), st.text(max_size=9), st.text(max_size=9))
ASKED = st.builds(
    SimulationRequest,
    st.lists(st.builds(PolicyFile, st.text(max_size=9), st.text(max_size=30)), max_size=3).map(tuple),
    st.booleans(),
    st.booleans(),
    st.text(max_size=9),
)


def work(scene: TwoNodeCluster, asked: SimulationRequest, *seen: ObservedFlow) -> SimulationJob:
    view = scene.views["a"]
    given = decode_policies(asked.files)
    simulation = start_simulation(view.cluster, view.index, view.policy_options, given, delete=asked.delete)
    return SimulationJob(simulation, given, asked, seen)


def parts(
    scene: TwoNodeCluster, asked: SimulationRequest, *seen: ObservedFlow, seconds: float = 60.0
) -> list[SimulationPart]:
    return [part for part in run_in_slices(work(scene, asked, *seen), seconds) if part is not None]


@settings(deadline=None, max_examples=50)
@given(ASKED, st.lists(SEEN, max_size=3), st.sampled_from([1, 700]))
def test_a_request_survives_encoding(asked: SimulationRequest, seen: list[ObservedFlow], times: int) -> None:
    arrived, flows = decode_request(encode_request(asked, seen * times))
    assert arrived == asked
    assert list(flows) == seen * times
    assert list(flows) == seen * times, "they can be gone through again"


@given(
    st.binary(max_size=60)
    | st.binary(max_size=60).map(lambda line: encode_request(SimulationRequest(()), ()) + b"\n" + line)
)
def test_any_bytes_are_a_request_or_an_error(body: bytes) -> None:
    with suppress(UsageError):
        asked, flows = decode_request(body)
        assert isinstance(asked, SimulationRequest)
        assert all(isinstance(seen, ObservedFlow) for seen in flows)


@pytest.mark.parametrize(
    "ends", [("10.64.0.10", "nonsense"), ("10.0.0.256", "10.64.0.10"), ("", "")], ids=["to", "from", "both"]
)
def test_a_flow_with_an_invalid_address_is_refused(ends: tuple[str, str]) -> None:
    body = encode_request(SimulationRequest((WALL,)), [ObservedFlow(Flow(*ends, "tcp", 80), 1)])
    with pytest.raises(UsageError, match="is not an IP address"):
        list(decode_request(body)[1])


def test_the_first_part_has_the_total_and_the_last_part_the_result() -> None:
    scene = TwoNodeCluster(*PODS[:2])
    seen = ObservedFlow(scene.flow("outside", "shop/p10", "80/tcp"), 3, "", "shop/p10")
    first, last = parts(scene, SimulationRequest((WALL,), pods=True), seen)
    in_both_families_by_port_and_ping = 2 * 2
    assert (first.total, first.done, first.outcome) == (1 + in_both_families_by_port_and_ping, 0, None)
    assert last.done == first.total
    assert last.outcome is not None
    assert (last.outcome.log.denied, last.outcome.policies) == (1, ("NetworkPolicy shop/wall",))
    assert last.outcome.pods is not None
    assert last.outcome.pods.denied == 2 * in_both_families_by_port_and_ping, "from each of the two Pods to the other"
    assert [change.count for change in last.changes] == [3] + [0] * in_both_families_by_port_and_ping


def test_slices_of_one_step_have_the_same_result() -> None:
    scene = TwoNodeCluster(*PODS)
    asked = SimulationRequest((WALL,), pods=True)
    seen = ObservedFlow(scene.flow("outside", "shop/p10", "80/tcp"), 3)
    whole = parts(scene, asked, seen)
    turns = list(run_in_slices(work(scene, asked, seen), 0.0))
    assert turns.index(None) == 0, "there is no part while planning"
    told = [part for part in turns if part is not None]
    assert len(told) > len(whole[-1].changes)
    assert [change for part in told for change in part.changes] == list(whole[-1].changes)
    assert told[-1].outcome == whole[-1].outcome


def test_parts_survive_encoding() -> None:
    scene = TwoNodeCluster(*PODS, policy("shop/more", labelled(app="p10")))
    for part in parts(scene, SimulationRequest((WALL,), pods=True)):
        assert msgspec.json.decode(msgspec.json.encode(part), type=SimulationPart) == part


def test_too_many_flows_are_refused_before_any_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = TwoNodeCluster(*PODS)
    monkeypatch.setattr(job, "MAX_POD_FLOWS", 3)
    turns = run_in_slices(work(scene, SimulationRequest((WALL,), pods=True)), 60.0)
    with pytest.raises(UsageError, match="more than 3 connections between Pods that policies tell apart") as refused:
        next(turns)
    assert "narrow them with -n NS to those with an end in that namespace, with --pod NS/POD" in str(refused.value)
    monkeypatch.setattr(job, "MAX_POD_FLOWS", 4)
    assert parts(scene, SimulationRequest((WALL,), pods=True))[0].total == 4


def test_the_first_part_has_the_problems_unless_policies_are_deleted() -> None:
    broken = PolicyFile(WALL.name, WALL.text.replace("spec: {}", "spec: {ingress: 1}"))
    scene = TwoNodeCluster(*PODS)
    assert [problem.place for problem in parts(scene, SimulationRequest((broken,)))[0].problems] == ["wall.yaml:1"]
    scene.put(policy("shop/wall"))
    assert parts(scene, SimulationRequest((broken,), delete=True))[0].problems == ()


def test_deleting_a_missing_policy_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no NetworkPolicy shop/wall to remove"):
        work(TwoNodeCluster(*PODS), SimulationRequest((WALL,), delete=True))
