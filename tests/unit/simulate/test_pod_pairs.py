"""Which flows between Pods are tried: all whose verdict could change, and one for each kind of traffic."""

from __future__ import annotations

import pytest

from nfagent.model.admin_policy import Policy
from nfagent.model.networkpolicy import PolicyPort
from nfagent.model.objects import ContainerPort
from nfagent.simulate.patch import PatchedPolicies, PolicyPatch
from nfagent.simulate.pod_pairs import FlowKind, PodPairEnumerator, kinds
from nfagent.simulate.simulation import ObservedFlow
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


def survey(scene: TwoNodeCluster, *documents: Document, namespace: str = "") -> PodPairEnumerator:
    view = scene.views["a"]
    put: list[Policy] = []
    for document in documents:
        item = DECODERS[document["kind"]](document)
        assert isinstance(item, Policy)
        put.append(item)
    found = PodPairEnumerator(view.cluster, PatchedPolicies(view.index, PolicyPatch(put=tuple(put))), namespace)
    for _ in found.steps():
        pass
    return found


def flows(found: PodPairEnumerator) -> list[ObservedFlow]:
    return [seen for seen in found.flows() if seen is not None]


def pairs(scene: TwoNodeCluster, found: PodPairEnumerator) -> set[str]:
    cluster = scene.views["a"].cluster
    names = [[cluster.holder(end) for end in (seen.flow.source, seen.flow.destination)] for seen in flows(found)]
    return {" ".join(pod.ref.path for pod in ends if pod is not None) for ends in names}


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
    assert pairs(scene, survey(scene, *documents, namespace=where)) == expected


def test_pods_that_a_policy_selected_before_count_too() -> None:
    scene = TwoNodeCluster(*PODS, TO_DB)
    assert pairs(scene, survey(scene, policy("shop/db", labelled(app="web")))) == {
        "shop/web shop/db",
        "ops/probe shop/db",
        "shop/db shop/web",
        "ops/probe shop/web",
    }


def test_a_pair_is_evaluated_in_both_families_with_every_kind_of_traffic() -> None:
    scene = TwoNodeCluster(*PODS)
    found = [seen for seen in flows(survey(scene, TO_DB)) if seen.flow.source == scene.address("shop/web")]
    assert [(str(seen.flow), seen.traffic) for seen in found] == [
        ("10.64.0.10 -> 10.64.1.20:5432/tcp", "5432/tcp"),
        ("10.64.0.10 -> 10.64.1.20:1/tcp", "other ports"),
        ("10.64.0.10 -> 10.64.1.20/icmp", ""),
    ]
    assert len(flows(survey(scene, TO_DB))) == 2 * 2 * 3


def test_pods_without_an_address_of_their_own_are_left_out() -> None:
    ended = pod("shop/ended", "a", 40, app="db")
    ended["status"]["phase"] = "Succeeded"
    host = pod("shop/host", "a", 50, app="db")
    host["spec"]["hostNetwork"] = True
    scene = TwoNodeCluster(*PODS, ended, host)
    found = survey(scene, TO_DB)
    assert pairs(scene, found) == {"shop/web shop/db", "ops/probe shop/db"}
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
    assert pairs(scene, survey(scene, guard)) == {"shop/web ops/probe", "shop/db ops/probe"}


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
