"""Egress NAT through the API server: the policy `default`, sources, and policies that disagree."""

from __future__ import annotations

import pytest

from nfagent.lab.probes.probe import Probe
from tests.apiserver.lab.conftest import OUTSIDE
from tests.support.apiserver_labs import ApiLab
from tests.support.egress_labs import nat_policy
from tests.support.packet_labs import Document, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver, pytest.mark.usefixtures("all_kinds", "tidy")]

_CREATED_SECONDS = 90.0
OUTSIDE_CIDRS = ("198.51.100.0/24", "2001:db8:99::/64")


DEFAULT = nat_policy("default", "NoSNAT", ())
PODS_A = {"namespaceSelector": {"matchLabels": {"ns": "x"}}, "podSelector": {"matchLabels": {"pod": "a"}}}


def seen(lab: ApiLab, pod: str) -> str:
    """As whom hosts outside see a Pod, the same in both families: 'pod' or 'node'."""
    probes = [Probe(lab.pod(pod), address, "tcp", 443) for address in OUTSIDE[0].addresses]
    sources = {outcome.seen_from for outcome in lab.ask(probes).values()}
    plan = lab.topology.pods[pod.partition("/")[0], pod.partition("/")[2]]
    assert sources in (set(plan.addresses), set(lab.topology.nodes[plan.node].addresses))
    return "pod" if sources == set(plan.addresses) else "node"


def programmed(lab: ApiLab, document: Document) -> tuple[str, str]:
    """Return status and reason of the condition Programmed."""
    found = (lab.client.get(document) or {}).get("status", {}).get("conditions", [])
    return next(((one["status"], one["reason"]) for one in found if one["type"] == "Programmed"), ("", ""))


def test_the_policy_default_is_created_with_true_conditions_and_again_after_a_deletion(lab: ApiLab) -> None:
    for _ in range(2):
        wait_until(lambda: programmed(lab, DEFAULT) == ("True", "Programmed"), _CREATED_SECONDS)
        assert programmed(lab, DEFAULT) == ("True", "Programmed")
        found = lab.client.get(DEFAULT)
        assert found is not None
        assert found["spec"]["destinations"][0] == {"cidr": "10.0.0.0/8"}
        lab.cluster.delete(DEFAULT)
    lab.cluster.put(nat_policy("default", "NoSNAT", OUTSIDE_CIDRS))
    try:
        assert (seen(lab, "x/a"), seen(lab, "x/b")) == ("pod", "pod")
    finally:
        # It may have been there before the test, which restores no contents.
        lab.cluster.delete(DEFAULT)


def test_a_policy_with_sources_is_for_the_pods_that_they_select_alone(lab: ApiLab) -> None:
    assert (seen(lab, "x/a"), seen(lab, "x/b"), seen(lab, "y/a")) == ("node", "node", "node")
    chosen = nat_policy("chosen", "NoSNAT", OUTSIDE_CIDRS, PODS_A)
    lab.cluster.put(chosen)
    assert (seen(lab, "x/a"), seen(lab, "x/b"), seen(lab, "y/a")) == ("pod", "node", "node")
    wait_until(lambda: programmed(lab, chosen) == ("True", "Programmed"))
    lab.cluster.put(nat_policy("hide", "SNAT", OUTSIDE_CIDRS))
    assert seen(lab, "x/a") == "node"
    wait_until(lambda: programmed(lab, chosen) == ("False", "Conflict"))
    wait_until(lambda: programmed(lab, nat_policy("hide", "SNAT", ())) == ("False", "Conflict"))
    lab.cluster.put(nat_policy("chosen", "NoSNAT", ("198.51.100.10/32", "2001:db8:99::10/128"), PODS_A))
    assert (seen(lab, "x/a"), seen(lab, "x/b")) == ("pod", "node")
    wait_until(lambda: programmed(lab, chosen) == ("True", "Programmed"))
    wait_until(lambda: programmed(lab, nat_policy("hide", "SNAT", ())) == ("True", "Programmed"))
