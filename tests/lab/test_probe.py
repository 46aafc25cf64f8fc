"""Probes: an accepted one is reached, a dropped one isn't, and the server records its source address."""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nfagent.errors import KernelError, UsageError
from nfagent.lab.probes import first_packet
from nfagent.lab.probes.first_packet import watch_change
from nfagent.lab.probes.listeners import Endpoint, Listeners, ProbeProtocol, pod_endpoints
from nfagent.lab.probes.probe import Probe, ProbeResult, run_probes
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import OutsideHost, gateway, grid
from tests.support.packet_labs import holds_within

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab makes network namespaces: run the tests as root"),
]

PORTS: tuple[tuple[ProbeProtocol, int], ...] = (
    ("tcp", 80),
    ("tcp", 81),
    ("udp", 80),
    ("udp", 81),
    ("sctp", 80),
    ("sctp", 81),
    ("icmp", 0),
)
PROTOCOLS: tuple[ProbeProtocol, ...] = ("tcp", "udp", "sctp", "icmp")
ONE_EACH = tuple((protocol, 0 if protocol == "icmp" else 80) for protocol in PROTOCOLS)


@pytest.fixture(params=["routed", "bridge"])
def topology(request: pytest.FixtureRequest) -> Iterator[NetnsTopology]:
    with NetnsTopology(*grid(request.param), tag="tp") as built:
        yield built


@pytest.fixture
def servers(topology: NetnsTopology) -> Iterator[Listeners]:
    with Listeners() as serving:
        serving.listen(pod_endpoints(topology, PORTS))
        yield serving


def load(
    topology: NetnsTopology, node: str, *rules: str, hook: str = "forward", kind: str = "filter", priority: int = 0
) -> None:
    """Load rules of one base chain in a node, instead of all earlier ones."""
    lines = "\n".join(rules)
    script = (
        f"flush ruleset\ntable inet t {{\nchain c {{\ntype {kind} hook {hook} priority {priority};\n{lines}\n}}\n}}\n"
    )
    run_nft(topology, node, script)


def run_nft(topology: NetnsTopology, node: str, script: str) -> None:
    command = topology.command(topology.node_namespace(node), ["nft", "-f", "-"])
    subprocess.run(command, input=script, text=True, check=True)


def members(topology: NetnsTopology) -> dict[str, tuple[str, ...]]:
    """Return the addresses of every namespace that sends and receives."""
    return {
        **{topology.pod_namespace(*pod.key): pod.addresses for pod in topology.pods.values()},
        **{topology.node_namespace(node.name): node.addresses for node in topology.nodes.values()},
        **{topology.outside_namespace(host.name): host.addresses for host in topology.outside.values()},
    }


def probes_between(
    topology: NetnsTopology, ends: tuple[str, str], ports: Iterable[tuple[ProbeProtocol, int]]
) -> list[Probe]:
    """Return probes from one Pod 'namespace/name' to another, to each of its addresses."""
    source, destination = (tuple(end.split("/")) for end in ends)
    return [
        Probe(topology.pod_namespace(*source), address, protocol, port)
        for address in topology.pods[destination[0], destination[1]].addresses
        for protocol, port in ports
    ]


def reached(outcomes: dict[Probe, ProbeResult]) -> set[tuple[str, int]]:
    """Return protocol and port of what was reached."""
    return {(probe.protocol, probe.port) for probe, outcome in outcomes.items() if outcome.reached}


def test_every_pod_reaches_every_pod_with_every_protocol_and_family(topology: NetnsTopology) -> None:
    ends = members(topology)
    with Listeners() as servers:
        servers.listen(
            Endpoint(name, address, protocol, port)
            for name, addresses in ends.items()
            for address in addresses
            for protocol, port in PORTS
        )
        probes = [
            Probe(source, address, protocol, port)
            for source in ends
            for addresses in ends.values()
            for address in addresses
            for protocol, port in PORTS
        ]
        outcomes = run_probes(servers, probes)
    assert len(outcomes) == 12 * 12 * 2 * len(PORTS)
    assert [probe for probe, outcome in outcomes.items() if not outcome.reached] == []
    own = {source: set(addresses) for source, addresses in ends.items()}
    for node in topology.nodes.values():
        if node.attachment == "bridge":
            # A node speaks to the Pods on its bridge as their gateway.
            own[topology.node_namespace(node.name)] |= {gateway(cidr) for cidr in node.pod_cidrs}
    strangers = {
        probe: outcome.seen_from
        for probe, outcome in outcomes.items()
        if outcome.seen_from not in own[probe.source] and probe.destination not in own[probe.source]
    }
    assert strangers == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("pair", [("x/a", "x/c"), ("x/a", "x/b")], ids=["Pods of one node", "Pods of two nodes"])
def test_a_packet_that_the_forward_hook_drops_is_not_reached(
    topology: NetnsTopology, servers: Listeners, pair: tuple[str, str], protocol: ProbeProtocol
) -> None:
    what = {"icmp": ("icmp type echo-request", "icmpv6 type echo-request")}.get(protocol, (f"meta l4proto {protocol}",))
    probes = probes_between(topology, pair, ONE_EACH)
    load(topology, "n1", *(f"{match} drop" for match in what))
    outcomes = run_probes(servers, probes)
    assert reached(outcomes) == {port for port in ONE_EACH if port[0] != protocol}
    blocked = [outcome for probe, outcome in outcomes.items() if probe.protocol == protocol]
    assert [(outcome.seen_from, outcome.latency) for outcome in blocked] == [(None, None)] * 2


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_the_servers_port_in_conntracks_reply_tuple_matches_the_first_packet(
    topology: NetnsTopology, servers: Listeners, protocol: ProbeProtocol
) -> None:
    load(topology, "n1", f"meta l4proto {protocol} ct reply proto-src 80 drop")
    outcomes = run_probes(servers, probes_between(topology, ("x/a", "x/c"), PORTS))
    assert reached(outcomes) == set(PORTS) - {(protocol, 80)}


def test_conntrack_finds_no_fault_in_the_packets_of_probes(topology: NetnsTopology, servers: Listeners) -> None:
    load(topology, "n1", "ct state invalid drop")
    outcomes = run_probes(servers, probes_between(topology, ("x/a", "x/c"), PORTS))
    assert reached(outcomes) == set(PORTS)


def test_a_probe_is_a_new_connection_each_time(topology: NetnsTopology, servers: Listeners) -> None:
    probes = probes_between(topology, ("x/a", "x/c"), PORTS)
    load(topology, "n1", "ct state { established, new } accept")
    assert reached(run_probes(servers, probes)) == set(PORTS)
    run_nft(topology, "n1", "insert rule inet t c ct state new drop")
    assert reached(run_probes(servers, probes)) == set()


def test_only_the_answer_lost_is_not_reached_but_seen(topology: NetnsTopology, servers: Listeners) -> None:
    load(topology, "n1", "meta l4proto != tcp ct direction reply drop")
    source = topology.pods["x", "a"]
    probes = [probe for probe in probes_between(topology, ("x/a", "x/c"), ONE_EACH) if "." in probe.destination]
    outcomes = run_probes(servers, probes)
    assert reached(outcomes) == {("tcp", 80)}
    assert {outcome.seen_from for outcome in outcomes.values()} == {source.addresses[0]}


def test_a_lost_first_packet_is_no_denial(topology: NetnsTopology, servers: Listeners) -> None:
    # The first packet of all, of each protocol, is dropped by a quota that no second one meets.
    rules = [f"meta l4proto {protocol} limit rate over 1/day burst 1 packets counter accept" for protocol in PROTOCOLS]
    drops = [f"meta l4proto {protocol} drop" for protocol in PROTOCOLS]
    load(topology, "n1", *rules, *drops)
    probes = [probe for probe in probes_between(topology, ("x/a", "x/c"), ONE_EACH) if "." in probe.destination]
    assert reached(run_probes(servers, probes)) == set(ONE_EACH)


@pytest.mark.parametrize("port", [("tcp", 9), ("udp", 9)], ids=["tcp", "udp"])
def test_a_closed_port_is_refused_rather_than_silent(
    topology: NetnsTopology, servers: Listeners, port: tuple[ProbeProtocol, int]
) -> None:
    outcomes = run_probes(servers, probes_between(topology, ("x/a", "x/b"), [port]))
    assert [(outcome.reached, outcome.error) for outcome in outcomes.values()] == [(False, "Connection refused")] * 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_masquerade_is_seen_by_the_host_outside(protocol: ProbeProtocol) -> None:
    nodes, pods, _outside = grid()
    host = OutsideHost("web", ("192.0.2.100", "2001:db8:ffff::100"), routes_to_pods=False)
    with NetnsTopology(nodes, pods, [host], tag="tp") as topology, Listeners() as servers:
        name = topology.outside_namespace("web")
        port = 0 if protocol == "icmp" else 80
        servers.listen(Endpoint(name, address, protocol, port) for address in host.addresses)
        pod = topology.pods["x", "a"]
        probes = [Probe(topology.pod_namespace(*pod.key), address, protocol, port) for address in host.addresses]
        assert [outcome.reached for outcome in run_probes(servers, probes).values()] == [False, False]
        load(topology, pod.node, 'oifname "eth0" masquerade', hook="postrouting", kind="nat", priority=100)
        outcomes = run_probes(servers, probes)
        assert [outcome.reached for outcome in outcomes.values()] == [True, True]
        assert tuple(outcome.seen_from for outcome in outcomes.values()) == topology.nodes[pod.node].addresses


def test_a_probe_from_nowhere_is_refused() -> None:
    with Listeners() as servers, pytest.raises(KernelError, match="is the lab still up"):
        run_probes(servers, [Probe("nfa-none", "192.0.2.1", "tcp", 80)])


def test_an_address_that_is_not_there_cannot_be_listened_to(topology: NetnsTopology, servers: Listeners) -> None:
    with pytest.raises(KernelError, match="no interface has the address"):
        servers.listen([Endpoint(topology.pod_namespace("x", "a"), "10.244.1.250", "tcp", 80)])


def test_a_stopped_server_answers_no_more_and_the_others_do(topology: NetnsTopology, servers: Listeners) -> None:
    servers.stop(topology.pod_namespace("x", "c"))
    stopped = run_probes(servers, probes_between(topology, ("x/a", "x/c"), [("tcp", 80), ("udp", 80), ("sctp", 80)]))
    others = run_probes(servers, probes_between(topology, ("x/a", "y/b"), [("tcp", 80), ("udp", 80), ("sctp", 80)]))
    assert (reached(stopped), len(reached(others))) == (set(), 3)


@pytest.mark.parametrize(
    ("protocol", "live"),
    [("tcp", False), ("tcp", True), ("udp", False), ("udp", True), ("sctp", False), ("icmp", False), ("icmp", True)],
    ids=lambda value: {True: "on one connection", False: "each a connection"}.get(value, value),
)
def test_the_first_packet_after_an_added_and_after_a_deleted_rule_is_found(
    topology: NetnsTopology, servers: Listeners, protocol: ProbeProtocol, *, live: bool
) -> None:
    (probe, *_) = probes_between(topology, ("x/a", "x/c"), [(protocol, 0 if protocol == "icmp" else 80)])
    load(topology, "n1", "counter")
    watch = functools.partial(
        watch_change, probe.source, probe.destination, protocol, probe.port, deadline=30, servers=servers
    )
    # Requests alone: the answer to one that passed before the rule may come after it.
    requests = "icmp type echo-request" if protocol == "icmp" else f"{protocol} dport {probe.port}"
    with ThreadPoolExecutor() as pool:
        allowed = watch(want=True)
        denied = pool.submit(watch, want=False, live=live)
        assert watch(want=False, deadline=0.5) is None
        before = time.monotonic()
        run_nft(topology, "n1", f"add rule inet t c {requests} drop")
        first_denied = denied.result()
        lifted = pool.submit(watch, want=True)
        assert watch(want=True, deadline=0.2) is None
        between = time.monotonic()
        run_nft(topology, "n1", "flush chain inet t c")
        first_allowed = lifted.result()
    assert allowed is not None
    assert first_denied is not None
    assert first_allowed is not None
    # An order of events, not a duration: each verdict came after the change that made it.
    assert allowed < first_denied < between <= first_allowed
    if live or protocol not in {"tcp", "sctp"}:  # a handshake that began before the rule may meet it
        assert before <= first_denied


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_servers_that_stand_still_are_no_denial(
    topology: NetnsTopology, servers: Listeners, protocol: ProbeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_packet, "_PATIENCE", 0.001)
    (probe, *_) = probes_between(topology, ("x/a", "x/c"), [(protocol, 80)])
    watch = functools.partial(watch_change, probe.source, probe.destination, protocol, probe.port, servers=servers)
    with ThreadPoolExecutor(1) as pool:
        with servers._turn:  # noqa: SLF001 - their thread stands still meanwhile
            watched = pool.submit(watch, want=False, deadline=0.1)
            assert not holds_within(watched.done, 0.3)
        assert watched.result() is None


def test_a_stream_on_one_sctp_connection_is_refused() -> None:
    with pytest.raises(UsageError, match="probe a live connection by tcp, udp or icmp"):
        watch_change("nfa-none", "192.0.2.1", "sctp", 80, want=False, deadline=1, live=True)


def test_sockets_of_probes_and_servers_are_closed(topology: NetnsTopology) -> None:
    def open_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # what earlier tests left is closed before, not in between
    before = open_descriptors()
    with Listeners() as servers:
        servers.listen(pod_endpoints(topology, PORTS))
        run_probes(servers, probes_between(topology, ("x/a", "x/b"), PORTS))
    assert open_descriptors() == before
