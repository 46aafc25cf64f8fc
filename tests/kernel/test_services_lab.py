"""Connections to a Service: policies see the endpoint (after DNAT) and the client (before masquerade)."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

import pytest

from nfagent.lab.probes.listeners import pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology import ip_commands, netns
from nfagent.lab.topology.plan import Attachment, PodPlan, grid
from nfagent.model.netaddr import FAMILIES, Family, family_of
from tests.support.kube_proxy_rules import ProxiedService, proxying
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
)

pytestmark = pytest.mark.kernel

Transport: TypeAlias = Literal["tcp", "udp"]

TRANSPORTS: tuple[Transport, Transport] = ("tcp", "udp")
NODES, _, OUTSIDE = grid()
PODS = tuple(
    PodPlan("shop", name, f"n{node}", (f"10.244.{node}.{last}", f"2001:db8:244:{node}::{last}"))
    for name, node, last in (("web", 1, 10), ("near", 1, 11), ("far", 2, 11))
)
PORT, TARGET, LOCAL_PORT, CLUSTER_PORT = 80, 8080, 30080, 30081
SERVICE: dict[Family, str] = {4: "10.96.0.10", 6: "2001:db8:96::10"}
LOCAL_SERVICE: dict[Family, str] = {4: "10.96.0.11", 6: "2001:db8:96::11"}
WEB = {"matchLabels": {"pod": "web"}}
CLIENTS = {"matchExpressions": [{"key": "pod", "operator": "In", "values": ["near", "far"]}]}


def address(addresses: Iterable[str], family: Family) -> str:
    return next(found for found in addresses if family_of(found) == family)


def services() -> Iterator[ProxiedService]:
    """Yield Services of shop/web with node ports, of both external traffic policies."""
    for family, protocol in itertools.product(FAMILIES, TRANSPORTS):
        web = ((address(PODS[0].addresses, family), TARGET),)
        yield ProxiedService(SERVICE[family], PORT, protocol, web, CLUSTER_PORT)
        yield ProxiedService(LOCAL_SERVICE[family], PORT, protocol, web, LOCAL_PORT, "Local")


@pytest.fixture(scope="module", params=["routed", "bridge"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    attachment: Attachment = request.param
    nodes, _, _ = grid(attachment)
    web = [{"containerPort": TARGET, "name": "http", "protocol": protocol.upper()} for protocol in TRANSPORTS]
    documents = [namespace_document("shop"), *(pod_document(pod, ports=web) for pod in PODS)]
    with running_lab(tmp_path_factory.mktemp("lab"), nodes, PODS, OUTSIDE, documents) as running:
        running.servers.listen(pod_endpoints(running.topology, [(protocol, TARGET) for protocol in TRANSPORTS]))
        if attachment == "bridge":
            reflect(running)
        with proxying(running.topology, tuple(services())):
            yield running


def reflect(lab: ManifestLab) -> None:
    """Set hairpin mode on the bridges' ports, as kubelet did: they send frames back to the same port."""
    for node in NODES:
        name = lab.topology.node_namespace(node.name)
        listed = subprocess.run(
            ["ip", "-n", name, "-json", "link", "show", "master", ip_commands.BRIDGE],
            capture_output=True,
            check=True,
            timeout=20,
        )
        ports = [link["ifname"] for link in json.loads(listed.stdout)]
        netns.ip_batch([f"link set dev {port} type bridge_slave hairpin on" for port in ports], name)


@pytest.fixture(autouse=True)
def _tidy(lab: ManifestLab) -> Iterator[None]:
    yield
    lab.only_cluster()


def calls(source: str, addresses: Iterable[str], port: int) -> list[Probe]:
    """Probe each address by TCP and UDP."""
    return [Probe(source, found, protocol, port) for found in addresses for protocol in TRANSPORTS]


def verdicts(lab: ManifestLab, *, near: bool, far: bool) -> dict[Probe, bool]:
    """Return the calls to the Service of the client on the server's node, and of that on the other one."""
    expected = {"shop/near": near, "shop/far": far}
    return {
        probe: verdict
        for client, verdict in expected.items()
        for probe in calls(lab.pod(client), SERVICE.values(), PORT)
    }


def sources(lab: ManifestLab, probes: Iterable[Probe]) -> set[str | None]:
    """Return the addresses that the server saw; all the probes have to reach it."""
    outcomes = lab.ask(probes, 3.0)
    assert [probe for probe, outcome in outcomes.items() if not outcome.reached] == []
    return {outcome.seen_from for outcome in outcomes.values()}


def ports(number: int | str) -> list[Document]:
    return [{"protocol": protocol.upper(), "port": number} for protocol in TRANSPORTS]


def blocks(addresses: Iterable[str]) -> list[Document]:
    return [{"ipBlock": {"cidr": f"{found}/{128 if ':' in found else 32}"}} for found in addresses]


def closed(*directions: str, pods: Document = WEB) -> Document:
    return policy_document("shop", "closed", podSelector=pods, policyTypes=list(directions or ["Ingress"]))


def ingress(*rules: Document) -> Document:
    return policy_document("shop", "ingress", podSelector=WEB, policyTypes=["Ingress"], ingress=list(rules))


def egress(*rules: Document, pods: Document = CLIENTS) -> Document:
    return policy_document("shop", "egress", podSelector=pods, policyTypes=["Egress"], egress=list(rules))


# ClusterIP


def test_28_without_policies_a_service_is_reached_and_sees_its_clients(lab: ManifestLab) -> None:
    expected = [found for pod in PODS if pod.name != "web" for found in pod.addresses]
    assert sources(lab, verdicts(lab, near=True, far=True)) == set(expected)


@pytest.mark.parametrize("client", ["near", "far"], ids=["one node", "two nodes"])
def test_28_ingress_policies_match_the_client_pod_and_the_target_port(lab: ManifestLab, client: str) -> None:
    peer = {"podSelector": {"matchLabels": {"pod": client}}}
    lab.apply("policy", ingress({"from": [peer], "ports": ports(TARGET)}))
    assert lab.wrong(verdicts(lab, near=client == "near", far=client == "far")) == []


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        pytest.param({"ports": ports(TARGET)}, True, id="the target port counts"),
        pytest.param({"ports": ports("http")}, True, id="the target port's name counts"),
        pytest.param({"ports": ports(PORT)}, False, id="the Service's port has no effect"),
        pytest.param({"from": blocks(SERVICE.values())}, False, id="the Service's address matches no peer"),
        pytest.param({"from": blocks(NODES[1].addresses)}, False, id="a client's node is not the client"),
    ],
)
def test_28_ingress_policies_match_the_port_after_dnat(lab: ManifestLab, rule: Document, *, allowed: bool) -> None:
    lab.apply("policy", ingress(rule))
    assert lab.wrong(verdicts(lab, near=allowed, far=allowed)) == []


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        pytest.param({"to": [{"podSelector": WEB}], "ports": ports(TARGET)}, True, id="Pod and target port count"),
        pytest.param({"to": blocks(PODS[0].addresses), "ports": ports(TARGET)}, True, id="the Pod's address counts"),
        pytest.param({"to": [{"podSelector": WEB}], "ports": ports("http")}, True, id="the target port's name counts"),
        pytest.param({"to": [{"podSelector": WEB}], "ports": ports(PORT)}, False, id="the Service's port: no effect"),
        pytest.param({"to": blocks(SERVICE.values())}, False, id="the Service's address: no effect"),
        pytest.param({"to": [{"podSelector": CLIENTS}]}, False, id="other Pods do not count"),
    ],
)
def test_28_egress_policies_match_the_destination_after_dnat(
    lab: ManifestLab, rule: Document, *, allowed: bool
) -> None:
    lab.apply("policy", egress(rule))
    assert lab.wrong(verdicts(lab, near=allowed, far=allowed)) == []


def test_28_egress_and_ingress_must_both_allow_a_connection(lab: ManifestLab) -> None:
    near = {"from": [{"podSelector": {"matchLabels": {"pod": "near"}}}], "ports": ports(TARGET)}
    lab.apply("policy", ingress(near), egress({"to": [{"podSelector": WEB}], "ports": ports(TARGET)}))
    assert lab.wrong(verdicts(lab, near=True, far=False)) == []


def test_28_a_node_reaches_its_own_pods_through_a_service_but_no_other_isolated_pods(lab: ManifestLab) -> None:
    lab.apply("policy", closed("Ingress", "Egress"))
    expected = {
        probe: node.name == "n1"
        for node in NODES
        for probe in calls(lab.topology.node_namespace(node.name), SERVICE.values(), PORT)
    }
    assert lab.wrong(expected) == []


def test_28_egress_to_a_node_port_matches_the_endpoint(lab: ManifestLab) -> None:
    own = calls(lab.pod("shop/near"), NODES[0].addresses, CLUSTER_PORT)
    lab.apply("policy", egress({"to": blocks(NODES[0].addresses)}))
    assert lab.wrong(dict.fromkeys(own, False)) == []
    lab.apply("policy", egress({"to": [{"podSelector": WEB}], "ports": ports(TARGET)}))
    assert lab.wrong(dict.fromkeys(own, True)) == []


# NodePort


def from_outside(lab: ManifestLab, node: int, port: int) -> list[Probe]:
    return calls(lab.topology.outside_namespace("outside"), NODES[node - 1].addresses, port)


def test_30_cluster_policy_a_client_that_enters_at_another_node_has_that_node_s_address(lab: ManifestLab) -> None:
    through = from_outside(lab, 2, CLUSTER_PORT)
    assert sources(lab, through) == set(NODES[1].addresses)
    lab.apply("policy", ingress({"from": blocks(OUTSIDE[0].addresses)}))
    assert lab.wrong(dict.fromkeys(through, False)) == []
    lab.apply("policy", ingress({"from": blocks(NODES[1].addresses), "ports": ports(TARGET)}))
    assert lab.wrong(dict.fromkeys(through, True)) == []


def test_30_policy_cluster_a_client_at_the_servers_node_meets_policies_before_masquerade(
    lab: ManifestLab,
) -> None:
    through = from_outside(lab, 1, CLUSTER_PORT)
    web = lab.topology.pods["shop", "web"]
    assert sources(lab, through).isdisjoint((*OUTSIDE[0].addresses, *web.addresses))
    lab.apply("policy", ingress({"from": blocks(OUTSIDE[0].addresses), "ports": ports(TARGET)}))
    assert lab.wrong(dict.fromkeys(through, True)) == []
    lab.apply("policy", ingress({"from": blocks(NODES[0].addresses)}))
    assert lab.wrong(dict.fromkeys(through, False)) == []


def test_30_local_policy_keeps_the_client_s_address(lab: ManifestLab) -> None:
    through = from_outside(lab, 1, LOCAL_PORT)
    assert sources(lab, through) == set(OUTSIDE[0].addresses)
    lab.apply("policy", ingress({"from": blocks(OUTSIDE[0].addresses), "ports": ports(TARGET)}))
    assert lab.wrong(dict.fromkeys(through, True)) == []
    lab.apply("policy", ingress({"from": blocks(OUTSIDE[0].addresses), "ports": ports(LOCAL_PORT)}))
    assert lab.wrong(dict.fromkeys(through, False)) == []
    lab.apply("policy", ingress({"from": blocks(node for plan in NODES for node in plan.addresses)}))
    assert lab.wrong(dict.fromkeys(through, False)) == []


def test_30_under_deny_all_no_node_s_port_leads_to_the_pod_but_the_node_itself(lab: ManifestLab) -> None:
    """That a node always reaches its own Pods is said of what it sends, not of what it passes on."""
    lab.apply("policy", closed())
    arriving = [probe for node in (1, 2) for probe in from_outside(lab, node, CLUSTER_PORT)]
    arriving += from_outside(lab, 1, LOCAL_PORT)
    arriving += calls(lab.topology.node_namespace("n2"), NODES[1].addresses, CLUSTER_PORT)
    own = calls(lab.topology.node_namespace("n1"), NODES[0].addresses, CLUSTER_PORT)
    assert lab.wrong(dict.fromkeys(arriving, False) | dict.fromkeys(own, True)) == []


# Hairpin


def to_itself(lab: ManifestLab) -> list[Probe]:
    return calls(lab.pod("shop/web"), SERVICE.values(), PORT)


ITSELF = {"podSelector": WEB}
OTHERS = {"podSelector": CLIENTS}


def test_29_a_pod_reaches_itself_through_its_service_and_sees_another_address(lab: ManifestLab) -> None:
    seen = sources(lab, to_itself(lab))
    assert len(seen) == len(FAMILIES)
    assert seen.isdisjoint(lab.topology.pods["shop", "web"].addresses)


@pytest.mark.parametrize(
    ("policies", "allowed"),
    [
        pytest.param([ingress({"from": [OTHERS]})], False, id="ingress from others only"),
        pytest.param([ingress({"from": [ITSELF], "ports": ports(TARGET)})], True, id="ingress from itself"),
        pytest.param([ingress({"from": [ITSELF], "ports": ports(PORT)})], False, id="ingress at the Service's port"),
        pytest.param(
            [ingress({"from": blocks(a for node in NODES for a in node.addresses)})],
            False,
            id="ingress from the nodes, one of whose addresses it gets",
        ),
        pytest.param([egress({"to": [OTHERS]}, pods=WEB)], False, id="egress to others only"),
        pytest.param([egress({"to": [ITSELF], "ports": ports(TARGET)}, pods=WEB)], True, id="egress to itself"),
        pytest.param([egress({"to": blocks(SERVICE.values())}, pods=WEB)], False, id="egress to the Service"),
        pytest.param([egress({"to": [ITSELF]}, pods=WEB), closed()], False, id="egress to itself, no ingress"),
        pytest.param([egress({"to": [ITSELF]}, pods=WEB), ingress({"from": [ITSELF]})], True, id="egress and ingress"),
    ],
)
def test_29_hairpin_traffic_meets_the_pods_egress_and_ingress_policies(
    lab: ManifestLab, policies: list[Document], *, allowed: bool
) -> None:
    lab.apply("policy", *policies)
    assert lab.wrong(dict.fromkeys(to_itself(lab), allowed)) == []


def test_29_policies_never_apply_to_a_pods_own_address(lab: ManifestLab) -> None:
    lab.apply("policy", closed("Ingress", "Egress"))
    own = calls(lab.pod("shop/web"), lab.topology.pods["shop", "web"].addresses, TARGET)
    assert lab.wrong(dict.fromkeys(own, True)) == []
