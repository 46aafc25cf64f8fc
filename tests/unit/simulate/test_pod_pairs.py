"""Which flows between Pods are tried: all whose verdict could change, and one for each kind of traffic."""

from __future__ import annotations

import pytest

from nfagent.model.admin_policy import Policy
from nfagent.model.networkpolicy import PolicyPort
from nfagent.model.objects import ContainerPort
from nfagent.simulate import pod_pairs
from nfagent.simulate.patch import PolicyPatch
from nfagent.simulate.pod_pairs import FlowKind, PodPairs, kinds
from nfagent.simulate.simulation import PolicySimulation
from tests.support.two_node_cluster import (
    DECODERS,
    Document,
    TwoNodeCluster,
    labelled,
    namespace,
    pod,
    policy,
    port,
    tier_policy,
)

PODS = (
    pod("shop/web", "a", 10, (port(80, "http"),), app="web"),
    pod("shop/db", "b", 20, app="db"),
    pod("ops/probe", "a", 30, app="probe"),
)
TO_DB = policy("shop/db", labelled(app="db"), ingress=[{"ports": [{"port": 5432}]}])
FROM_WEB = policy("shop/web", labelled(app="web"), types=["Egress"])


def survey(scene: TwoNodeCluster, *documents: Document, namespace: str = "", pod: str = "") -> PodPairs:
    view = scene.views["a"]
    put: list[Policy] = []
    for document in documents:
        item = DECODERS[document["kind"]](document)
        assert isinstance(item, Policy)
        put.append(item)
    found = PodPairs(PolicySimulation(view.cluster, view.index, PolicyPatch(put=tuple(put))), namespace, pod)
    for _ in found.steps():
        pass
    for _ in found.plan():
        pass
    return found


def pairs(found: PodPairs) -> set[str]:
    """Return the pairs that are judged, by the Pods that stand for them."""
    known = ((client, server) for client, server in found.pairs() if server is not None)
    return {f"{client.pods[0].ref.path} {server.pods[-1].ref.path}" for client, server in known}


@pytest.mark.parametrize(
    ("documents", "where", "expected"),
    [
        ((TO_DB,), "", {"shop/web shop/db", "ops/probe shop/db"}),
        ((FROM_WEB,), "", {"shop/web shop/db", "shop/web ops/probe"}),
        ((TO_DB, FROM_WEB), "", {"shop/web shop/db", "ops/probe shop/db", "shop/web ops/probe"}),
        ((TO_DB,), "ops", {"ops/probe shop/db"}),
        ((TO_DB,), "shop", {"shop/web shop/db", "ops/probe shop/db"}),
        ((policy("none/of", {}),), "", set()),
    ],
    ids=["ingress", "egress", "both", "with a client in a namespace", "with a server there", "of no Pod"],
)
def test_pairs_have_an_end_that_the_patch_affects(
    documents: tuple[Document, ...], where: str, expected: set[str]
) -> None:
    scene = TwoNodeCluster(*PODS)
    assert pairs(survey(scene, *documents, namespace=where)) == expected


def test_pods_that_a_policy_selected_before_count_too() -> None:
    scene = TwoNodeCluster(*PODS, TO_DB)
    assert pairs(survey(scene, policy("shop/db", labelled(app="web")))) == {
        "shop/web shop/db",
        "ops/probe shop/db",
        "shop/db shop/web",
        "ops/probe shop/web",
    }


def test_a_pair_is_judged_in_both_families_with_every_kind_of_traffic() -> None:
    scene = TwoNodeCluster(*PODS)
    found = survey(scene, policy("shop/db", labelled(app="db")))
    changes = [change for change in found.compare() if change is not None]
    assert [(str(change.flow), change.traffic) for change in changes if change.source.startswith("shop/web")] == [
        ("10.64.0.10 -> 10.64.1.20:1/tcp", "other ports"),
        ("10.64.0.10 -> 10.64.1.20/icmp", "icmp"),
        ("2001:db8:0:a::10 -> [2001:db8:0:b::20]:1/tcp", "other ports"),
        ("2001:db8:0:a::10 -> 2001:db8:0:b::20/icmpv6", "icmpv6"),
    ]
    assert survey(scene, TO_DB).total == 2 * 2 * 3, "two clients, two families; a port, other ports, and ICMP"


REPLICAS = tuple(pod(f"shop/web-{number}", "a", number, app="web") for number in range(40, 45))


def test_pods_that_policies_can_not_tell_apart_are_judged_once_and_all_counted() -> None:
    scene = TwoNodeCluster(*PODS, *REPLICAS)
    found = survey(scene, policy("shop/db", labelled(app="db")))
    changes = [change for change in found.compare() if change is not None]
    several = [change for change in changes if change.source == "shop app=web (5 Pods)"]
    assert {change.pairs for change in several} == {5}
    assert len(changes) == 3 * 2 * 2, "web, its replicas, and probe; two families; other ports and ICMP"
    assert found.counts.denied == sum(change.pairs for change in changes) == 7 * 2 * 2
    assert (found.done, found.total) == (3 * 2 * 2, 3 * 2 * 2)


def test_pods_of_one_class_are_judged_with_each_other() -> None:
    scene = TwoNodeCluster(*REPLICAS)
    found = survey(scene, policy("shop/shut"))
    changes = [change for change in found.compare() if change is not None]
    assert {(change.source, change.destination, change.pairs) for change in changes} == {
        ("shop app=web (5 Pods)", "shop app=web (5 Pods)", 5 * 4)
    }


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("", {"shop/web-40 shop/db", "shop/web-41 shop/db"}),
        ("shop", {"shop/web-40 shop/db", "shop/web-41 shop/db"}),
        ("ops", set()),
    ],
    ids=["", "with an end in its namespace", "with an end in another"],
)
def test_pairs_can_be_narrowed_to_a_pod(where: str, expected: set[str]) -> None:
    scene = TwoNodeCluster(*PODS, *REPLICAS)
    found = survey(scene, TO_DB, namespace=where, pod="shop/web-40")
    assert pairs(found) == {pair for pair in expected if "web-40" in pair}
    assert found.total == len(pairs(found)) * 2 * 3


def test_too_many_changes_are_counted_and_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_pairs, "MOST_LISTED", 3)
    found = survey(TwoNodeCluster(*PODS), policy("shop/db", labelled(app="db")))
    assert sum(change is not None for change in found.compare()) == 3
    assert (found.unlisted, found.counts.denied) == (5, 8)


def test_pods_without_an_address_of_their_own_are_left_out() -> None:
    ended = pod("shop/ended", "a", 40, app="db")
    ended["status"]["phase"] = "Succeeded"
    host = pod("shop/host", "a", 50, app="db")
    host["spec"]["hostNetwork"] = True
    scene = TwoNodeCluster(*PODS, ended, host)
    found = survey(scene, TO_DB)
    assert pairs(found) == {"shop/web shop/db", "ops/probe shop/db"}
    assert found.judged == 1


LOGGED = [
    pytest.param((TO_DB,), (policy("shop/more", labelled(app="db")),), (1, 1), id="a Pod of another node"),
    pytest.param((), (FROM_WEB,), (1, 1), id="a Pod that no policy selects yet"),
    pytest.param(
        (FROM_WEB,), (policy("shop/more", {}, types=["Egress"]),), (2, 1), id="a Pod that is selected already"
    ),
    pytest.param(
        (FROM_WEB,), (policy("shop/more", labelled(app="web")),), (1, 1), id="selected, but for the other direction"
    ),
    pytest.param((), (), (0, 0), id="no Pod"),
]


@pytest.mark.parametrize(("there", "put", "expected"), LOGGED)
def test_pods_missing_in_the_log_are_counted(
    there: tuple[Document, ...], put: tuple[Document, ...], expected: tuple[int, int]
) -> None:
    found = survey(TwoNodeCluster(*PODS, *there), *put)
    assert (found.judged, found.unlogged) == expected


def test_the_subject_of_a_tier_is_found_in_every_namespace() -> None:
    guard = tier_policy(
        "AdminNetworkPolicy",
        "guard",
        {"namespaces": labelled(team="red")},
        priority=1,
        ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}],
    )
    scene = TwoNodeCluster(namespace("ops", team="red"), *PODS)
    assert pairs(survey(scene, guard)) == {"shop/web ops/probe", "shop/db ops/probe"}


HTTP = ContainerPort("http", 80, "tcp")
OTHER = FlowKind("tcp", 1, "other ports")


@pytest.mark.parametrize(
    ("ports", "declared", "expected"),
    [
        ([], (), [OTHER]),
        ([], (HTTP,), [FlowKind("tcp", 80), OTHER]),
        ([PolicyPort("tcp", 80, 80)], (HTTP,), [FlowKind("tcp", 80), OTHER]),
        ([PolicyPort("udp", 53, 53)], (), [FlowKind("udp", 53, "53/udp"), OTHER]),
        ([PolicyPort("tcp", 80, 90)], (HTTP,), [FlowKind("tcp", 80), FlowKind("tcp", 81, "81-90/tcp"), OTHER]),
        (
            [PolicyPort("tcp", 80, 90), PolicyPort("tcp", 85, 100)],
            (),
            [
                FlowKind("tcp", 80, "80-84/tcp"),
                FlowKind("tcp", 85, "85-90/tcp"),
                FlowKind("tcp", 91, "91-100/tcp"),
                OTHER,
            ],
        ),
        ([PolicyPort("tcp", 1, 1)], (), [FlowKind("tcp", 1, "1/tcp"), FlowKind("tcp", 2, "other ports")]),
        ([PolicyPort("tcp")], (), [FlowKind("tcp", 1, "1-65535/tcp"), FlowKind("udp", 1, "other ports")]),
        ([PolicyPort("tcp", 65535, 65535)], (), [FlowKind("tcp", 65535, "65535/tcp"), OTHER]),
        (
            [PolicyPort("tcp"), PolicyPort("udp"), PolicyPort("sctp")],
            (),
            [
                FlowKind("tcp", 1, "1-65535/tcp"),
                FlowKind("udp", 1, "1-65535/udp"),
                FlowKind("sctp", 1, "1-65535/sctp"),
            ],
        ),
    ],
    ids=[
        "no rule names a port",
        "a declared port has a name",
        "a rule's number that is declared",
        "a rule's number that isn't",
        "a range without the port in it that is declared",
        "ranges that overlap",
        "the first port of all",
        "all of a protocol",
        "the last port of all",
        "all of every protocol",
    ],
)
def test_one_port_stands_for_all_that_rules_treat_alike(
    ports: list[PolicyPort], declared: tuple[ContainerPort, ...], expected: list[FlowKind]
) -> None:
    assert list(kinds(frozenset(ports), declared)) == expected
