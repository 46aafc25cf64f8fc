"""Objects from a manifests folder: every method of writing a file changes the verdicts of packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.lab.probes.listeners import pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.plan import grid
from tests.support.packet_labs import (
    Document,
    ManifestLab,
    as_text,
    namespace_document,
    pod_document,
    policy_document,
    running_lab,
    wait_until,
)

pytestmark = pytest.mark.kernel

NODES, PODS, _OUTSIDE = grid()
DENY_A = policy_document("x", "deny", podSelector={"matchLabels": {"pod": "a"}}, policyTypes=["Ingress"])
DENY_B = policy_document("x", "deny-b", podSelector={"matchLabels": {"pod": "b"}}, policyTypes=["Ingress"])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestLab]:
    documents = [*(namespace_document(name) for name in "xyz"), *map(pod_document, PODS)]
    with running_lab(tmp_path_factory.mktemp("lab"), NODES, PODS, documents=documents) as running:
        running.servers.listen(pod_endpoints(running.topology, [("tcp", 80)]))
        yield running


def reached(lab: ManifestLab, destination: str) -> set[bool]:
    """Who of y/a reaches a Pod, by IPv4 and by IPv6."""
    probes = [Probe(lab.pod("y/a"), lab.address(destination, family), "tcp", 80) for family in (4, 6)]
    return {outcome.reached for outcome in lab.ask(probes, 0.3).values()}


def enforced(lab: ManifestLab, *documents: Document, name: str = "policy.yaml") -> bool:
    lab.cluster.write(name, as_text(documents))
    return reached(lab, "x/a") == {False}


@pytest.fixture(autouse=True)
def _tidy(lab: ManifestLab) -> Iterator[None]:
    yield
    names = [path.name for path in lab.cluster.manifests.iterdir() if path.name != "cluster.yaml"]
    lab.cluster.delete(*names)


def test_a_policy_is_enforced_from_the_file_that_brings_it_to_the_one_that_takes_it_away(lab: ManifestLab) -> None:
    assert reached(lab, "x/a") == {True}
    assert enforced(lab, DENY_A)
    lab.cluster.delete("policy.yaml")
    assert reached(lab, "x/a") == {True}


def test_a_file_written_in_place_is_read_again(lab: ManifestLab) -> None:
    path = lab.cluster.manifests / "policy.yaml"
    path.write_text(as_text([DENY_A]), encoding="utf-8")
    lab.cluster.wait_until_enforced()
    assert reached(lab, "x/a") == {False}
    path.write_text(as_text([DENY_B]), encoding="utf-8")
    lab.cluster.wait_until_enforced()
    assert (reached(lab, "x/a"), reached(lab, "x/b")) == ({True}, {False})


def test_json_files_several_documents_and_lists_are_read(lab: ManifestLab) -> None:
    listed: Document = {"apiVersion": "v1", "kind": "List", "items": [DENY_A, DENY_B]}
    assert enforced(lab, listed, name="list.json")
    assert reached(lab, "x/b") == {False}


def test_a_file_in_a_new_subfolder_counts(lab: ManifestLab) -> None:
    folder = lab.cluster.manifests / "team"
    folder.mkdir()
    (folder / "policy.yaml").write_text(as_text([DENY_A]), encoding="utf-8")
    lab.cluster.wait_until_enforced()
    assert reached(lab, "x/a") == {False}
    (folder / "policy.yaml").unlink()
    folder.rmdir()
    lab.cluster.wait_until_enforced()
    assert reached(lab, "x/a") == {True}


def test_the_last_valid_content_stays_enforced_while_a_file_does_not_parse(lab: ManifestLab) -> None:
    assert enforced(lab, DENY_A)
    lab.cluster.write("policy.yaml", "kind: [unfinished\n")
    assert reached(lab, "x/a") == {False}
    problems = lab.cluster.agent("n1").ask("/v1/dump/state")["problems"]
    assert [problem["place"] for problem in problems] == ["policy.yaml:2"]
    wait_until(lambda: "policy.yaml:2" in lab.cluster.agent("n1").stderr_text)


def test_the_same_object_in_two_files_is_an_error_that_names_both_and_the_first_counts(lab: ManifestLab) -> None:
    assert enforced(lab, DENY_A)
    other = policy_document("x", "deny", podSelector={"matchLabels": {"pod": "c"}}, policyTypes=["Ingress"])
    lab.apply("second", other)
    [problem] = lab.cluster.agent("n1").ask("/v1/dump/state")["problems"]
    assert (problem["place"], "policy.yaml:1" in problem["reason"]) == ("second.yaml:1", True)
    assert (reached(lab, "x/a"), reached(lab, "x/c")) == ({False}, {True})
    lab.cluster.delete("policy.yaml")
    assert (reached(lab, "x/a"), reached(lab, "x/c")) == ({True}, {False})


def test_a_policy_that_can_not_be_compiled_isolates_only_the_pods_that_it_selects(lab: ManifestLab) -> None:
    broken = policy_document(
        "x",
        "broken",
        podSelector={"matchLabels": {"pod": "a"}},
        ingress=[{"ports": [{"port": 80, "endPort": 79}]}],
    )
    assert enforced(lab, broken)
    assert reached(lab, "x/b") == {True}
    policies = lab.cluster.agent("n1").ask("/v1/dump/policies")["policies"]
    [shown] = [policy for policy in policies if policy["name"] == "broken"]
    assert shown["problem"]["field"] == "spec.ingress[0].ports[0].endPort"
