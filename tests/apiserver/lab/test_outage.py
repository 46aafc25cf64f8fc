"""The API server is killed under traffic, and comes back: nothing changes meanwhile, and nothing is missed after.

While it is away the agent of node b is started anew. The agent of node a stands still (SIGSTOP) while things change and
etcd forgets what they were: where it then goes on is gone (410), so it lists again, and takes up the difference.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.cluster.agents_apiserver import all_are_watching
from nfagent.lab.probes.continuous_probe import ContinuousProbe
from nfagent.lab.probes.probe import Probe
from nfagent.lab.probes.traffic import StreamPlan, StreamSender, TrafficStreams
from nfagent.model.netaddr import FAMILIES
from tests.support.apiserver_labs import ApiLab
from tests.support.packet_labs import Document, policy_document, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver]

ROUNDS = 12
"""Of probes while the server is away; one takes about half a second."""

TIER: Document = {
    "apiVersion": "policy.networking.k8s.io/v1alpha1",
    "kind": "AdminNetworkPolicy",
    "metadata": {"name": "no-z"},
    "spec": {
        "priority": 5,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "c"}}}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"ns": "z"}}}]}],
    },
}


def isolating(name: str, namespace: str, pod: str, *friends: str) -> Document:
    peers = [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": friend}}} for friend in friends]
    rules = [{"from": peers}] if peers else []
    return policy_document(
        namespace, name, podSelector={"matchLabels": {"pod": pod}}, policyTypes=["Ingress"], ingress=rules
    )


KEPT = [isolating("kept-a", "x", "a", "b"), isolating("kept-b", "x", "b", "c"), TIER]
GONE = [isolating("gone-a", "y", "a"), isolating("gone-b", "y", "b")]
LATE = [isolating("late-a", "z", "a"), isolating("late-b", "z", "b")]


@dataclass
class Story:
    """What happened.

    wrong, asked:   probes while the server was away and came back
    lost:           packets of live connections that never arrived, by connection
    begun:          what node b's agent said that started without a server
    rules:          node a's kept rules with their handles, before and after
    before, after:  node a's reconciler
    """

    wrong: list[str] = field(default_factory=list)
    asked: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    begun: str = ""
    said: str = ""
    rules: list[list[str]] = field(default_factory=list)
    before: Document = field(default_factory=dict)
    after: Document = field(default_factory=dict)
    expired: list[int] = field(default_factory=list)
    late: dict[str, set[bool]] = field(default_factory=dict)


def expectations(lab: ApiLab) -> dict[Probe, bool]:
    wanted = {
        ("y/b", "x/a"): True,
        ("y/a", "x/a"): False,
        ("y/c", "x/b"): True,
        ("y/a", "x/b"): False,
        ("z/a", "x/c"): False,
        ("x/a", "x/c"): True,
        ("z/b", "y/c"): False,
        ("x/a", "z/c"): True,
    }
    return {
        Probe(lab.pod(source), lab.address(destination, family), protocol, 80): allowed
        for (source, destination), allowed in wanted.items()
        for family in FAMILIES
        for protocol in ("tcp", "udp")
    }


def kept_rules(agent: LabAgent) -> list[str]:
    """Return the rules of the policies that stay, with their handles: a rewritten rule has another."""
    lines = agent.nft("-a", "-s", "list", "table", "inet", "nfagent").splitlines()
    rules = [line.strip() for line in lines if re.search(r" comment .*# handle \d+$", line)]
    return [rule for rule in rules if "x/kept-a" in rule or "no-z" in rule]


@contextlib.contextmanager
def standing_still(agent: LabAgent) -> Iterator[None]:
    agent.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        agent.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def story(lab: ApiLab, all_kinds: None) -> Iterator[Story]:  # noqa: ARG001 - among others, a tier is in force meanwhile
    before = lab.client.inventory()
    lab.cluster.put(*KEPT, *GONE)
    lab.cluster.wait_for_recheck()
    # An agent ends with the thread that started it.
    with ThreadPoolExecutor(1) as pool:
        try:
            yield tell(lab, pool)
        finally:
            if not lab.plane.is_running:
                lab.plane.start()
            lab.cluster.agent("b").stop()
    lab.cluster.agent("b").start()
    lab.restore(before)


def tell(lab: ApiLab, pool: ThreadPoolExecutor) -> Story:
    story, (a, b) = Story(), lab.cluster.agents.values()
    story.rules.append(kept_rules(a))
    story.before = a.ask("/v1/dump/state")["agent"]["reconcile"]
    heard = len(a.stderr_text)
    version = lab.client.list("networking.k8s.io/v1", "NetworkPolicy")[0]["metadata"]["resourceVersion"]
    with ContinuousProbe(lab.servers, expectations(lab)) as probe, TrafficStreams(0.005) as talks:
        speakers: tuple[StreamSender, StreamSender] = ("client", "server")
        lines = [
            StreamPlan(
                client=lab.pod("y/b"), server=lab.pod("x/a"), address=address, protocol="udp", port=7000, speaker=who
            )
            for address, who in zip(lab.topology.pods["x", "a"].addresses, speakers, strict=True)
        ]
        live = [talks.open(line) for line in lines]
        talks.wait_for(5, *live)
        lab.plane.kill()
        b.stop()
        said = len(b.stderr_text)
        start = pool.submit(b.start, None, 240.0)
        wait_until(lambda: "can't be reached" in a.stderr_text[heard:] and "can't be reached" in b.stderr_text[said:])
        story.begun = b.stderr_text[said:]
        probe.wait_for(ROUNDS)
        assert not start.done()
        with standing_still(a):
            lab.plane.start()
            for policy in GONE:
                lab.client.delete(policy)
            lab.client.put_all(LATE)
            lab.plane.compact()
            story.expired = expired(lab, version)
        start.result()
        lab.cluster.wait_until_enforced(GONE)
        story.late = {
            path: lab.reach("x/b", path) for path in ("y/a", "y/b", "z/a", "z/b")
        }  # two Pods of each node, by now
        lab.cluster.wait_for_recheck()
        wait_until(lambda: all_are_watching([a, b]))
        wait_until(lambda: "all kinds are watched again" in a.stderr_text[heard:])  # a thread writes its log
        probe.wait_for(1)
        talks.close(*live)
        story.lost = {str(talk.plan): len(set(range(1, talk.sent + 1)) - set(talk.numbers())) for talk in live}
    story.wrong, story.asked = probe.wrong, probe.asked
    story.said = a.stderr_text[heard:]
    story.rules.append(kept_rules(a))
    story.after = a.ask("/v1/dump/state")["agent"]["reconcile"]
    return story


def expired(lab: ApiLab, version: str) -> list[int]:
    """Return the codes of the error events of a watch from a compacted version; a busy server may need several."""
    query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "1"}
    codes: list[int] = []

    def watched() -> bool:
        events = lab.client.ask("GET", "/apis/networking.k8s.io/v1/networkpolicies", query=query).lines
        codes[:] = [event["object"].get("code", 0) for event in events]
        return bool(codes)

    wait_until(watched)
    return codes


def test_no_verdict_changes_during_the_outage_and_the_return(story: Story) -> None:
    assert story.wrong == []
    assert story.asked >= ROUNDS * 32


def test_no_packet_of_a_live_connection_is_lost(story: Story) -> None:
    assert set(story.lost.values()) == {0}


def test_the_agents_log_the_outage_in_a_few_lines_and_the_recovery_once(story: Story) -> None:
    for said in (story.said, story.begun):
        # What they write there (Lease, Events, conditions) has lines of its own.
        assert 1 <= said.count("can't be reached: Connection refused") <= 4
        assert "Traceback" not in said
    assert story.said.count("all kinds are watched again") == 1


def test_an_agent_that_starts_without_a_server_logs_what_it_waits_for(story: Story) -> None:
    assert "can't be reached: Connection refused" in story.begun
    assert "in sync" not in story.begun


def test_the_version_of_the_stopped_agent_was_compacted(story: Story) -> None:
    assert story.expired == [410]


def test_both_agents_enforce_the_newest_state_and_find_what_was_deleted(story: Story) -> None:
    assert story.late == {"y/a": {True}, "y/b": {True}, "z/a": {False}, "z/b": {False}}


def test_a_relist_writes_the_difference_alone(story: Story) -> None:
    assert len(story.rules[0]) >= 4
    assert story.rules[1] == story.rules[0], "the rules of unchanged policies are the same ones"
    assert 1 <= story.after["transactions"] - story.before["transactions"] <= 8
    assert story.after["drifts"] == story.before["drifts"]
