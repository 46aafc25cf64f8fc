"""What is said about policies with gateways and their groups, and the floating address that a Pod has."""

from __future__ import annotations

import pytest

from nfagent.egress.gateway_status import gateway_status
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.model.egress_nat import EgressNATPolicy
from nfagent.model.objects import ObjectRef
from tests.support.two_node_cluster import Document, TwoNodeCluster, pod

FAR, FAR_V6 = "203.0.113.7", "2001:db8:113::7"
GROUP = ObjectRef("NetworkGatewayGroup", "ops", "gw")
PODS = (pod("shop/web", "a", 10, app="web"), pod("shop/api", "b", 11, app="api"))
LACKS = "NetworkGatewayGroup ops/gw has no usable address of IPv6"
NODE_STATUS = {"conditions": [{"type": "Ready", "status": "False"}]}
NOT_READY = [{"kind": "Node", "metadata": {"name": name}, "status": NODE_STATUS} for name in "ab"]


def group(*addresses: str, **more: object) -> Document:
    spec: Document = {"floatingIPs": list(addresses), **more}
    return {"kind": "NetworkGatewayGroup", "metadata": {"namespace": "ops", "name": "gw"}, "spec": spec}


def bank(*cidrs: str, name: str = "bank", gateway: str = "gw") -> Document:
    reference = {"name": gateway, "namespace": "ops"}
    spec = {"action": "SNAT", "destinations": [{"cidr": cidr} for cidr in cidrs], "gatewayRef": reference}
    return {"kind": "EgressNATPolicy", "metadata": {"name": name}, "spec": spec}


V4, BOTH = bank("203.0.113.0/24"), bank("203.0.113.0/24", "2001:db8:113::/64")
FLOATING = group("192.0.2.10")
FAULTS = [
    pytest.param((V4, FLOATING), "", "", id="all is well"),
    pytest.param((FLOATING,), "", "NotUsed: no EgressNATPolicy names this group", id="a group that nothing names"),
    pytest.param((V4,), f"NoGateway: {GROUP} doesn't exist", "", id="a group that doesn't exist"),
    pytest.param((BOTH, FLOATING), f"NoGateway: {LACKS}", "", id="destinations of a family without an address"),
    pytest.param(
        (V4, group("192.0.2.10", nodeSelector={"egress": "gateway"})),
        f"NoHolder: no Ready Node that {GROUP} selects can hold 192.0.2.10",
        "NoHolder: no Ready Node that nodeSelector egress=gateway matches can hold 192.0.2.10",
        id="no Node matches the selector",
    ),
    pytest.param(
        (V4, FLOATING, *NOT_READY),
        f"NoHolder: no Ready Node that {GROUP} selects can hold 192.0.2.10",
        "NoHolder: no Ready Node can hold 192.0.2.10",
        id="no Node is ready",
    ),
    pytest.param(
        (V4, group("192.0.2.10", "10.64.0.10")),
        "",
        "AddressesNotUsed: 10.64.0.10 is not used: Pod shop/web has it",
        id="an address of a Pod",
    ),
    pytest.param(
        (V4, group("192.168.0.1")),
        f"NoGateway: {GROUP} has no usable address of IPv4",
        "AddressesNotUsed: 192.168.0.1 is not used: Node a has it",
        id="no address but one of a Node",
    ),
]


@pytest.mark.parametrize(("documents", "policy", "gateway"), FAULTS)
def test_faults_are_told_of_policy_and_group(documents: tuple[Document, ...], policy: str, gateway: str) -> None:
    view = TwoNodeCluster(*PODS, *documents).views["a"]
    view.drain_changes()
    status = gateway_status(view.egress, view.gateways)
    said = [status.policy_fault(item) for item in view.egress.policies.values()]
    said += [status.group_fault(item) for item in view.egress.gateways.values()]
    told = [f"{fault.reason}: {fault.text}" for fault in said if fault is not None]
    expected = [text for text in (policy, gateway) if text]
    assert len(told) == len(expected)
    assert all(text.startswith(begin) for text, begin in zip(told, expected, strict=True)), told


def test_a_policy_without_gateway_has_no_fault() -> None:
    view = TwoNodeCluster().views["a"]
    plain = EgressNATPolicy(name="x", action="SNAT")
    assert gateway_status(view.egress, view.gateways).policy_fault(plain) is None


DROPPED = [
    pytest.param((V4,), FAR, f"{GROUP} doesn't exist", id="without a group"),
    pytest.param((BOTH, FLOATING), FAR_V6, LACKS, id="without an address of the family"),
    pytest.param(
        (V4, FLOATING, *NOT_READY),
        FAR,
        f"no Ready Node that {GROUP} selects can hold 192.0.2.10",
        id="without a holder",
    ),
]


@pytest.mark.parametrize("node", ["a", "b"])
def test_every_node_knows_the_floating_address_of_every_pod_and_its_holder(node: str) -> None:
    scene = TwoNodeCluster(*PODS, V4, group("192.0.2.10", "192.0.2.11"))
    view, other = scene.views[node], scene.views["a"]
    view.drain_changes()
    other.drain_changes()
    for item in view.cluster.pods.values():
        found, same = view.translation(item, FAR), other.translation(item, FAR)
        assert (found.kind, found.gateway, found.dropped) == ("gateway", GROUP, "")
        assert found.floating in {"192.0.2.10", "192.0.2.11"}
        assert found.holder == view.gateways.addresses[found.floating].holder != ""
        assert (found.floating, found.holder) == (same.floating, same.holder)


@pytest.mark.parametrize(("documents", "destination", "why"), DROPPED)
def test_packets_are_dropped(documents: tuple[Document, ...], destination: str, why: str) -> None:
    view = TwoNodeCluster(*PODS, *documents).views["a"]
    view.drain_changes()
    found = view.translation(view.cluster.pods["shop", "web"], destination)
    assert (found.kind, found.holder) == ("gateway", "")
    assert found.dropped.startswith(why)


def test_policies_of_two_gateways_for_one_prefix_tie_and_it_is_masqueraded() -> None:
    other = bank("203.0.113.0/24", name="other", gateway="two")
    view = TwoNodeCluster(*PODS, V4, other, FLOATING).views["a"]
    found = view.translation(view.cluster.pods["shop", "web"], FAR)
    assert (found.kind, [ref.name for ref in found.disputed]) == ("node", ["bank", "other"])


def test_nothing_goes_by_a_gateway_where_masquerade_is_off() -> None:
    view = TwoNodeCluster(*PODS, V4, FLOATING, masquerade=MasqueradeSettings(enabled=False)).views["a"]
    assert view.translation(view.cluster.pods["shop", "web"], FAR).kind == "kept"
