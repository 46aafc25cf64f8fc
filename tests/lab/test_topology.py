"""A topology forwards packets through the forward hook, and is removed completely."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from nfagent.errors import HostError, KernelError, UsageError
from nfagent.lab.probes.listeners import Endpoint, Listeners
from nfagent.lab.probes.probe import Probe, run_probes
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import Attachment, NodePlan, OutsideHost, PodPlan, Underlay, grid

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab makes network namespaces: run the tests as root"),
]

ATTACHMENTS: tuple[Attachment, ...] = ("routed", "bridge")
UNDERLAYS: tuple[Underlay, ...] = ("flat", "vlan", "vxlan")
# linux/in.h and linux/in6.h
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO = 10, 23, 2
BETWEEN_NODES = {"flat": "eth0", "vlan": "eth0.100", "vxlan": "vxlan0"}


@pytest.fixture(params=ATTACHMENTS)
def topology(request: pytest.FixtureRequest) -> Iterator[NetnsTopology]:
    with NetnsTopology(*grid(request.param), tag="tf") as built:
        yield built


@pytest.fixture(params=UNDERLAYS)
def joined(request: pytest.FixtureRequest) -> Iterator[NetnsTopology]:
    built = NetnsTopology(*grid("routed", 2, request.param), tag="tf")
    try:
        built.up()
    except HostError as error:
        if "this kernel has no vlan devices" not in str(error):
            raise
        pytest.skip(str(error))
    try:
        yield built
    finally:
        built.down()


def left_behind() -> list[str]:
    return netns.named(netns.prefix("tf", os.getpid()))


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Clean up after a topology that failed to."""
    yield
    netns.remove(left_behind())


def output(topology: NetnsTopology, namespace: str, *argv: str) -> str:
    return subprocess.run(topology.command(namespace, argv), check=True, capture_output=True, text=True).stdout


def ping(source: str, destination: str) -> bool:
    with Listeners() as servers:
        probe = Probe(source, destination, "icmp")
        return run_probes(servers, [probe])[probe].reached


def test_a_pod_has_the_planned_addresses_and_no_other_global_one(topology: NetnsTopology) -> None:
    for pod in topology.pods.values():
        lines = output(topology, topology.pod_namespace(*pod.key), "ip", "-o", "address", "show", "scope", "global")
        found = {line.split()[3].split("/")[0] for line in lines.splitlines()}
        assert found == set(pod.addresses)


def test_a_routed_pod_sees_a_host_address_and_a_bridged_pod_its_range() -> None:
    lengths = {}
    for attachment in ATTACHMENTS:
        with NetnsTopology(*grid(attachment), tag="tf") as built:
            lines = output(built, built.pod_namespace("x", "a"), "ip", "-o", "address", "show", "scope", "global")
            lengths[attachment] = [line.split()[3].partition("/")[2] for line in lines.splitlines()]
    # ip shows a host address without its length.
    assert lengths == {"routed": ["32", "128"], "bridge": ["24", "64"]}


def test_the_node_of_a_bridge_brings_its_frames_to_the_forward_hook() -> None:
    with NetnsTopology(*grid("bridge"), tag="tf") as built:
        for node in built.nodes:
            for name in ("iptables", "ip6tables"):
                setting = output(
                    built, built.node_namespace(node), "cat", f"/proc/sys/net/bridge/bridge-nf-call-{name}"
                )
                assert setting.strip() == "1"


def test_an_added_pod_is_reachable_and_a_removed_one_is_not(topology: NetnsTopology) -> None:
    late = PodPlan("late", "pod", "n1", ("10.244.1.77", "2001:db8:244:1::77"))
    near, far = topology.pod_namespace("x", "b"), topology.pod_namespace("x", "a")
    topology.add_pod(late)
    assert [ping(source, address) for source in (near, far) for address in late.addresses] == [True] * 4
    topology.remove_pod("late", "pod")
    assert [ping(source, address) for source in (near, far) for address in late.addresses] == [False] * 4
    topology.add_pod(PodPlan("late", "again", "n1", late.addresses))
    assert [ping(source, address) for source in (near, far) for address in late.addresses] == [True] * 4


def test_a_removed_pod_is_unreachable_while_a_socket_still_holds_its_namespace(topology: NetnsTopology) -> None:
    pod = topology.pods["x", "a"]
    with Listeners() as servers:
        servers.listen([Endpoint(topology.pod_namespace("x", "a"), pod.addresses[0], "udp", 53)])
        topology.remove_pod("x", "a")
        probe = Probe(topology.pod_namespace("x", "b"), pod.addresses[0], "udp", 53)
        assert not run_probes(servers, [probe])[probe].reached


def test_a_pod_that_is_there_already_is_refused_and_stays(topology: NetnsTopology) -> None:
    pod = topology.pods["x", "a"]
    with pytest.raises(UsageError, match="twice"):
        topology.add_pod(pod)
    assert ping(topology.pod_namespace("x", "b"), pod.addresses[0])


def test_an_outside_host_without_routes_receives_from_pods_but_cannot_answer() -> None:
    nodes, pods, _outside = grid()
    hosts = (
        OutsideHost("knows", ("203.0.113.1", "2001:db8:beef::1")),
        OutsideHost("knows-not", ("203.0.113.2", "2001:db8:beef::2"), routes_to_pods=False),
    )
    with NetnsTopology(nodes, pods, hosts, tag="tf") as built, Listeners() as servers:
        source = built.pod_namespace("x", "a")
        probes = {}
        for host in hosts:
            for address in host.addresses:
                servers.listen([Endpoint(built.outside_namespace(host.name), address, "udp", 53)])
                probes[Probe(source, address, "udp", 53)] = host
        outcomes = run_probes(servers, probes)
        assert {probe: outcomes[probe].reached for probe in probes} == {
            probe: host.routes_to_pods for probe, host in probes.items()
        }
        assert {outcome.seen_from for outcome in outcomes.values()} == set(built.pods["x", "a"].addresses)


def test_a_lab_of_one_family_is_of_that_family() -> None:
    nodes = [
        NodePlan("n1", ("2001:db8::1",), ("2001:db8:1::/64",)),
        NodePlan("n2", ("2001:db8::2",), ("2001:db8:2::/64",)),
    ]
    pods = [PodPlan("d", "a", "n1", ("2001:db8:1::5",)), PodPlan("d", "b", "n2", ("2001:db8:2::5",))]
    with NetnsTopology(nodes, pods, tag="tf") as built:
        assert ping(built.pod_namespace("d", "a"), "2001:db8:2::5")


def received(topology: NetnsTopology, node: str, device: str) -> int:
    """Return how many packets a device of a node has taken from its peers."""
    counters = f"/sys/class/net/{device}/statistics/rx_packets"
    return int(output(topology, topology.node_namespace(node), "cat", counters))


def fragments(topology: NetnsTopology) -> int:
    """Return how many fragments the nodes have made of packets."""
    made = 0
    for node in topology.nodes:
        name = topology.node_namespace(node)
        # The names in one line, the numbers in the next.
        names, numbers = (line.split() for line in output(topology, name, "cat", "/proc/net/snmp").splitlines()[:2])
        ipv6 = dict(line.split() for line in output(topology, name, "cat", "/proc/net/snmp6").splitlines())
        made += int(numbers[names.index("FragCreates")]) + int(ipv6["Ip6FragCreates"])
    return made


def test_pods_of_two_nodes_speak_by_what_joins_the_nodes(joined: NetnsTopology) -> None:
    device = BETWEEN_NODES[joined.nodes["n2"].underlay]
    source, far = joined.pod_namespace("x", "a"), joined.pods["x", "b"]
    for address in far.addresses:
        before = received(joined, "n2", device)
        assert ping(source, address)
        assert received(joined, "n2", device) > before


@pytest.mark.parametrize("size", [0, 1], ids=["of the Pods' MTU passes whole", "one byte larger can't be sent"])
def test_a_packet_between_pods_of_two_nodes(joined: NetnsTopology, size: int) -> None:
    source, far = joined.pod_namespace("x", "a"), joined.pods["x", "b"]
    for address in far.addresses:
        payload = bytes(joined.nodes["n1"].pod_mtu - (48 if ":" in address else 28) + size)
        with Listeners() as servers:
            servers.listen([Endpoint(joined.pod_namespace("x", "b"), address, "udp", 53)])
            if size:
                with pytest.raises(OSError, match="Message too long"):
                    netns.inside(source, functools.partial(echoed, address, payload))
            else:
                assert netns.inside(source, functools.partial(echoed, address, payload)) == payload
    assert fragments(joined) == 0


def echoed(address: str, payload: bytes) -> bytes:
    """Send a UDP packet that may not be cut into fragments to port 53; give what comes back."""
    ipv6 = ":" in address
    with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        level, option = (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if ipv6 else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
        sock.setsockopt(level, option, PMTUDISC_DO)
        sock.settimeout(30.0)
        sock.sendto(payload, (address, 53))
        return sock.recv(4096)


def test_nothing_is_left_after_it(topology: NetnsTopology) -> None:
    assert len(left_behind()) == 1 + len(topology.nodes) + len(topology.outside) + len(topology.pods)
    topology.down()
    assert left_behind() == []
    topology.down()


def test_nothing_is_left_when_the_kernel_refuses_a_step() -> None:
    twice = [NodePlan(f"n{number}", (f"192.0.2.{number}",), ("10.244.1.0/24",)) for number in (1, 2)]
    with pytest.raises(KernelError, match=r"route add 10\.244\.1\.0/24"):
        NetnsTopology(twice, tag="tf").up()
    assert left_behind() == []


# Python warns of a process whose Popen was interrupted between its start and its first line; `ip` ends by itself.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("delay", [0.003, 0.012, 0.03, 0.06, 0.09])
def test_nothing_is_left_when_it_is_interrupted(delay: float) -> None:
    interrupts = 0

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        raise KeyboardInterrupt

    def stand() -> None:
        # Here, where an interrupt is expected from the next line on.
        signal.setitimer(signal.ITIMER_REAL, delay)
        with NetnsTopology(*grid("bridge"), tag="tf"):
            # An interrupt inside a destructor is a warning, and Python goes on.
            if not interrupts:
                signal.pause()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            stand()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert left_behind() == []


def test_a_sweep_takes_what_dead_processes_left_and_nothing_else() -> None:
    program = (
        "import os\n"
        "from nfagent.lab.topology.netns_topology import NetnsTopology\n"
        "from nfagent.lab.topology.plan import grid\n"
        "NetnsTopology(*grid(), tag='tfsweep').up(); os._exit(0)"
    )
    root = Path(netns.__file__).parents[3]
    died = subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": str(root)})
    assert died.returncode == 0
    try:
        with NetnsTopology(*grid(), tag="tfsweep") as alive:
            mine = netns.named(netns.prefix("tfsweep", os.getpid()))
            swept = netns.sweep("tfsweep")
            assert netns.named("nfa-tfsweep-") == mine
            assert len(swept) == len(mine)
            assert ping(alive.pod_namespace("x", "a"), alive.pods["x", "b"].addresses[0])
    finally:
        netns.sweep("tfsweep")
    assert netns.named("nfa-tfsweep-") == []


def test_the_name_of_what_is_not_there_is_refused_with_what_is(topology: NetnsTopology) -> None:
    with pytest.raises(UsageError, match="no node 'n9' in this lab; it has 'n1', 'n2'"):
        topology.node_namespace("n9")
    with pytest.raises(UsageError, match="no Pod"):
        topology.remove_pod("x", "none")
