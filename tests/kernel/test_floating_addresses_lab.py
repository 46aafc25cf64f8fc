"""Floating addresses with packets and agents: what an outside host sees of Pods of every node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from nfagent.lab.probes.listeners import Endpoint, pod_endpoints
from nfagent.lab.probes.probe import Probe
from tests.support.egress_labs import (
    FAR,
    FAR_V6,
    NODES,
    PARTNER,
    PARTNER_V6,
    PROTOCOLS,
    gateway_group,
    listen_outside,
    nat_policy,
)
from tests.support.gateway_labs import (
    FLOATING,
    GROUPS,
    OUTSIDE,
    PLAIN,
    PODS,
    await_views,
    dropped,
    expected_holders,
    floating_of,
    gateways,
    group_document,
    held_on,
    labels_of,
    pod_on,
    via,
    views,
    world,
)
from tests.support.packet_labs import ManifestLab, logging_document, policy_document, running_lab, wait_until

pytestmark = pytest.mark.kernel

SELECTED = tuple(pod for pod in PODS if labels_of(pod)["gateway"] in GROUPS)
OF_GROUPS = {pod.name: set(FLOATING[labels_of(pod)["gateway"]]) for pod in SELECTED}
ALL = tuple(address for pair in FLOATING.values() for address in pair)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, (OUTSIDE,), documents=world()[len(NODES) :]) as made:
        listen_outside(made.topology, made.servers, OUTSIDE)
        made.servers.listen(pod_endpoints(made.topology, PROTOCOLS))
        for node in NODES:
            name = made.topology.node_namespace(node.name)
            made.servers.listen(Endpoint(name, address, "tcp", 10250) for address in node.addresses)
        yield made


@pytest.fixture(autouse=True)
def _tidy(lab: ManifestLab) -> Iterator[None]:
    """Begin with the groups and their policies."""
    lab.apply("gateways", *gateways())
    settled(lab, expected_holders(GROUPS))
    yield
    lab.only_cluster()
    settled(lab, {address: set() for address in ALL})


def settled(lab: ManifestLab, wanted: dict[str, set[str]]) -> None:
    """Wait until each address is on the nodes wanted."""
    wait_until(lambda: held_on(lab.topology, wanted) == wanted)


def namespace(lab: ManifestLab, node: str, name: str) -> str:
    return lab.topology.pod_namespace(*pod_on(node, name).key)


def test_the_outside_sees_the_group_s_addresses_from_its_pods_of_every_node(lab: ManifestLab) -> None:
    await_views(lab, OF_GROUPS, SELECTED)


def test_other_pods_and_other_destinations_are_masqueraded(lab: ManifestLab) -> None:
    plain = [pod_on(node.name, PLAIN) for node in NODES]
    assert views(lab, plain) == {pod.name: set(lab.topology.nodes[pod.node].addresses) for pod in plain}
    assert views(lab, SELECTED, (FAR, FAR_V6)) == {
        pod.name: set(lab.topology.nodes[pod.node].addresses) for pod in SELECTED
    }


def test_the_cluster_sees_pod_addresses_whatever_gateways_are_for(lab: ManifestLab) -> None:
    lab.apply("gateways", *gateways(GROUPS[1:]), group_document(GROUPS[0]), via(GROUPS[0], ("0.0.0.0/0", "::/0")))
    for source in (pod_on(node.name, GROUPS[0]) for node in NODES):
        others = [address for pod in PODS if pod != source for address in pod.addresses]
        probes = [Probe(lab.topology.pod_namespace(*source.key), address, "udp", 443) for address in others]
        probes += [
            Probe(lab.topology.pod_namespace(*source.key), address, "tcp", 10250)
            for node in NODES
            for address in node.addresses
        ]
        assert {outcome.seen_from for outcome in lab.ask(probes).values()} == set(source.addresses)
    await_views(lab, {f"{GROUPS[0]}-on-n2": set(FLOATING[GROUPS[0]])}, [pod_on("n2", GROUPS[0])], (FAR, FAR_V6))


def test_pods_of_a_group_of_several_addresses_use_one_of_each_family(lab: ManifestLab) -> None:
    everyone = nat_policy("everyone", "SNAT", (f"{PARTNER}/32", f"{PARTNER_V6}/128"), gateway="kube-system/wide")
    lab.apply("gateways", gateway_group("kube-system/wide", ALL), everyone)
    settled(lab, expected_holders(GROUPS))
    expected = {pod.name: floating_of(pod, ALL) for pod in PODS}
    await_views(lab, expected, PODS)
    assert len(set.union(*expected.values())) == len(ALL), "every address is used"


def test_an_egress_policy_is_judged_on_the_pod_s_node_and_logged_with_the_pod_s_address(lab: ManifestLab) -> None:
    """The Pod is on n2, its floating addresses are on n1."""
    pod = pod_on("n2", "n1")
    isolated = policy_document("pay", "isolated", podSelector={"matchLabels": labels_of(pod)}, policyTypes=["Egress"])
    lab.apply("isolated", isolated, logging_document(allow=False, deny=True))
    assert views(lab, [pod]) == {pod.name: {"nothing"}}

    def denied(node: str) -> set[str]:
        log = lab.cluster.agent(node).verdict_log
        written, _, _ = log.read_text("utf-8").rpartition("\n") if log.exists() else ("", "", "")
        lines = map(json.loads, written.splitlines())
        return {line["connection"]["src_ip"] for line in lines if line["disposition"] == "deny"}

    wait_until(lambda: denied("n2") == set(pod.addresses))
    assert denied("n1") == set()


def test_a_group_that_is_edited_moves_its_pods_and_one_that_is_deleted_drops_their_packets(lab: ManifestLab) -> None:
    spare = {address.replace("::1", "::a1").replace("2.1", "2.2") for address in FLOATING["n2"]}
    pods = [pod_on(node.name, "n2") for node in NODES]
    lab.apply("gateways", *gateways(("n1", "n3")), gateway_group("kube-system/n2", sorted(spare)), via("n2"))
    settled(lab, {address: set() for address in FLOATING["n2"]})
    settled(lab, expected_holders(GROUPS, {"n2": spare}))
    await_views(lab, {pod.name: spare for pod in pods}, pods)

    lab.apply("gateways", *gateways(("n1", "n3")), via("n2"))
    settled(lab, {address: set() for address in spare})
    before = {node.name: dropped(lab, node.name, "no-gateway") for node in NODES}
    assert views(lab, pods) == {pod.name: {"nothing"} for pod in pods}
    assert all(dropped(lab, node, "no-gateway") > count for node, count in before.items())
    others = [pod for pod in SELECTED if pod not in pods]
    await_views(lab, {pod.name: OF_GROUPS[pod.name] for pod in others}, others)


def test_a_family_without_an_address_in_the_group_is_dropped(lab: ManifestLab) -> None:
    ipv4, _ = FLOATING["n1"]
    lab.apply("gateways", gateway_group("kube-system/n1", [ipv4]), via("n1"))
    pods = [pod_on(node.name, "n1") for node in NODES]
    await_views(lab, {pod.name: {ipv4} for pod in pods}, pods, [PARTNER])
    assert views(lab, pods, [PARTNER_V6]) == {pod.name: {"nothing"} for pod in pods}


def test_addresses_that_a_node_or_a_pod_holds_are_not_used(lab: ManifestLab) -> None:
    taken = [NODES[1].addresses[0], pod_on("n3", PLAIN).addresses[1]]
    lab.apply("gateways", gateway_group("kube-system/n1", [*taken, *FLOATING["n1"]]), via("n1"))
    pods = [pod_on(node.name, "n1") for node in NODES]
    await_views(lab, {pod.name: set(FLOATING["n1"]) for pod in pods}, pods)
    assert views(lab, [pod_on("n2", PLAIN)], [FAR]) == {f"{PLAIN}-on-n2": {taken[0]}}
    for node in NODES:
        told = json.dumps(lab.cluster.agent(node.name).ask("/v1/dump/state"))
        assert [address for address in taken if address not in told] == []


def test_a_group_is_held_by_the_nodes_that_its_selector_matches(lab: ManifestLab) -> None:
    lab.apply("cluster", *world())
    lab.apply("gateways", *gateways(("n2", "n3")), group_document("n1", {"node": "n3"}), via("n1"))
    try:
        settled(lab, {address: {"n3"} for address in FLOATING["n1"]})
        await_views(lab, OF_GROUPS, SELECTED)
        lab.apply("gateways", *gateways(("n2", "n3")), group_document("n1", {"node": "nowhere"}), via("n1"))
        settled(lab, {address: set() for address in FLOATING["n1"]})
        pods = [pod_on(node.name, "n1") for node in NODES]
        assert views(lab, pods) == {pod.name: {"nothing"} for pod in pods}
    finally:
        lab.apply("gateways", *gateways())


def test_the_holder_answers_pings_at_its_floating_addresses_and_nothing_else(lab: ManifestLab) -> None:
    node, outside = lab.topology.node_namespace("n1"), lab.topology.outside_namespace("outside")
    own = (*FLOATING["n1"], *NODES[0].addresses)
    lab.servers.listen(Endpoint(node, address, "tcp", 8443) for address in own)
    before = dropped(lab, "n1", "to-gateway")
    expected = {Probe(outside, address, "icmp"): True for address in own}
    expected |= {Probe(outside, address, "tcp", 8443): address in NODES[0].addresses for address in own}
    assert lab.wrong(expected) == []
    assert dropped(lab, "n1", "to-gateway") > before


def test_node_ports_are_not_reached_by_floating_addresses(lab: ManifestLab) -> None:
    """As kube-proxy in its iptables mode, which takes every address of the node."""
    outside, (v4, v6) = lab.topology.outside_namespace("outside"), pod_on("n1", PLAIN).addresses
    rules = (
        "table inet node-ports { chain services { type nat hook prerouting priority dstnat; "
        f"fib daddr type local tcp dport 30080 meta nfproto ipv4 dnat ip to {v4}:443; "
        f"fib daddr type local tcp dport 30080 meta nfproto ipv6 dnat ip6 to [{v6}]:443; }}\n}}"
    )
    probes = {Probe(outside, address, "tcp", 30080): True for address in NODES[0].addresses}
    probes |= {Probe(outside, address, "tcp", 30080): False for address in FLOATING["n1"]}
    nft = lab.topology.command(lab.topology.node_namespace("n1"), ["nft", "-f", "-"])
    subprocess.run(nft, input=rules, text=True, check=True, timeout=20)
    try:
        assert lab.wrong(probes) == []
    finally:
        subprocess.run(nft, input="delete table inet node-ports", text=True, check=True, timeout=20)


def test_cleanup_gives_the_addresses_up(lab: ManifestLab) -> None:
    agent = lab.cluster.agent("n3")
    agent.stop()
    try:
        done = agent.run("cleanup")
        assert done.returncode == 0, done.stderr
        assert held_on(lab.topology, FLOATING["n3"]) == {address: set() for address in FLOATING["n3"]}
    finally:
        agent.start()
    settled(lab, expected_holders(GROUPS))
    await_views(lab, OF_GROUPS, SELECTED)
