"""Verdicts are counted by Pod and by policy with logging off, and no count decreases: over restarts, flushes, rules."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfagent.lab.probes.listeners import pod_endpoints
from nfagent.lab.topology.plan import PodPlan, grid
from nfagent.model.netaddr import FAMILIES
from tests.support.metrics_page import scraped
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    as_text,
    namespace_document,
    node_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)
from tests.support.raw_sockets import tcp_connect, udp_socket

pytestmark = pytest.mark.kernel

NODES, PODS, _ = grid()
FROM_Y = policy_document(
    "x",
    "from-y",
    podSelector={"matchLabels": {"pod": "a"}},
    ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}],
)
Counts = Counter[tuple[str, ...]]


@pytest.fixture
def lab(tmp_path: Path, backend: str) -> Iterator[ManifestLab]:
    documents = [*map(namespace_document, "xyz"), *map(pod_document, PODS), FROM_Y]
    with running_lab(tmp_path, NODES, PODS, documents=documents, backend=backend) as running:
        running.servers.listen(pod_endpoints(running.topology, [("tcp", 80)]))
        yield running


def counts(lab: ManifestLab) -> Counts:
    """Return what the node of x/a has counted, by Pod and by policy; scrapes within a second get the same page."""
    agent = lab.cluster.agent(node_of("x", "a"))
    page = scraped(Path(agent.environment["NFAGENT_RUNTIME_DIR"]) / "agent.sock")
    found: Counts = Counter()
    for labels, packets in page.get("policy_event_count", {}).items():
        of = dict(labels)
        key = of["policy_enforced_namespace"], of["policy_enforced_pod"], of["direction"], of["verdict"]
        found[key] = int(packets)
    for labels, packets in page.get("nfagent_policy_packets_total", {}).items():
        of = dict(labels)
        found[of["kind"], of["namespace"], of["policy"], of["direction"], of["verdict"]] = int(packets)
    return +found


def counts_with(lab: ManifestLab, sent: int) -> Counts:
    """Return the counts once so many connections to x/a were allowed, and so many packets to it denied."""
    found: Counts = Counter()

    def are_all() -> bool:
        found.clear()
        found.update(counts(lab))
        return found[ALLOWED] == found[DENIED] == sent

    wait_until(are_all)
    return found


def node_of(namespace: str, name: str) -> str:
    return next(pod.node for pod in PODS if (pod.namespace, pod.name) == (namespace, name))


ALLOWED, DENIED = ("x", "a", "ingress", "allow"), ("x", "a", "ingress", "deny")
POLICY_ALLOWED = ("NetworkPolicy", "x", "from-y", "ingress", "allow")
POLICY_DENIED = ("NetworkPolicy", "x", "from-y", "ingress", "deny")


def send(lab: ManifestLab) -> int:
    """Open two connections to x/a from y/a, which may, send two packets from z/a, which may not; return how many each.

    A probe might open a connection twice on a slow machine.
    """
    for family in FAMILIES:
        address = lab.address("x/a", family)
        tcp_connect(lab.pod("y/a"), address, 80).close()
        with udp_socket(lab.pod("z/a"), lab.address("z/a", family)) as denied:
            denied.sendto(b"denied", (address, 80))
    return len(FAMILIES)


def test_first_packets_of_connections_and_denied_packets_are_counted_with_logging_off(lab: ManifestLab) -> None:
    assert counts(lab) == Counter()
    sent = send(lab)
    first = counts_with(lab, sent)
    assert first.keys() == {ALLOWED, DENIED, POLICY_ALLOWED, POLICY_DENIED}
    assert first[ALLOWED] == first[POLICY_ALLOWED] == sent
    assert first[DENIED] == first[POLICY_DENIED] == sent
    more = send(lab)
    second = counts_with(lab, sent + more)
    assert second[ALLOWED] == second[POLICY_ALLOWED] == sent + more
    assert second[DENIED] == second[POLICY_DENIED] == sent + more


@pytest.mark.both_backends
def test_no_count_decreases_when_the_agent_is_killed(lab: ManifestLab) -> None:
    agent = lab.cluster.agent(node_of("x", "a"))
    sent = send(lab)
    before = counts_with(lab, sent)
    agent.stop(kill=True)
    sent += send(lab)  # the rules stay, and count
    agent.start()
    after = counts_with(lab, sent)
    assert after[POLICY_ALLOWED] >= after[ALLOWED] == sent
    assert after[DENIED] == after[POLICY_DENIED] > before[DENIED]


def test_no_count_decreases_when_the_table_is_made_anew(lab: ManifestLab) -> None:
    node = node_of("x", "a")
    sent = send(lab)
    before = counts_with(lab, sent)
    inside = lab.topology.command(lab.topology.node_namespace(node), ["nft", "delete", "table", "inet", "nfagent"])
    subprocess.run(inside, check=True)
    agent = lab.cluster.agent(node)
    wait_until(lambda: agent.ask("/v1/dump/diff")["equal"])
    sent += send(lab)
    after = counts_with(lab, sent)
    # After a repair connections are re-checked: a policy's count has their later packets too.
    assert after[POLICY_ALLOWED] >= after[ALLOWED] == sent
    assert after[DENIED] == after[POLICY_DENIED] > before[DENIED]


def test_a_change_of_rules_keeps_the_counts_of_what_is_still_there(lab: ManifestLab) -> None:
    sent = send(lab)
    before = counts_with(lab, sent)
    nothing = policy_document("x", "nothing", podSelector={"matchLabels": {"pod": "a"}}, policyTypes=["Ingress"])
    lab.apply("more", nothing)
    sent += send(lab)
    both = counts_with(lab, sent)
    assert both["NetworkPolicy", "x", "nothing", "ingress", "deny"] == both[DENIED] - before[DENIED] > 0
    assert both[DENIED] == both[POLICY_DENIED]
    lab.delete("more")
    sent += send(lab)
    after = counts_with(lab, sent)
    assert after[DENIED] == after[POLICY_DENIED] > both[DENIED]
    assert after[NOTHING_DENIED] >= both[NOTHING_DENIED], "it is served for a while"


class Flood:
    """Packets from z/a to x/a, which its policies deny: one a millisecond, until the end."""

    def __init__(self, lab: ManifestLab) -> None:
        self.sent = 0
        self._to = lab.address("x/a", 4), 80
        self._socket = udp_socket(lab.pod("z/a"), lab.address("z/a", 4))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        while not self._ended.wait(0.001):
            self.send()

    def send(self) -> None:
        self._socket.sendto(b"denied", self._to)
        self.sent += 1

    def more(self, packets: int = 200) -> None:
        """Wait until so many more were sent."""
        wanted = self.sent + packets
        wait_until(lambda: self.sent >= wanted)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join()
            self._socket.close()


@contextmanager
def flood(lab: ManifestLab) -> Iterator[Flood]:
    """Send from before the first reading of a change to its last one; the neighbours are known before."""
    running = Flood(lab)
    running.send()
    wait_until(lambda: counts(lab)[DENIED] == 1)
    running.start()
    try:
        yield running
    finally:
        running.stop()


NOTHING = policy_document("x", "nothing", podSelector={"matchLabels": {"pod": "a"}}, policyTypes=["Ingress"])
NOTHING_DENIED = ("NetworkPolicy", "x", "nothing", "ingress", "deny")


@pytest.mark.both_backends
def test_no_packet_goes_missing_when_policies_come_and_go(lab: ManifestLab) -> None:
    with flood(lab) as packets:
        for _ in range(6):
            lab.apply("more", NOTHING)
            packets.more()
            lab.delete("more")
            packets.more()
    found = settled(lab, packets.sent)
    assert found[DENIED] == found[POLICY_DENIED] == packets.sent
    assert 0 < found[NOTHING_DENIED] < packets.sent, "the deleted policy's last packets are served"


def settled(lab: ManifestLab, sent: int) -> Counts:
    """Return the counts when the policy has counted so many packets."""
    wait_until(lambda: counts(lab)[POLICY_DENIED] >= sent)
    return counts(lab)


def of_cluster(*policies: Document) -> str:
    return as_text([*map(node_document, NODES), *map(namespace_document, "xyz"), *map(pod_document, PODS), *policies])


def without_the_pod(lab: ManifestLab) -> None:
    others = [pod_document(pod) for pod in PODS if (pod.namespace, pod.name) != ("x", "a")]
    documents = [*map(node_document, NODES), *map(namespace_document, "xyz"), *others, FROM_Y]
    lab.cluster.write("cluster.yaml", as_text(documents))


def without_the_policy(lab: ManifestLab) -> None:
    lab.cluster.write("cluster.yaml", of_cluster())


@pytest.mark.parametrize("change", [without_the_pod, without_the_policy], ids=["the Pod", "the policy"])
def test_the_last_packets_of_what_is_deleted_are_served(
    lab: ManifestLab, change: Callable[[ManifestLab], None]
) -> None:
    with flood(lab) as packets:
        packets.more()
        packets.stop()
        change(lab)
    found = settled(lab, packets.sent)
    assert found[DENIED] == found[POLICY_DENIED] == packets.sent


@pytest.mark.parametrize("while_stopped", [False, True], ids=["before the agent is killed", "while it is away"])
def test_no_packet_goes_missing_when_rules_change(lab: ManifestLab, *, while_stopped: bool) -> None:
    agent = lab.cluster.agent(node_of("x", "a"))
    lab.apply("more", NOTHING)
    with flood(lab) as packets:
        packets.more()
        if not while_stopped:
            lab.delete("more")
            packets.more(20)
        agent.stop(kill=True)
        packets.more()
        if while_stopped:
            lab.delete("more")
        agent.start()
        packets.more()
    found = settled(lab, packets.sent)
    assert found[DENIED] == found[POLICY_DENIED] == packets.sent


def test_counters_without_use_are_deleted_after_their_last_reading(lab: ManifestLab) -> None:
    node = node_of("x", "a")
    lab.apply("more", NOTHING)
    wait_until(lambda: NOTHING_COUNTER in nft(lab, node, "list counters"))
    lab.delete("more")
    agent = lab.cluster.agent(node)
    wait_until(lambda: NOTHING_COUNTER not in nft(lab, node, "list chains"))
    assert agent.ask("/v1/dump/diff")["equal"], "what waits for its deletion is no difference"
    wait_until(lambda: NOTHING_COUNTER not in nft(lab, node, "list counters"))
    assert agent.ask("/v1/dump/diff")["equal"]
    assert agent.ask("/v1/dump/state")["agent"]["reconcile"]["drifts"] == 0


NOTHING_COUNTER = "deny/ingress/x/from-y_nothing"


def nft(lab: ManifestLab, node: str, *words: str) -> str:
    inside = lab.topology.command(lab.topology.node_namespace(node), ["nft", *words])
    return subprocess.run(inside, check=True, capture_output=True, text=True).stdout


def test_counters_that_another_program_resets_set_no_count_back_and_the_log_says_it(lab: ManifestLab) -> None:
    node = node_of("x", "a")
    with flood(lab) as packets:
        packets.more()
        packets.stop()
    before = settled(lab, packets.sent)
    nft(lab, node, "reset counters table inet nfagent")
    send(lab)
    wait_until(lambda: counts(lab)[DENIED] > before[DENIED])
    after = counts(lab)
    assert after[DENIED] - before[DENIED] == after[POLICY_DENIED] - before[POLICY_DENIED] > 0
    wait_until(lambda: "another program reset packet counters" in lab.cluster.agent(node).stderr_text)


def test_a_pod_that_takes_over_an_address_has_none_of_its_last_holders_packets(lab: ManifestLab) -> None:
    counts(lab)
    send(lab)  # not read before the address moves
    newcomer = PodPlan("x", "newcomer", node_of("x", "a"), (lab.address("x/a", 4), lab.address("x/a", 6)))
    moved = [newcomer if (pod.namespace, pod.name) == ("x", "a") else pod for pod in PODS]
    documents = [*map(node_document, NODES), *map(namespace_document, "xyz"), FROM_Y]
    documents += [pod_document(pod, {"pod": "a"} if pod is newcomer else None) for pod in moved]
    lab.cluster.write("cluster.yaml", as_text(documents))
    wait_until(lambda: counts(lab)[POLICY_DENIED] > 0)
    found = counts(lab)
    assert not [key for key in found if key[1] == "newcomer"]
    assert found[DENIED] == found[POLICY_DENIED], "they are still the last holder's"
