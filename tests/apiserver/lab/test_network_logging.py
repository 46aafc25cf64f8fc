"""NetworkLogging and its annotations through an API server: what is logged of packets, and the Events."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from nfagent.lab.probes.probe import Probe
from nfagent.verdicts.records import Record, decode
from tests.support.apiserver_labs import ApiLab, shipped_definitions
from tests.support.packet_labs import Document, namespace_document, policy_document, wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.apiserver, pytest.mark.usefixtures("tidy", "all_kinds")]

SPREAD_SECONDS = 30.0
POLICY = policy_document(
    "x",
    "from-b",
    podSelector={"matchLabels": {"pod": "a"}},
    ingress=[{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "b"}}}]}],
)


@pytest.fixture
def _any_object_is_accepted(lab: ApiLab) -> Iterator[None]:
    """Have the API server accept objects that the shipped definition refuses, as other definitions of this kind do."""
    [shipped] = [one for one in shipped_definitions() if one["spec"]["names"]["kind"] == "NetworkLogging"]
    [version] = shipped["spec"]["versions"]
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    lab.client.put({**shipped, "spec": {**shipped["spec"], "versions": [{**version, "schema": schema}]}})
    # The server takes up a changed schema a moment later.
    refused = logging(allow={"log": False, "delegate": True})
    path = lab.client.resource(refused).path()
    wait_until(lambda: lab.client.ask("POST", path, refused, query={"dryRun": "All"}).ok)
    yield
    lab.client.put(shipped)


def logging(name: str = "default", **cluster: Document) -> Document:
    return {
        "apiVersion": "networking.gke.io/v1alpha1",
        "kind": "NetworkLogging",
        "metadata": {"name": name},
        "spec": {"cluster": cluster},
    }


def annotated(document: Document, key: str) -> Document:
    return {**document, "metadata": {**document["metadata"], "annotations": {f"policy.network.gke.io/{key}": "true"}}}


def records(lab: ApiLab) -> list[Record]:
    log = lab.cluster.agent(lab.topology.pods["x", "a"].node).verdict_log
    return [decode(line) for line in log.read_bytes().splitlines()] if log.exists() else []


def logged(lab: ApiLab, sources: tuple[str, ...], count: int) -> set[tuple[str, str]]:
    """Return which of the sources' packets to x/a are logged, with the verdict; so many records are waited for."""
    known = len(records(lab))
    for source in sources:
        lab.reaches(Probe(lab.pod(source), lab.address("x/a", 4), "tcp", 80), 0.2)
    wait_until(lambda: len(records(lab)) >= known + count)
    return {(record.src.pod_name, record.disposition) for record in records(lab)[known:]}


def events(lab: ApiLab, reason: str) -> list[Document]:
    found = lab.client.list("v1", "Event", "default")
    return [one for one in found if one["reason"] == reason]


def awaited(lab: ApiLab, reason: str, is_meant: Callable[[Document], bool]) -> Document:
    """Return the Event of a reason, which is waited for."""
    wait_until(lambda: any(map(is_meant, events(lab, reason))), SPREAD_SECONDS)
    return next(filter(is_meant, events(lab, reason)))


def test_annotations_decide_what_is_logged_where_it_is_delegated_from_the_moment_that_they_are_there(
    lab: ApiLab,
) -> None:
    both = {"log": True, "delegate": True}
    lab.cluster.put(POLICY)
    lab.cluster.put(logging(allow=both, deny=both))
    sources = ("y/b", "y/c")
    assert logged(lab, sources, 0) == set()
    lab.cluster.put(annotated(POLICY, "enable-logging"))
    assert logged(lab, sources, 1) == {("b", "allow")}
    lab.cluster.put(annotated(namespace_document("x"), "enable-deny-logging"))
    assert logged(lab, sources, 2) == {("b", "allow"), ("c", "deny")}
    event = awaited(lab, "UpdateNetworkLogging", lambda one: "enable-deny-logging" in one["message"])
    assert (event["type"], event["involvedObject"]["name"]) == ("Normal", "default")
    lab.cluster.put(namespace_document("x"))
    lab.cluster.put(POLICY)
    assert logged(lab, sources, 0) == set()


@pytest.mark.usefixtures("_any_object_is_accepted")
def test_what_is_not_valid_changes_nothing_and_is_an_event(lab: ApiLab) -> None:
    lab.cluster.put(POLICY)
    lab.cluster.put(logging(deny={"log": True}))
    lab.client.put(logging(allow={"log": False, "delegate": True}, deny={"log": False}))
    event = awaited(lab, "InvalidNetworkLogging", lambda one: "needs `log: true`" in one["message"])
    assert (event["type"], event["involvedObject"]["name"]) == ("Warning", "default")
    assert "the previous logging configuration stays in force" in event["message"]
    lab.client.put(logging("mine", deny={"log": False}))
    other = awaited(lab, "InvalidNetworkLogging", lambda one: one["involvedObject"]["name"] == "mine")
    assert "is not the name of the one NetworkLogging object" in other["message"]
    assert logged(lab, ("y/b", "y/c"), 1) == {("c", "deny")}
    lab.client.delete(logging("mine"))
    lab.cluster.put(logging(allow={"log": True}))
    assert logged(lab, ("y/b", "y/c"), 1) == {("b", "allow")}
