"""The life of a Pod's addresses, beyond test_edge_cases_lifecycle.py."""

from __future__ import annotations

import pytest

from nfagent.model.objects import ObjectRef
from tests.support.two_node_cluster import Document, TwoNodeCluster, labelled, namespace, pod, policy

CALLER = pod("ops/caller", "b", 20, app="caller")
PLACES = (namespace("shop"), namespace("ops"), CALLER)
CLOSED = policy("shop/closed", labelled(app="job"), types=["Ingress"])
FROM_JOBS = policy(
    "ops/from-jobs",
    ingress=[{"from": [{"namespaceSelector": {}, "podSelector": labelled(app="job")}]}],
)
JOB4, JOB6 = "10.64.0.40", "2001:db8:0:a::40"
CALLER6 = "2001:db8:0:b::20"


def job(*addresses: str, phase: str = "Running", name: str = "job", app: str = "job") -> Document:
    """Describe a Pod of node a, as far as it has come."""
    found = pod(f"shop/{name}", "a", 40, app=app)
    found["status"] = {"phase": phase, "podIPs": [{"ip": address} for address in addresses]}
    return found


def terminating(document: Document) -> Document:
    document["metadata"] |= {"deletionTimestamp": "2025-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}
    return document


def reached(scene: TwoNodeCluster) -> tuple[bool, bool]:
    """Return whether the caller reaches the job's addresses: by IPv4, by IPv6."""
    return scene.passes("ops/caller", JOB4, "80/tcp"), scene.passes(CALLER6, JOB6, "80/tcp", 6)


def reaches(scene: TwoNodeCluster) -> tuple[bool, bool]:
    """Return whether who has the job's addresses reaches the caller: by IPv4, by IPv6."""
    return scene.passes(JOB4, "ops/caller", "80/tcp"), scene.passes(JOB6, "ops/caller", "80/tcp", 6)


def test_42_policies_apply_to_each_address_of_a_pod_as_soon_as_it_has_it() -> None:
    scene = TwoNodeCluster(*PLACES, CLOSED, FROM_JOBS)
    for addresses, isolated in (
        ((), (False, False)),
        ((JOB4,), (True, False)),
        ((JOB4, JOB6), (True, True)),
        ((JOB6,), (False, True)),
        ((), (False, False)),
    ):
        scene.put(job(*addresses, phase="Running" if addresses else "Pending"))
        assert reached(scene) == tuple(not held for held in isolated), addresses
        assert reaches(scene) == isolated, addresses


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_a_pod_without_an_address_changes_nothing_in_the_kernel(phase: str) -> None:
    scene = TwoNodeCluster(*PLACES, FROM_JOBS)
    before = {name: view.ruleset() for name, view in scene.views.items()}
    scene.put(job(phase=phase))
    assert {name: view.ruleset() for name, view in scene.views.items()} == before


def test_a_pod_without_an_address_delays_no_other_pod_of_its_policy() -> None:
    other = pod("shop/other", "a", 41, app="job")
    scene = TwoNodeCluster(*PLACES, CLOSED, job(phase="Pending"), other)
    assert not scene.passes("ops/caller", "shop/other", "80/tcp")
    assert reached(scene) == (True, True)


def test_a_pod_that_comes_back_with_another_address_leaves_the_first_one_free() -> None:
    scene = TwoNodeCluster(*PLACES, CLOSED, FROM_JOBS, job("10.64.0.50"))
    assert not scene.passes("ops/caller", "10.64.0.50", "80/tcp")
    scene.put(job(JOB4, JOB6))
    assert scene.passes("ops/caller", "10.64.0.50", "80/tcp")
    assert not scene.passes("10.64.0.50", "ops/caller", "80/tcp")
    assert (reached(scene), reaches(scene)) == ((False, False), (True, True))


def test_41_a_terminating_pod_stays_isolated_until_it_is_gone() -> None:
    scene = TwoNodeCluster(*PLACES, CLOSED, FROM_JOBS, job(JOB4, JOB6))
    before = {name: view.ruleset() for name, view in scene.views.items()}
    scene.put(terminating(job(JOB4, JOB6)))
    assert {name: view.ruleset() for name, view in scene.views.items()} == before
    assert (reached(scene), reaches(scene)) == ((False, False), (True, True))
    for view in scene.views.values():
        view.remove(ObjectRef("Pod", "shop", "job"))
    assert (reached(scene), reaches(scene)) == ((True, True), (False, False))


def test_41_a_pod_that_reuses_the_address_of_one_family_leaves_the_other_free() -> None:
    scene = TwoNodeCluster(*PLACES, CLOSED, job(JOB4, JOB6, phase="Failed"), job(JOB4, name="heir"))
    assert reached(scene) == (False, True)
