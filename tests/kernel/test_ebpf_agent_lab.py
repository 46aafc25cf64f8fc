"""The eBPF agent on two nodes: live connections, masquerade, events, restarts, and what it refuses."""

from __future__ import annotations

import contextlib
import functools
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.lab.ebpf import program as ebpf_program
from nfagent.lab.ebpf.program import build
from nfagent.lab.ebpf.requirements import COMPILED
from nfagent.lab.probes.flow import LabFlow, next_nonce, open_flow
from nfagent.lab.probes.listeners import Endpoint, ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology import netns
from nfagent.lab.topology.plan import OutsideHost, PodPlan, grid
from nfagent.model.netaddr import FAMILIES, Family
from tests.support.egress_labs import config_map
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    as_text,
    holds_within,
    logging_document,
    namespace_document,
    node_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)
from tests.support.raw_sockets import udp_socket

pytestmark = pytest.mark.kernel

PORTS: list[tuple[ProbeProtocol, int]] = [("tcp", 80), ("udp", 80), ("sctp", 80), ("icmp", 0)]
NODES, PODS, _ = grid()
OUTSIDE = OutsideHost("outside", ("198.51.100.10", "10.200.0.10", "2001:db8:99::10"))
FROM_Y = {"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}
A = {"matchLabels": {"pod": "a"}}
SILENCE_SECONDS = 0.6


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    if lack := ebpf_program.missing():
        pytest.skip(lack)
    folder = tmp_path_factory.mktemp("lab")
    documents = [*(namespace_document(name) for name in "xyz"), *map(pod_document, PODS)]
    with running_lab(folder, NODES, PODS, [OUTSIDE], documents, kind="ebpf") as running:
        running.servers.listen(pod_endpoints(running.topology, PORTS))
        outside = running.topology.outside_namespace("outside")
        running.servers.listen(
            Endpoint(outside, address, protocol, port) for address in OUTSIDE.addresses for protocol, port in PORTS
        )
        yield running


@pytest.fixture(autouse=True)
def _tidy(lab: ManifestLab) -> Iterator[None]:
    yield
    lab.only_cluster()


def test_a_link_that_comes_later_and_a_policy_that_is_deleted_take_effect(lab: ManifestLab) -> None:
    late = PodPlan("z", "late", "n1", ("10.244.1.77", "2001:db8:244:1::77"))
    lab.apply("policy", policy_document("z", "closed", podSelector={"matchLabels": {"pod": "late"}}))
    lab.apply("late", pod_document(late))
    probes = [Probe(lab.pod("y/b"), address, "icmp", 0) for address in late.addresses]
    lab.topology.add_pod(late)
    try:
        lab.cluster.wait_until_enforced()
        assert lab.wrong(dict.fromkeys(probes, False)) == []
        lab.delete("policy")
        assert lab.wrong(dict.fromkeys(probes, True)) == []
    finally:
        lab.topology.remove_pod(*late.key)
    assert lab.cluster.agent("n1").ask("/v1/dump/state")["agent"]["links"]["missing"] == ["z/late"]


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_live_connection_ends_with_the_change_that_denies_it_and_an_allowed_one_goes_on(
    lab: ManifestLab, family: Family, protocol: ProbeProtocol
) -> None:
    address = lab.address("x/a", family)
    with flow(lab, "y/b", address, protocol) as allowed, flow(lab, "z/b", address, protocol) as denied:
        assert [echoes(allowed), echoes(denied)] == [True, True]
        lab.apply("policy", policy_document("x", "only-y", podSelector=A, ingress=[FROM_Y]))
        assert [echoes(allowed), echoes(denied, SILENCE_SECONDS)] == [True, False]


def test_a_live_connection_ends_when_its_client_is_relabelled(lab: ManifestLab) -> None:
    peers = {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"role": "client"}}}]}
    client = next(pod for pod in PODS if pod.key == ("y", "c"))
    lab.apply("policy", policy_document("x", "clients", podSelector=A, ingress=[peers]))
    documents = [pod_document(pod, {"role": "client"} if pod is client else None) for pod in PODS]
    with relabelled(lab, *documents), flow(lab, "y/c", lab.address("x/a", 4), "udp") as live:
        assert echoes(live)
        lab.apply("cluster", *cluster(), *map(pod_document, PODS))
        assert not echoes(live, SILENCE_SECONDS)


def test_the_server_of_a_revoked_connection_cannot_go_on_as_a_client(lab: ManifestLab) -> None:
    """x/a may connect to z/b, but its answers to z/b's connection aren't a connection of its own."""
    with flow(lab, "z/b", lab.address("x/a", 4), "udp") as live:
        assert echoes(live)
        server = live.sock.getpeername()[1]
        lab.apply("policy", policy_document("x", "only-y", podSelector=A, ingress=[FROM_Y]))
        ports = live.sock.getsockname()[1]
        lab.servers.stop(lab.pod("x/a"))
        try:
            with contextlib.closing(_udp(lab.pod("x/a"), lab.address("x/a", 4), server)) as late:
                late.sendto(b"late", (lab.address("z/b", 4), ports))
                late.sendto(b"later", (lab.address("z/b", 4), ports))
            assert not list(live.answers())
            assert lab.reaches(Probe(lab.pod("x/a"), lab.address("z/b", 4), "udp", 80)), "a connection of its own"
        finally:
            lab.servers.listen(point for point in pod_endpoints(lab.topology, PORTS) if point.netns == lab.pod("x/a"))


@pytest.mark.parametrize(
    ("config", "seen"),
    [
        pytest.param(None, ("node", "pod", "node"), id="without a list: private addresses are kept"),
        pytest.param('["198.51.100.0/24"]', ("pod", "node", "node"), id="with a list of one's own"),
        pytest.param('["0.0.0.0/0", "::/0"]', ("pod", "pod", "pod"), id="with a list of all"),
    ],
)
def test_an_outside_host_sees_the_node_or_the_pod_by_the_list(
    lab: ManifestLab, config: str | None, seen: tuple[str, ...]
) -> None:
    if config is not None:
        lab.apply("masquerade", config_map(f"nonMasqueradeCIDRs: {config}"))
    node = NODES[0] if lab.topology.pods["x", "a"].node == "n1" else NODES[1]
    names = dict.fromkeys(node.addresses, "node") | dict.fromkeys(lab.topology.pods["x", "a"].addresses, "pod")
    for protocol, port in PORTS:
        probes = [Probe(lab.pod("x/a"), address, protocol, port) for address in OUTSIDE.addresses]
        outcomes = lab.ask(probes)
        assert tuple(names[outcomes[probe].seen_from or ""] for probe in probes) == seen, protocol


def test_every_verdict_on_a_new_connection_is_an_event_where_logging_is_on(lab: ManifestLab) -> None:
    lab.apply("policy", policy_document("x", "only-y", podSelector=A, ingress=[FROM_Y]))
    lab.apply("logging", logging_document(allow=True, deny=True))
    node = lab.topology.pods["x", "a"].node
    probes = [
        Probe(lab.pod(client), address, "tcp", 80)
        for client in ("y/b", "z/b")
        for address in lab.topology.pods["x", "a"].addresses
    ]
    lab.ask(probes, 0.3)
    reply = lab.cluster.agent(node).ask("/v1/events")
    found = {
        (event["source"], event["destination"], event.get("destination_port"), event["allowed"], event.get("reason"))
        for event in reply["events"]
        if event["pod"] == "x/a" and event["protocol"] == "tcp" and event["direction"] == "ingress"
    }
    assert found == {
        (
            lab.address(client, family),
            lab.address("x/a", family),
            80,
            client == "y/b",
            None if client == "y/b" else "policy",
        )
        for client in ("y/b", "z/b")
        for family in FAMILIES
    }
    assert reply["lost"] == 0


def test_without_logging_nothing_is_an_event(lab: ManifestLab) -> None:
    agent = lab.cluster.agent(lab.topology.pods["x", "a"].node)
    before = agent.ask("/v1/dump/state")["agent"]["events"]
    lab.apply("policy", policy_document("x", "closed", podSelector=A))
    assert not lab.reaches(Probe(lab.pod("y/b"), lab.address("x/a", 4), "udp", 80))
    assert agent.ask("/v1/dump/state")["agent"]["events"] == before


def test_a_pods_packets_with_an_address_of_another_are_dropped(lab: ManifestLab) -> None:
    with contextlib.closing(_udp(lab.pod("x/a"), "10.244.1.200", 4000, spoofed=True)) as spoofed:
        target = _udp(lab.pod("y/b"), lab.address("y/b", 4), 4001)
        with contextlib.closing(target):
            spoofed.sendto(b"spoofed", (lab.address("y/b", 4), 4001))
            with contextlib.closing(_udp(lab.pod("x/a"), lab.address("x/a", 4), 4002)) as honest:
                honest.sendto(b"honest", (lab.address("y/b", 4), 4001))
            assert target.recv(100) == b"honest"


def test_after_a_kill_the_next_process_replaces_the_programs_that_are_left(lab: ManifestLab) -> None:
    lab.apply("policy", policy_document("x", "only-y", podSelector=A, ingress=[FROM_Y]))
    agent = lab.cluster.agent(lab.topology.pods["x", "a"].node)
    agent.stop(kill=True)
    expected = {
        Probe(lab.pod(client), lab.address("x/a", family), "tcp", 80): client == "y/b"
        for client in ("y/b", "z/b")
        for family in FAMILIES
    }
    assert lab.wrong(expected) == [], "the links keep the program"
    agent.start()
    lab.cluster.wait_until_enforced()
    assert lab.wrong(expected) == []
    lab.delete("policy")
    assert lab.wrong(dict.fromkeys(expected, True)) == []


def test_nothing_is_left_after_it_stops(lab: ManifestLab, tmp_path: Path) -> None:
    agent = lab.cluster.agent("n1")
    node = lab.topology.node_namespace("n1")
    agent.stop()
    try:
        assert "clsact" not in _run(node, "tc", "qdisc", "show")
        assert "nfagent" not in _run(node, "nft", "list", "tables")
    finally:
        # Compiled beforehand, as for slow machines.
        build(tmp_path / "policy.o")
        agent.start({COMPILED: str(tmp_path / "policy.o")})
    assert "clsact" in _run(node, "tc", "qdisc", "show")


def test_a_policy_of_a_tier_closes_its_pods_and_is_named(lab: ManifestLab) -> None:
    document = {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": "all"},
        "spec": {
            "priority": 1,
            "subject": {"namespaces": {"matchLabels": {"ns": "x"}}},
            "ingress": [{"action": "Allow", "from": [{"namespaces": {}}]}],
        },
    }
    agent = lab.cluster.agent(lab.topology.pods["x", "a"].node)
    lab.cluster.place("tier.yaml", as_text([document]))
    named = "AdminNetworkPolicy all is a policy of a tier"
    wait_until(lambda: any(named in reason for reason in agent.ask("/v1/dump/state")["agent"]["refused"]))
    wait_until(lambda: named in agent.stderr_text)
    assert not agent.ask("/v1/dump/state")["agent"]["reconcile"]["in_sync"]
    assert not lab.reaches(Probe(lab.pod("y/b"), lab.address("x/a", 4), "udp", 80))


def test_the_kernel_memory_of_the_maps_is_told(lab: ManifestLab) -> None:
    taken = lab.cluster.agent("n1").ask("/v1/dump/state")["agent"]["map_bytes"]
    assert {"identities", "policies", "connections"} <= taken.keys()
    assert taken["connections"] > 1_000_000, "as large as it may become, from the start"


def test_syncs_are_traced_step_by_step(lab: ManifestLab) -> None:
    lab.apply("policy", policy_document("x", "only-y", podSelector=A, ingress=[FROM_Y]))
    last = lab.cluster.agent("n1").ask("/v1/syncs")["syncs"][-1]
    steps = [last[name] for name in ("received", "decoded", "begun", "computed", "committed")]
    assert steps == sorted(steps)


@contextlib.contextmanager
def flow(lab: ManifestLab, client: str, address: str, protocol: ProbeProtocol) -> Iterator[LabFlow]:
    """Open a flow from a Pod."""
    opened = netns.inside(lab.pod(client), functools.partial(open_flow, protocol, address, 80))
    try:
        yield opened
    finally:
        opened.close()


def echoes(live: LabFlow, seconds: float = 30.0) -> bool:
    """Return whether a nonce that is sent now is answered within so many seconds."""
    nonce = next_nonce()
    live.send(nonce)
    heard: list[int] = []

    def is_heard() -> bool:
        heard.extend(live.answers())
        return nonce in heard

    return holds_within(is_heard, seconds)


def cluster() -> list[Document]:
    return [*map(node_document, NODES), *(namespace_document(name) for name in "xyz")]


@contextlib.contextmanager
def relabelled(lab: ManifestLab, *pods: Document) -> Iterator[None]:
    """Have other Pod documents meanwhile."""
    lab.apply("cluster", *cluster(), *pods)
    try:
        yield
    finally:
        lab.apply("cluster", *cluster(), *map(pod_document, PODS))


def _udp(namespace: str, address: str, port: int, *, spoofed: bool = False) -> socket.socket:
    return udp_socket(namespace, address, port, spoofed=spoofed)


def _run(namespace: str, *command: str) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, *command], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout
