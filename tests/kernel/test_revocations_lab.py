"""Issue 5, live connections: what a change revokes has ended with its commit, and what it leaves allowed loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.lab.plan import grid
from nfagent.lab.talk import Speaker, Talk, TalkProtocol
from tests.labs import Lab, namespace_document, pod_document, policy_document, running_lab, wait_until

pytestmark = pytest.mark.kernel

NODES, PODS, OUTSIDE = grid()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    documents = [namespace_document(name) for name in "xyz"]
    documents += [pod_document(pod) for pod in PODS]
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, OUTSIDE, documents) as running:
        yield running


DENY_X = policy_document("x", "deny", podSelector={}, policyTypes=["Ingress"], ingress=[])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("speaker", ["client", "server"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_smoke(lab: Lab, protocol: TalkProtocol, speaker: Speaker, family: int) -> None:
    agent = lab.cluster.agent(lab.fabric.pods["x", "a"].node)
    with Talk(lab.pod("y/b"), lab.pod("x/a"), lab.address("x/a", family), protocol, 7000, speaker=speaker) as talk:
        talk.wait_for(50)
        before = agent.ask("/v1/dump/state")["agent"]["revoke"]
        lab.apply("deny", DENY_X)
        lab.cluster.calm()
        after = agent.ask("/v1/dump/state")["agent"]["revoke"]
        committed = after["suspected_at"]
        wait_until(lambda: False, 0.3)
        late = [when - committed for when in talk.arrivals() if when > committed]
        print(before, after, len(talk.arrivals()), late[:5])
        lab.delete("deny")
    assert late == []
    assert after["revoked"] == before["revoked"] + 1
