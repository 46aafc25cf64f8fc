"""Inputs that once opened a Pod, evaluated by the rules of its node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nfagent.desired.state import DesiredState
from nfagent.explain.explanation import explain
from nfagent.model.objects import Pod
from nfagent.policy.evaluator import Flow, evaluate
from tests.support.nft_interpreter import opening, run, seen_at
from tests.support.two_node_cluster import DECODERS

FAULTS = Path(__file__).parents[2] / "faults"


def loaded(name: str, node: str) -> DesiredState:
    view = DesiredState(node)
    for document in json.loads((FAULTS / name / "objs.json").read_text(encoding="utf-8"))["items"]:
        item = DECODERS[document["kind"]](document)
        assert item is not None
        view.put(item)
    return view


def address(view: DesiredState, path: str, family: int) -> str:
    namespace, _, name = path.partition("/")
    pod: Pod = view.cluster.pods[namespace, name]
    return next(found for found in pod.addresses if (":" in found) == (family == 6))


@pytest.mark.parametrize("family", [4, 6])
def test_packets_of_a_load_balancer_on_the_node_with_a_pods_address_meet_the_ingress_policy(family: int) -> None:
    view = loaded("ipvs-and-unknown-node-name", "n2")
    source, destination = address(view, "bug-a/cli", family), address(view, "bug-b/srv", family)
    packet = opening(Flow(source, destination, "tcp", 80))
    assert run(view.ruleset(), "output", packet).counters == ("deny/ingress/bug-b/closed",)
    node = view.cluster.nodes["n2"].addresses[family == 6]
    own = seen_at("output", opening(Flow(node, destination, "tcp", 80)))
    assert run(view.ruleset(), "output", own).accepted


@pytest.mark.parametrize("family", [4, 6])
def test_beside_a_stale_record_of_its_address_a_pod_is_isolated(family: int) -> None:
    view = loaded("stale-record-first-by-name", "n2")
    destination = address(view, "bug-b/srv", family)
    holder = view.cluster.holder(destination)
    assert holder is not None
    assert holder.ref.path == "bug-b/srv"
    for source, passes in (("bug-a/cli", True), ("bug-a/oth", False)):
        flow = Flow(address(view, source, family), destination, "tcp", 80)
        assert run(view.ruleset(), "forward", opening(flow)).accepted == passes
        assert evaluate(view.cluster, view.index.policies.values(), flow).allowed == passes
        told = explain(view.cluster, view.index, source, destination)
        assert told.allowed == passes
        assert any("is shared by bug-b/srv, bug-a/aaa" in line for line in told.lines)
