"""Figures of a flow, and the policies of the larger cluster."""

from __future__ import annotations

import pytest

from benchmarks.suites.flushes import LARGE, Flushed, more
from nfagent.desired.state import DesiredState
from tests.support.two_node_cluster import DECODERS


@pytest.mark.parametrize(
    ("found", "share", "each"),
    [
        (Flushed(1000, 0, 0, 0.0), 0.0, 0.0),
        (Flushed(1000, 20, 5, 0.0), 2.0, 4.0),
        (Flushed(1000, 1000, 1, 0.0), 100.0, 1000.0),
    ],
    ids=["nothing passed", "some passed at each flush", "all passed"],
)
def test_passed_packets_are_a_share_and_a_time_per_flush(found: Flushed, share: float, each: float) -> None:
    assert (found.share, found.each) == (share, each)


def test_each_policy_of_the_larger_cluster_selects_peers_of_its_own() -> None:
    policies, pods = LARGE
    desired = DesiredState("n1")
    for document in more(*LARGE):
        item = DECODERS[document["kind"]](document)
        assert item is not None
        desired.put(item)
    assert len(desired.index.policies) == policies
    assert len(desired.cluster.pods) == pods
