"""Edge cases as tables of policies and flows, checked with the ruleset, the evaluator and explain at once.

A test's name has the number of its edge case in docs/semantics.md: `test_13_...`, or an id that begins `[13] `.
"""

from __future__ import annotations

from typing import NamedTuple

from nfagent.explain.explanation import explain_flow
from nfagent.policy.options import PolicyOptions
from tests.support.two_node_cluster import Document, TwoNodeCluster, namespace, pod, port

HTTP = port(80, "http")
WEB = pod("shop/web", "a", 10, (HTTP,), app="web")
DB = pod("shop/db", "b", 10, (port(5432, "pg"),), app="db")
CACHE = pod("shop/cache", "a", 11, (port(6379, "redis"),), app="cache", tier="back")
SPY = pod("ops/spy", "b", 20, (port(9000, "http"), port(53, "http", "UDP")), app="web")
CLUSTER = (namespace("shop", team="red"), namespace("ops", team="blue"), WEB, DB, CACHE, SPY)
BOTH = ["Ingress", "Egress"]


class EdgeCase(NamedTuple):
    """Policies and further objects, and flows as `source > destination port` that pass or are dropped."""

    policies: list[Document]
    passing: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    more: tuple[Document, ...] = ()
    family: int = 4
    policy_options: PolicyOptions = PolicyOptions()


def check(case: EdgeCase) -> TwoNodeCluster:
    """Check that the rules of both nodes, `evaluate` and `explain` have the expected verdict for every flow."""
    scene = TwoNodeCluster(*CLUSTER, *case.more, *case.policies, policy_options=case.policy_options)
    for written in (*case.passing, *case.dropped):
        source, destination, number = written.replace(">", " ").split()
        passes = scene.passes(source, destination, number, case.family)
        assert passes == (written in case.passing), written
        view = scene.views["a"]
        flow = scene.flow(source, destination, number, case.family)
        assert explain_flow(view.cluster, view.index, flow, view.policy_options).allowed == passes, (
            f"explain has another verdict: {written}"
        )
    return scene


def blocks(*blocks: Document) -> list[Document]:
    """Return peers: one for each ipBlock."""
    return [{"ipBlock": block} for block in blocks]


def cidrs(*cidrs: str) -> list[Document]:
    """Return peers: an ipBlock without except for each CIDR."""
    return blocks(*({"cidr": cidr} for cidr in cidrs))
