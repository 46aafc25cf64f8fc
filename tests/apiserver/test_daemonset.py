"""What deploys the agents, at a real API server: accepted, by Pod Security too; the Pods' rights are the agent's."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.kube.rbac import REQUIREMENTS, Permission
from nfagent.lab.apiserver.https import HttpReply
from nfagent.lab.apiserver.kube_client import LabApiClient
from tests.support.deployed_objects import DEPLOY, kustomized, one, templated
from tests.support.packet_labs import Document, namespace_document, wait_until

pytestmark = pytest.mark.apiserver

NEEDED = [permission for need in REQUIREMENTS for permission in need.permissions]
REFUSED = [
    Permission("", "secrets", "list"),
    Permission("", "pods", "create"),
    Permission("", "pods/exec", "create", "nfagent"),
    Permission("apps", "daemonsets", "patch", "nfagent", "nfagent"),
    Permission("networking.k8s.io", "networkpolicies", "update"),
]


@pytest.fixture(params=["kustomize", "helm"])
def documents(request: pytest.FixtureRequest) -> list[Document]:
    """Return all objects in the order in which they are applied."""
    if request.param == "kustomize":
        return [*kustomized(DEPLOY), *kustomized(DEPLOY / "daemonset")]
    found = templated("--include-crds", "--set", "namespace.create=true")
    return sorted(found, key=lambda one: ("CustomResourceDefinition", "Namespace").count(one["kind"]), reverse=True)


@pytest.fixture
def applied(clean: LabApiClient, documents: list[Document]) -> list[Document]:
    clean.put_all(documents)
    return documents


def ask_to_apply(client: LabApiClient, document: Document, **query: str) -> HttpReply:
    """Apply an object as `kubectl apply --server-side` does; unknown and repeated fields are refused."""
    query = {"fieldManager": "test", "force": "true", "fieldValidation": "Strict"} | query
    content_type = "application/apply-patch+yaml"
    return client.ask("PATCH", client.path(document), document, query=query, content_type=content_type)


def test_every_object_is_accepted_first_by_a_dry_run_then_in_earnest(
    clean: LabApiClient, documents: list[Document]
) -> None:
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        before = clean.get(document)
        ask_to_apply(clean, document, dryRun="All").document(f"dry run of {name}")
        assert clean.get(document) == before, name
        ask_to_apply(clean, document).document(name)
        stored = clean.get(document)
        assert stored is not None
        assert lacking(document, stored) == [], name


def lacking(wanted: Any, stored: Any, place: str = "") -> list[str]:  # noqa: ANN401 - parts of JSON
    """Return where the server's object hasn't what was applied; it may have more, such as defaults."""
    if isinstance(wanted, dict) and isinstance(stored, dict):
        return [found for key in wanted for found in lacking(wanted[key], stored.get(key), f"{place}.{key}")]
    if isinstance(wanted, list) and isinstance(stored, list) and len(wanted) == len(stored):
        return [found for at, each in enumerate(wanted) for found in lacking(each, stored[at], f"{place}[{at}]")]
    # An empty map or list is stored as none.
    return [] if wanted == stored or (not wanted and stored is None) else [f"{place}: {wanted!r}, not {stored!r}"]


def test_a_misspelt_field_of_the_daemonset_is_refused(clean: LabApiClient, documents: list[Document]) -> None:
    clean.put(namespace_document("nfagent"))
    daemonset = one(documents, "DaemonSet")
    daemonset["spec"]["template"]["spec"]["hostNetwrok"] = True
    assert "hostNetwrok" in ask_to_apply(clean, daemonset, dryRun="All").text


def pod_of(daemonset: Document, node: str, namespace: str) -> Document:
    """Return a Pod as the DaemonSet's controller makes it for a node."""
    template = daemonset["spec"]["template"]
    metadata = {"name": "nfagent-x", "namespace": namespace, "labels": template["metadata"]["labels"]}
    wanted = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [wanted]}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**template["spec"], "affinity": affinity},
    }


def test_pod_security_admits_its_pods_in_their_namespace_alone(clean: LabApiClient, applied: list[Document]) -> None:
    daemonset = one(applied, "DaemonSet")
    clean.put(namespace_document("baseline", {"pod-security.kubernetes.io/enforce": "baseline"}))
    path = "/api/v1/namespaces/{}/pods"
    # The server makes its priority classes a moment after its start.
    wait_until(lambda: clean.ask("GET", "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical").ok)
    refused = clean.ask("POST", path.format("baseline"), pod_of(daemonset, "n1", "baseline"), query={"dryRun": "All"})
    assert "hostNetwork" in refused.text
    reply = clean.ask("POST", path.format("nfagent"), pod_of(daemonset, "n1", "nfagent"), query={"dryRun": "All"})
    spec = reply.document("Pod of the DaemonSet")["spec"]
    assert (spec["priority"], spec["hostNetwork"], spec["serviceAccountName"]) == (2000001000, True, "nfagent")


def may(client: LabApiClient, user: str, wanted: Permission) -> bool:
    """Return whether a user is allowed something (SubjectAccessReview)."""
    resource, _, subresource = wanted.resource.partition("/")
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": {
                "verb": wanted.verb,
                "group": wanted.group,
                "resource": resource,
                "subresource": subresource,
                "namespace": wanted.namespace,
                "name": wanted.name,
            },
        },
    }
    reply = client.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    allowed: bool = reply.document("review")["status"]["allowed"]
    return allowed


def test_its_service_account_may_do_what_the_agent_needs_and_no_more(
    clean: LabApiClient, applied: list[Document]
) -> None:
    daemonset = one(applied, "DaemonSet")
    account = daemonset["spec"]["template"]["spec"]["serviceAccountName"]
    user = f"system:serviceaccount:{daemonset['metadata']['namespace']}:{account}"
    # The authorizer learns of new bindings by a watch.
    wait_until(lambda: all(may(clean, user, wanted) for wanted in NEEDED))
    assert [wanted for wanted in NEEDED if not may(clean, user, wanted)] == []
    assert [refused for refused in REFUSED if may(clean, user, refused)] == []
