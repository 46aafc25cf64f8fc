"""Masquerade by the ip-masq-agent ConfigMap: packets to outside hosts get the node's address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.lab.probes.listeners import Endpoint, ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology import netns
from nfagent.lab.topology.plan import NodePlan, OutsideHost, grid
from tests.support.conntrack_table import forget
from tests.support.egress_labs import config_map
from tests.support.packet_labs import ManifestLab, pod_document, running_lab, wait_until

pytestmark = pytest.mark.kernel

NODES, PODS, _ = grid()
OUTSIDE = OutsideHost("outside", ("198.51.100.10", "10.200.0.10", "2001:db8:99::10", "fd00:99::10"))
PROTOCOLS: list[tuple[ProbeProtocol, int]] = [("tcp", 443), ("udp", 443), ("icmp", 0)]
WITH_PORTS: list[tuple[ProbeProtocol, int]] = [("tcp", 444), ("udp", 444), ("sctp", 444)]
SMALL, LARGE = range(40_000, 40_004), range(50_000, 50_060)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    folder = tmp_path_factory.mktemp("lab")
    with running_lab(folder, NODES, PODS, (OUTSIDE,), documents=map(pod_document, PODS)) as running:
        outside = running.topology.outside_namespace("outside")
        running.servers.listen(
            Endpoint(outside, address, protocol, port)
            for address in OUTSIDE.addresses
            for protocol, port in (*PROTOCOLS, *WITH_PORTS)
        )
        running.servers.listen(pod_endpoints(running.topology, [("tcp", 80)]))
        for node in NODES:
            name = running.topology.node_namespace(node.name)
            running.servers.listen(Endpoint(name, address, "tcp", 10250) for address in node.addresses)
        yield running


@pytest.fixture(autouse=True)
def _tidy(lab: ManifestLab) -> Iterator[None]:
    yield
    if (lab.cluster.manifests / "masquerade.yaml").exists():
        lab.delete("masquerade")


def node_of(lab: ManifestLab, pod: str) -> NodePlan:
    namespace, name = pod.split("/")
    return lab.topology.nodes[lab.topology.pods[namespace, name].node]


def seen(lab: ManifestLab, address: str) -> str:
    """As whom a host outside sees x/a: 'pod' or 'node', the same by every protocol; both during a change."""
    outcomes = lab.ask(Probe(lab.pod("x/a"), address, protocol, port) for protocol, port in PROTOCOLS)
    names = dict.fromkeys(node_of(lab, "x/a").addresses, "node")
    names |= dict.fromkeys(lab.topology.pods["x", "a"].addresses, "pod")
    return " and ".join(sorted({names[outcome.seen_from or ""] for outcome in outcomes.values()}))


def views(lab: ManifestLab) -> list[str]:
    return [seen(lab, address) for address in OUTSIDE.addresses]


def test_without_a_config_map_the_defaults_keep_pod_addresses_towards_private_ipv4_only(lab: ManifestLab) -> None:
    assert views(lab) == ["node", "pod", "node", "node"]


def test_a_list_of_one_s_own_replaces_the_default_list_entirely_in_both_families(lab: ManifestLab) -> None:
    lab.apply("masquerade", config_map('nonMasqueradeCIDRs: ["198.51.100.0/24", "fd00::/8"]'))
    assert views(lab) == ["pod", "node", "node", "pod"]


def test_an_empty_list_masquerades_everything_that_leaves_the_cluster(lab: ManifestLab) -> None:
    lab.apply("masquerade", config_map("nonMasqueradeCIDRs: []"))
    assert views(lab) == ["node", "node", "node", "node"]


def test_an_invalid_list_keeps_the_previous_one_and_says_so(lab: ManifestLab) -> None:
    lab.apply("masquerade", config_map('{"nonMasqueradeCIDRs": ["198.51.100.0/24"]}'))
    lab.apply("masquerade", config_map('{"nonMasqueradeCIDRs": ["198.51.100.1/24"]}'))
    assert views(lab)[:2] == ["pod", "node"]
    [problem] = lab.cluster.agent("n1").ask("/v1/dump/state")["problems"]
    assert (problem["object"], "host bits" in problem["reason"]) == ("ConfigMap kube-system/ip-masq-agent", True)


def test_34_pods_and_nodes_always_see_pod_addresses_even_where_everything_is_masqueraded(lab: ManifestLab) -> None:
    lab.apply("masquerade", config_map("nonMasqueradeCIDRs: []"))
    source = lab.topology.pods["x", "a"]
    others = [pod for pod in PODS if pod.key != source.key]
    probes = [Probe(lab.pod("x/a"), address, "tcp", 80) for pod in others for address in pod.addresses]
    probes += [Probe(lab.pod("x/a"), address, "tcp", 10250) for node in NODES for address in node.addresses]
    outcomes = lab.ask(probes)
    assert {outcome.seen_from for outcome in outcomes.values()} == set(source.addresses)


def test_the_node_s_own_traffic_keeps_its_address(lab: ManifestLab) -> None:
    node = NODES[0]
    probe = Probe(lab.topology.node_namespace(node.name), OUTSIDE.addresses[0], "tcp", 443)
    assert lab.ask([probe])[probe].seen_from in node.addresses


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        pytest.param("IPV6", ["node", "pod", "pod", "pod"], id="IPv6 off"),
        pytest.param("IPV4", ["pod", "pod", "node", "node"], id="IPv4 off"),
    ],
)
def test_a_family_that_is_switched_off_keeps_pod_addresses(lab: ManifestLab, family: str, expected: list[str]) -> None:
    agent = lab.cluster.agent(node_of(lab, "x/a").name)
    agent.stop()
    agent.start({f"NFAGENT_MASQUERADE_{family}": "false"})
    try:
        assert views(lab) == expected
    finally:
        agent.stop()
        agent.start()
    assert views(lab) == ["node", "pod", "node", "node"]


def source_ports(node: str, protocol: str) -> dict[int, int]:
    """Return the source ports of a node's connections to port 444 outside, each with the one after translation."""
    table = netns.inside(node, lambda: Path("/proc/thread-self/net/nf_conntrack").read_text(encoding="ascii"))
    found = {}
    for line in table.splitlines():
        ports = re.findall(r"port=(\d+)", line)
        if f" {protocol} " in line and ports[1] == "444":
            found[int(ports[0])] = int(ports[3])
    return found


def test_connections_get_ports_of_the_ranges_in_the_settings_in_both_families(lab: ManifestLab) -> None:
    plan = node_of(lab, "x/a")
    agent = lab.cluster.agent(plan.name)
    agent.stop()
    agent.start(
        {"NFAGENT_MASQUERADE_TO_PORTS": f"{SMALL[0]}-{SMALL[-1]},{LARGE[0]}-{LARGE[-1]}"},
    )
    try:
        node = lab.topology.node_namespace(plan.name)
        forget(node)
        addresses = (OUTSIDE.addresses[0], OUTSIDE.addresses[2])
        probes = [Probe(lab.pod("x/a"), address, *with_port) for address in addresses for with_port in WITH_PORTS]
        used: dict[str, dict[int, int]] = {protocol: {} for protocol, _ in WITH_PORTS}
        for _ in range(8):
            outcomes = lab.ask(probes)
            assert {result.seen_from for result in outcomes.values()} <= set(plan.addresses)
            for protocol in used:  # now: the kernel forgets an unfinished association in three seconds
                used[protocol] |= source_ports(node, protocol)
        for protocol, ports in used.items():
            assert set(ports.values()) <= {*SMALL, *LARGE}, protocol
            # Of 16 connections or more, at least one is in the range of 60 of 64 ports, but for one case of 10**19.
            assert len(ports) >= len(addresses) * 8, protocol
            assert set(ports.values()) & set(LARGE), protocol
        assert views(lab) == ["node", "pod", "node", "node"], "ICMP has no ports, and is translated all the same"
    finally:
        agent.stop()
        agent.start()


def test_the_file_decides_without_a_config_map_and_an_invalid_one_keeps_the_list(lab: ManifestLab) -> None:
    plan = node_of(lab, "x/a")
    agent = lab.cluster.agent(plan.name)
    file = lab.cluster.manifests.parent / "ip-masq-agent"

    def publish(text: str) -> None:
        """Write the file at once: it is looked at every 0.1 seconds."""
        beside = file.with_suffix(".new")
        beside.write_text(text)
        beside.rename(file)

    agent.stop()
    file.write_text('{"nonMasqueradeCIDRs": ["198.51.100.0/24"]}')
    environment = {"CONFIG_FILE": str(file), "RESYNC_INTERVAL_SECONDS": "0.1"}
    agent.start({f"NFAGENT_MASQUERADE_{key}": value for key, value in environment.items()})
    try:
        assert views(lab) == ["pod", "node", "node", "node"], "it is read before the first rules"
        publish('{"masqueradeCIDRs": ["10.0.0.0/8"]}')
        wait_until(lambda: views(lab) == ["pod", "node", "pod", "pod"])
        publish('{"masqueradeCIDRs": ["10.0.0.1/8"]}')
        wait_until(lambda: bool(agent.ask("/v1/dump/state")["problems"]))
        problems = agent.ask("/v1/dump/state")["problems"]
        assert [(item["object"], "host bits" in item["reason"]) for item in problems] == [(f"file {file}", True)]
        assert agent.ask("/v1/dump/state")["masquerade"]["base"] == f"file {file}"
        assert views(lab) == ["pod", "node", "pod", "pod"]
        lab.apply("masquerade", config_map("nonMasqueradeCIDRs: []"))
        assert views(lab) == ["node", "node", "node", "node"]
        lab.delete("masquerade")
        file.unlink()
        wait_until(lambda: views(lab) == ["node", "pod", "node", "node"])
    finally:
        agent.stop()
        agent.start()
