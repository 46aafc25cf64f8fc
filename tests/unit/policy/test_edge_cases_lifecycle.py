"""docs/semantics.md, edge cases 26, 39 to 42, and 51: nodes, and Pods that start, end and reuse addresses."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.model.objects import ObjectRef
from nfagent.policy.options import PolicyOptions
from tests.support.edge_cases import BOTH, CLUSTER, EdgeCase, check, cidrs
from tests.support.nft_interpreter import opening, run, seen_at, stray
from tests.support.two_node_cluster import NODE_ADDRESSES, Document, TwoNodeCluster, labelled, pod, policy, tier_policy

OWN_NODE_ALLOWED = PolicyOptions(own_node="allowed")
ISOLATED = policy("shop/p", types=["Ingress"])
CLOSED = policy("shop/p", types=BOTH)

CASES = {
    "[39] a node always reaches its own Pods, and another node doesn't": EdgeCase(
        [ISOLATED],
        passing=("a > shop/web 80/tcp", "a > shop/web icmp", "b > shop/db 80/tcp"),
        dropped=("b > shop/web 80/tcp", "a > shop/db 80/tcp"),
    ),
    "[39] nor by IPv6": EdgeCase(
        [ISOLATED],
        passing=("a > shop/web 80/tcp", "a > shop/web icmpv6", "b > shop/db 80/udp"),
        dropped=("b > shop/web 80/tcp", "a > shop/db 80/tcp"),
        family=6,
    ),
    "[51] a Pod's egress to its own node is judged": EdgeCase(
        [policy("shop/p", types=["Egress"], egress=[{"to": cidrs("192.168.0.2/32")}])],
        passing=("shop/web > b 80/tcp",),
        dropped=("shop/web > a 80/tcp", "shop/web > a icmp"),
    ),
    "[51] and passes where a rule allows it": EdgeCase(
        [policy("shop/p", types=["Egress"], egress=[{"to": cidrs("fd00::1/128")}])],
        passing=("shop/web > a 80/tcp",),
        dropped=("shop/web > b 80/tcp", "shop/db > b 80/tcp"),
        family=6,
    ),
    "[51] by the setting it always passes, to its own node and to no other": EdgeCase(
        [CLOSED],
        passing=("shop/web > a 80/tcp", "shop/web > a 53/udp", "shop/web > a icmp", "shop/db > b 80/tcp"),
        dropped=(
            "shop/web > b 80/tcp",
            "shop/db > a 80/tcp",
            "shop/web > shop/cache 80/tcp",
            "shop/web > outside 80/tcp",
        ),
        policy_options=OWN_NODE_ALLOWED,
    ),
    "[51] by IPv6 too, and with either setting the node reaches its Pods": EdgeCase(
        [CLOSED],
        passing=("shop/web > a 80/tcp", "shop/db > b icmpv6", "a > shop/web 80/tcp"),
        dropped=("shop/web > b 80/tcp", "b > shop/web 80/tcp"),
        family=6,
        policy_options=OWN_NODE_ALLOWED,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_edge_case(case: EdgeCase) -> None:
    check(case)


@pytest.mark.parametrize("family", [4, 6])
def test_39_a_spoofed_node_address_is_subject_to_policies(family: int) -> None:
    # What the node sends to its Pods passes its output hook; in the forward hook its address is spoofed.
    scene = TwoNodeCluster(*CLUSTER, CLOSED)
    ruleset = scene.views["a"].ruleset()
    for destination in ("shop/web", "shop/cache"):
        packet = opening(scene.flow("a", destination, "80/tcp", family))
        assert run(ruleset, "output", seen_at("output", packet)).accepted
        assert not run(ruleset, "forward", packet).accepted


def test_26_a_mapped_address_and_its_ipv4_form_are_one() -> None:
    mapped = pod("ops/mapped", "b", 21)
    mapped["status"]["podIPs"] = [{"ip": "::ffff:10.64.1.21"}]
    scene = TwoNodeCluster(
        *CLUSTER, mapped, policy("shop/p", ingress=[{"from": [{"namespaceSelector": labelled(team="blue")}]}])
    )
    assert scene.passes("10.64.1.21", "shop/web", "80/tcp")


def lively(**changes: Any) -> Document:  # noqa: ANN401 - a document's own fields
    found = pod("shop/job", "a", 40, app="job")
    for path, value in changes.items():
        section, _, key = path.partition("_")
        found[section][key] = value
    return found


def test_40_a_host_network_pod_does_not_add_the_nodes_addresses() -> None:
    host = lively(spec_hostNetwork=True, status_podIPs=[{"ip": address} for address in NODE_ADDRESSES["a"]])
    scene = TwoNodeCluster(*CLUSTER, host, CLOSED)
    ruleset = scene.views["a"].ruleset()
    held = {address for item in ruleset.maps.values() for address in item.elements}
    assert held >= {"10.64.0.10", "2001:db8:0:a::10"}
    assert held.isdisjoint(NODE_ADDRESSES["a"])
    for family in (4, 6):
        assert scene.passes("outside", "a", "80/tcp", family)
        assert scene.passes("a", "outside", "80/tcp", family)


def test_40_nor_is_it_a_peer() -> None:
    host = lively(spec_hostNetwork=True, status_podIPs=[{"ip": address} for address in NODE_ADDRESSES["a"]])
    scene = TwoNodeCluster(*CLUSTER, host, policy("shop/p", ingress=[{"from": [{"namespaceSelector": {}}]}]))
    sets = scene.views["b"].ruleset().sets
    assert [name for name, item in sets.items() if item.elements & set(NODE_ADDRESSES["a"])] == []
    assert not scene.passes("a", "shop/db", "80/tcp")
    assert scene.passes("shop/web", "shop/db", "80/tcp")


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_41_an_address_that_a_finished_pod_gave_back_is_free(phase: str) -> None:
    scene = TwoNodeCluster(*CLUSTER, lively(status_phase=phase), ISOLATED)
    assert scene.passes("ops/spy", "10.64.0.40", "80/tcp")
    scene.put(pod("ops/heir", "a", 40))
    assert scene.passes("ops/spy", "10.64.0.40", "80/tcp")


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown"])
def test_41_a_pod_that_holds_its_address_is_isolated_in_every_other_phase(phase: str) -> None:
    assert not TwoNodeCluster(*CLUSTER, lively(status_phase=phase), ISOLATED).passes("ops/spy", "10.64.0.40", "80/tcp")


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_41_a_pod_still_pending_inherits_the_address_and_its_own_policies_hold(phase: str) -> None:
    heir = pod("ops/heir", "a", 40)
    heir["status"]["phase"] = "Pending"
    scene = TwoNodeCluster(*CLUSTER, lively(status_phase=phase), heir, policy("ops/p", labelled(), types=["Ingress"]))
    assert not scene.passes("ops/spy", "10.64.0.40", "80/tcp")
    assert not scene.passes("outside", "10.64.0.40", "80/tcp")


def test_41_a_peers_rules_apply_for_the_pod_that_reuses_the_address_only() -> None:
    from_jobs = policy("shop/p", labelled(app="db"), ingress=[{"from": [{"podSelector": labelled(app="job")}]}])
    scene = TwoNodeCluster(*CLUSTER, lively(), from_jobs)
    assert scene.passes("10.64.0.40", "shop/db", "80/tcp")
    scene.put(lively(status_phase="Succeeded"))
    assert not scene.passes("10.64.0.40", "shop/db", "80/tcp")
    scene.put(pod("shop/heir", "a", 40, app="job"))
    assert scene.passes("10.64.0.40", "shop/db", "80/tcp")


def test_41_a_terminating_pod_stays_isolated_until_it_has_ended() -> None:
    terminating = lively(metadata_deletionTimestamp="2026-11-23T04:00:00Z", metadata_deletionGracePeriodSeconds=30)
    scene = TwoNodeCluster(*CLUSTER, terminating, ISOLATED)
    assert not scene.passes("ops/spy", "shop/job", "80/tcp")
    terminating["status"]["phase"] = "Succeeded"
    scene.put(terminating)
    assert scene.passes("ops/spy", "10.64.0.40", "80/tcp")


@pytest.mark.parametrize(("first", "second"), [("ops/aa", "shop/job"), ("shop/job", "shop/zz"), ("shop/a", "ops/z")])
def test_41_of_two_pods_with_one_address_any_that_is_isolated_isolates_it(first: str, second: str) -> None:
    scene = TwoNodeCluster(*CLUSTER, pod(first, "a", 40), pod(second, "a", 40), ISOLATED)
    assert not scene.passes("ops/spy", "10.64.0.40", "80/tcp")


HELD = "10.64.0.40"
HOLDERS = tuple(pod(path, "a", 40, app=path.rpartition("/")[2]) for path in ("shop/one", "shop/two", "shop/three"))


def opened(name: str, *ports: int, kind: str = "Ingress") -> Document:
    """Isolate one of the holders, but for these ports."""
    rules = {kind.lower(): [{"ports": [{"port": number} for number in ports]}]} if ports else {}
    return policy(f"shop/{name}", labelled(app=name), types=[kind], **rules)


@pytest.mark.parametrize(
    ("policies", "passing"),
    [
        pytest.param([], {80, 81, 82, 83}, id="everything if no Pod is isolated"),
        pytest.param([opened("two", 80, 81)], {80, 81}, id="what the one that is isolated allows"),
        pytest.param([opened("one", 80, 81), opened("two", 81, 82)], {81}, id="what both allow where two are"),
        pytest.param([opened("one", 80), opened("two", 81)], set(), id="nothing where they allow nothing in common"),
        pytest.param(
            [opened(n, 81, p) for n, p in (("one", 80), ("two", 82), ("three", 83))], {81}, id="what all allow"
        ),
        pytest.param(
            [
                opened("one", 80, 81),
                tier_policy(
                    "AdminNetworkPolicy",
                    "guard",
                    {"pods": {"namespaceSelector": {}, "podSelector": labelled(app="three")}},
                    priority=1,
                    ingress=[
                        {
                            "action": "Deny",
                            "from": [{"namespaces": {}}],
                            "ports": [{"portNumber": {"protocol": "TCP", "port": 81}}],
                        }
                    ],
                ),
            ],
            {80},
            id="not what a tier denies one of them",
        ),
    ],
)
def test_41_to_an_address_that_several_pods_hold_passes(policies: list[Document], passing: set[int]) -> None:
    scene = TwoNodeCluster(*CLUSTER, *HOLDERS, *policies)
    assert {number for number in range(80, 84) if scene.passes("ops/spy", HELD, f"{number}/tcp")} == passing
    for number in range(80, 84):
        packet = stray(scene.flow("ops/spy", HELD, f"{number}/tcp"), "untracked")
        assert run(scene.views["a"].ruleset(), "forward", packet).accepted == (number in passing)


def test_41_from_an_address_that_two_pods_hold_passes_what_both_allow() -> None:
    scene = TwoNodeCluster(
        *CLUSTER, *HOLDERS, opened("one", 80, 81, kind="Egress"), opened("two", 81, 82, kind="Egress")
    )
    assert {number for number in range(80, 84) if scene.passes(HELD, "ops/spy", f"{number}/tcp")} == {81}


def test_41_once_one_pod_holds_the_address_only_its_policies_apply() -> None:
    policies = (opened("one", 80), opened("two", 81))
    scene = TwoNodeCluster(*CLUSTER, *HOLDERS, *policies)
    assert "forward-ingress-2" in scene.views["a"].ruleset().chains
    for view in scene.views.values():
        view.remove(ObjectRef("Pod", "shop", "one"))
        view.remove(ObjectRef("Pod", "shop", "three"))
    assert {number for number in range(80, 84) if scene.passes("ops/spy", HELD, f"{number}/tcp")} == {81}
    assert scene.views["a"].ruleset() == TwoNodeCluster(*CLUSTER, HOLDERS[1], *policies).views["a"].ruleset()


def test_41_a_pod_that_is_not_being_deleted_names_an_address() -> None:
    stale = pod("shop/aaa", "a", 40)
    stale["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster = TwoNodeCluster(*CLUSTER, stale, HOLDERS[0]).views["a"].cluster
    assert [found.name for found in cluster.holders(HELD)] == ["one", "aaa"]


def test_42_the_second_family_arrives_later() -> None:
    scene = TwoNodeCluster(*CLUSTER, lively(status_podIPs=[{"ip": "10.64.0.40"}]), ISOLATED)
    assert not scene.passes("ops/spy", "10.64.0.40", "80/tcp")
    assert scene.passes("2001:db8:0:b::20", "2001:db8:0:a::40", "80/tcp", 6)
    scene.put(lively())
    assert not scene.passes("2001:db8:0:b::20", "2001:db8:0:a::40", "80/tcp", 6)
    assert not scene.passes("ops/spy", "10.64.0.40", "80/tcp")


def test_42_and_a_peers_second_family_too() -> None:
    from_jobs = policy("shop/p", labelled(app="db"), ingress=[{"from": [{"podSelector": labelled(app="job")}]}])
    scene = TwoNodeCluster(*CLUSTER, lively(status_podIPs=[{"ip": "10.64.0.40"}]), from_jobs)
    assert scene.passes("10.64.0.40", "shop/db", "80/tcp")
    assert not scene.passes("2001:db8:0:a::40", "2001:db8:0:b::10", "80/tcp", 6)
    scene.put(lively())
    assert scene.passes("2001:db8:0:a::40", "2001:db8:0:b::10", "80/tcp", 6)
