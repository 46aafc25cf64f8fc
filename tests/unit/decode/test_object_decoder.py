"""Decoding of an object's JSON: both decoders give the same result; an invalid object keeps its name."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.decode.core import decode_pod_by_field
from nfagent.decode.object_decoder import DecodedObject, object_decoder
from nfagent.errors import ValidationIssue
from nfagent.model.gvk import RESOURCES
from nfagent.model.objects import ObjectRef
from tests.support.apiserver_documents import Document, broken_pod, encoded, pod

BY_KIND = {resource.kind: resource for resource in RESOURCES}


def read(kind: str, document: object) -> DecodedObject | ValidationIssue:
    return object_decoder(BY_KIND[kind])(encoded(document))


def found(kind: str, document: object) -> DecodedObject:
    answer = read(kind, document)
    assert isinstance(answer, DecodedObject)
    return answer


def varied(**changes: Any) -> Document:  # noqa: ANN401 - a document's own fields
    document = pod("web", 7, app="web")
    for path, value in changes.items():
        at = document
        *way, last = path.split("__")
        for key in way:
            at = at[key]
        at[last] = value
    return document


PODS = {
    "as the API server writes it": varied(),
    "still without an address": varied(status={"phase": "Pending"}),
    "with one address in the old field": varied(status={"podIP": "10.64.0.9"}),
    "with an address that isn't canonical": varied(status={"podIPs": [{"ip": "FD00::00AA"}]}),
    "with labels null": varied(metadata__labels=None),
    "with no namespace": varied(metadata__namespace=None),
    "with status null": varied(status=None),
    "with a controller": varied(
        metadata__ownerReferences=[
            {"kind": "Job", "name": "x"},
            {"kind": "ReplicaSet", "name": "r", "controller": True},
        ]
    ),
    "with a sidecar's port": varied(
        spec__initContainers=[{"restartPolicy": "Always", "ports": [{"name": "dns", "containerPort": 53}]}]
    ),
}


@pytest.mark.parametrize("document", PODS.values(), ids=PODS)
def test_a_pod_is_the_same_quickly_and_carefully_read(document: Document) -> None:
    answer = found("Pod", document)
    assert answer == DecodedObject(
        answer.ref, "7", decode_pod_by_field({"apiVersion": "v1", "kind": "Pod", **document})
    )
    assert answer.item is not None
    assert answer.ref == answer.item.ref


def test_most_pods_are_read_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfagent.decode.object_decoder._document", None)  # the careful way would fall over it
    assert found("Pod", pod("web")).ref == ObjectRef("Pod", "shop", "web")


LISTED: dict[str, tuple[Document, str]] = {
    "Namespace": ({"metadata": {"name": "shop", "resourceVersion": "3"}}, "Namespace shop"),
    "Node": ({"metadata": {"name": "a", "resourceVersion": "3"}}, "Node a"),
    "NetworkPolicy": (
        {"metadata": {"namespace": "shop", "name": "p", "resourceVersion": "3"}, "spec": {"podSelector": {}}},
        "NetworkPolicy shop/p",
    ),
    "ConfigMap": (
        {"metadata": {"namespace": "kube-system", "name": "ip-masq-agent", "resourceVersion": "3"}},
        "ConfigMap kube-system/ip-masq-agent",
    ),
    "ServiceCIDR": (
        {"metadata": {"name": "kubernetes", "resourceVersion": "3"}, "spec": {"cidrs": ["10.96.0.0/16"]}},
        "ServiceCIDR kubernetes",
    ),
    "NetworkLogging": ({"metadata": {"name": "default", "resourceVersion": "3"}}, "NetworkLogging default"),
    "EgressNATPolicy": (
        {"metadata": {"name": "e", "resourceVersion": "3"}, "spec": {"action": "NoSNAT", "destinations": []}},
        "EgressNATPolicy e",
    ),
}


@pytest.mark.parametrize(("kind", "case"), LISTED.items(), ids=LISTED)
def test_an_entry_of_a_list_needs_no_kind(kind: str, case: tuple[Document, str]) -> None:
    document, name = case
    answer = found(kind, document)
    assert (str(answer.ref), answer.version, answer.problems) == (name, "3", ())
    assert answer.item is not None
    assert answer.item.ref == answer.ref


def test_a_config_map_of_another_name_is_none_of_ours() -> None:
    document = {"metadata": {"namespace": "kube-system", "name": "other", "resourceVersion": "3"}}
    assert found("ConfigMap", document) == DecodedObject(ObjectRef("ConfigMap", "kube-system", "other"), "3")


def test_an_object_that_is_refused_keeps_its_name_and_version() -> None:
    spec = {"action": "NoSNAT", "destinations": ["10.0.0.0/8"]}
    answer = found("EgressNATPolicy", {"metadata": {"name": "e", "resourceVersion": "7"}, "spec": spec})
    assert (answer.ref, answer.version, answer.item) == (ObjectRef("EgressNATPolicy", "", "e"), "7", None)
    assert [problem.field for problem in answer.problems] == ["spec.destinations[0]"]


IN_PART = {
    "Namespace": {"metadata": {"name": "x", "labels": {"a": 1}}},
    "Node": {"metadata": {"name": "x"}, "status": {"addresses": [{"type": "ExternalIP", "address": ""}]}},
    "Pod": {"metadata": {"namespace": "x", "name": "x"}, "status": {"podIPs": [{"ip": "y"}]}},
    "ServiceCIDR": {"metadata": {"name": "x"}, "spec": {"cidrs": ["y"]}},
    "ConfigMap": {
        "metadata": {"namespace": "kube-system", "name": "ip-masq-agent"},
        "data": {"config": "cidrLimit: y"},
    },
    "NetworkLogging": {"metadata": {"name": "default"}, "spec": {"cluster": {"deny": {"log": "y"}}}},
}


@pytest.mark.parametrize(("kind", "document"), IN_PART.items(), ids=IN_PART)
def test_an_object_that_can_be_read_in_part_is_given_with_what_is_wrong(kind: str, document: Document) -> None:
    answer = found(kind, document)
    assert answer.item is not None
    assert len(answer.problems) == 1
    assert answer.item.problems == answer.problems


def test_a_pod_without_a_readable_address_is_given_with_what_is_wrong() -> None:
    answer = found("Pod", broken_pod("web", 7))
    assert (answer.ref, answer.version) == (ObjectRef("Pod", "shop", "web"), "7")
    assert answer.item is not None
    assert [str(problem) for problem in answer.problems] == [
        "Pod shop/web: status.podIPs[0].ip '10.64.0.300': is not an IP address; write one like 10.0.0.1 or 2001:db8::1"
    ]


def test_a_policy_that_fails_closed_is_given_with_what_is_wrong() -> None:
    spec = {"podSelector": {}, "ingress": [{"ports": [{"port": 99_999}]}]}
    answer = found("NetworkPolicy", {"metadata": {"namespace": "shop", "name": "p"}, "spec": spec})
    assert answer.item is not None
    assert [(problem.object, problem.field) for problem in answer.problems] == [
        ("NetworkPolicy shop/p", "spec.ingress[0].ports[0].port")
    ]


NAMELESS = {
    "no metadata": {},
    "no name": {"metadata": {}},
    "a name that is no text": {"metadata": {"name": 5}},
    "metadata that is a list": {"metadata": []},
    "a list": [],
    "null": None,
}


@pytest.mark.parametrize("document", NAMELESS.values(), ids=NAMELESS)
@pytest.mark.parametrize("kind", ["Pod", "NetworkPolicy"])
def test_what_has_no_name_is_a_problem_that_tells_the_kind(kind: str, document: object) -> None:
    answer = read(kind, document)
    assert isinstance(answer, ValidationIssue)
    assert answer.object == kind
    assert answer.reason


@pytest.mark.parametrize("version", [None, 5, {}], ids=["null", "a number", "a mapping"])
def test_a_version_that_is_no_text_is_none(version: object) -> None:
    assert found("Node", {"metadata": {"name": "a", "resourceVersion": version}}).version == ""
