"""Cases that are fit for packets: those whose Nodes and Pods are where the lab has them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fuzz.case import Case, Document, ManifestChange, step_of
from tests.fuzz.generator import draw_case, file_of, generator
from tests.fuzz.packets import fits
from tests.fuzz.topology import AT, FORMS, flows
from tests.properties.objects import NODE_CIDRS
from tests.support.two_node_cluster import NODE_ADDRESSES


def put(document: Document) -> ManifestChange:
    return ManifestChange(file_of(document), document)


def node(name: str, **status: Any) -> ManifestChange:  # noqa: ANN401 - a document's own fields
    addresses = [{"type": "InternalIP", "address": address} for address in NODE_ADDRESSES[name]]
    spec = {"podCIDRs": list(NODE_CIDRS[name])}
    return put({"kind": "Node", "metadata": {"name": name}, "spec": spec, "status": {"addresses": addresses} | status})


def pod(node: str, *addresses: str, **spec: Any) -> ManifestChange:  # noqa: ANN401 - as above
    status = {"podIPs": [{"ip": address} for address in addresses]}
    metadata = {"namespace": "shop", "name": "p1"}
    return put({"kind": "Pod", "metadata": metadata, "spec": {"nodeName": node, **spec}, "status": status})


BOTH = (node("a"), node("b"))

CASES: dict[str, tuple[bool, list[tuple[ManifestChange, ...]]]] = {
    "both Nodes as they are in the lab": (True, [BOTH]),
    "a Pod with an address of its node": (True, [BOTH, (pod("b", "10.64.1.6"),)]),
    "a Pod with an address of another node": (False, [(*BOTH, pod("a", "10.64.1.6"))]),
    "a Pod with an address of no place": (False, [(*BOTH, pod("a", "10.64.0.7"))]),
    "a Pod without a node": (False, [(*BOTH, pod("", "10.64.0.1"))]),
    "a Pod without an address": (True, [(*BOTH, pod("a"))]),
    "a Pod that shares its node's address": (True, [(*BOTH, pod("a", "192.168.0.1", hostNetwork=True))]),
    "a Pod with hostNetwork and an address of its own": (False, [(*BOTH, pod("a", "10.64.0.1", hostNetwork=True))]),
    "a Pod with its node's address and no hostNetwork": (False, [(*BOTH, pod("a", "192.168.0.1"))]),
    "a Node is missing": (False, [(node("a"),)]),
    "a Node comes later": (False, [(node("a"),), (node("b"),)]),
    "a Node goes": (False, [BOTH, (ManifestChange("node-b.yaml", None),)]),
    "a Node loses its addresses": (False, [BOTH, (node("b", addresses=[]),)]),
}


@pytest.mark.parametrize(("shown", "steps"), CASES.values(), ids=CASES)
def test_a_lab_can_run(steps: list[tuple[ManifestChange, ...]], *, shown: bool) -> None:
    assert fits(Case(tuple(step_of(changes, "commit") for changes in steps))) == shown


def test_every_steady_case_is_fit_for_packets() -> None:
    assert all(fits(draw_case(generator(0, number), steady=True)) for number in range(10))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_flows_go_from_every_place_to_every_other_in_both_families(form: tuple[str, int | None]) -> None:
    found = {(AT[flow.source].name, AT[flow.destination].name, ":" in flow.source) for flow in flows(form)}
    assert len(flows(form)) == len(found) == 2 * 15 * 14
    assert {flow.protocol for flow in flows(form)} == ({"icmp", "icmpv6"} if form[0] == "icmp" else {form[0]})
