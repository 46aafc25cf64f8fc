"""Verdicts are counted by Pod and by policy with logging off, and no count decreases: over restarts, flushes, rules."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.lab.listeners import pod_endpoints
from nfagent.lab.probe import Probe
from nfagent.lab.topology_plan import PodPlan, grid
from tests.support.metrics_page import scraped
from tests.support.packet_labs import (
    ManifestLab,
    as_text,
    namespace_document,
    node_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)

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
def lab(tmp_path: Path) -> Iterator[ManifestLab]:
    documents = [*map(namespace_document, "xyz"), *map(pod_document, PODS), FROM_Y]
    with running_lab(tmp_path, NODES, PODS, documents=documents) as running:
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


def counts_with(lab: ManifestLab, allowed: int) -> Counts:
    """Return the counts once so many connections to x/a were allowed, or after a while."""
    wait_until(lambda: counts(lab)[ALLOWED] == allowed)
    return counts(lab)


def node_of(namespace: str, name: str) -> str:
    return next(pod.node for pod in PODS if (pod.namespace, pod.name) == (namespace, name))


ALLOWED, DENIED = ("x", "a", "ingress", "allow"), ("x", "a", "ingress", "deny")
POLICY_ALLOWED = ("NetworkPolicy", "x", "from-y", "ingress", "allow")
POLICY_DENIED = ("NetworkPolicy", "x", "from-y", "ingress", "deny")


def send(lab: ManifestLab) -> int:
    """Open connections to x/a from y/a, which may, and from z/a, which may not, two each; return the number of each.

    A denied client sends several packets.
    """
    allowed, denied = (
        {Probe(lab.pod(f"{source}/a"), lab.address("x/a", family), "tcp", 80): source == "y" for family in (4, 6)}
        for source in "yz"
    )
    # With a long deadline no connection is opened again on a slow machine.
    assert lab.wrong(allowed, 5.0) == []
    assert lab.wrong(denied) == []
    return len(allowed)


def test_first_packets_of_connections_and_denied_packets_are_counted_with_logging_off(lab: ManifestLab) -> None:
    assert counts(lab) == Counter()
    sent = send(lab)
    first = counts_with(lab, sent)
    assert first.keys() == {ALLOWED, DENIED, POLICY_ALLOWED, POLICY_DENIED}
    assert first[ALLOWED] == first[POLICY_ALLOWED] == sent
    assert first[DENIED] == first[POLICY_DENIED] >= sent
    more = send(lab)
    second = counts_with(lab, sent + more)
    assert second[ALLOWED] == second[POLICY_ALLOWED] == sent + more
    assert second[DENIED] == second[POLICY_DENIED] >= first[DENIED] + more


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
    assert ("NetworkPolicy", "x", "nothing", "ingress", "deny") not in after


def test_a_pod_that_takes_over_an_address_has_none_of_its_last_holders_packets(lab: ManifestLab) -> None:
    counts(lab)
    send(lab)  # not read before the address moves
    newcomer = PodPlan("x", "newcomer", node_of("x", "a"), (lab.address("x/a", 4), lab.address("x/a", 6)))
    moved = [newcomer if (pod.namespace, pod.name) == ("x", "a") else pod for pod in PODS]
    documents = [*map(node_document, NODES), *map(namespace_document, "xyz"), FROM_Y]
    documents += [pod_document(pod, {"pod": "a"} if pod is newcomer else None) for pod in moved]
    lab.cluster.write("cluster.yaml", as_text(documents))
    wait_until(lambda: counts(lab)[POLICY_DENIED] > 0)
    assert not [key for key in counts(lab) if key[1] == "newcomer"]
