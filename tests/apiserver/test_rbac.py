"""A token with deploy/rbac.yaml only: enough for all watched resources, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import LabApiClient
from nfagent.model.gvk import RESOURCES, SERVICES
from tests.support.apiserver_labs import (
    ACCOUNT,
    DEPLOY,
    account_token,
    may,
    read_documents,
    shipped_definitions,
    tier_definitions,
)
from tests.support.http_follower import HttpFollower
from tests.support.packet_labs import namespace_document, policy_document, wait_until

pytestmark = pytest.mark.apiserver

RBAC = "rbac.authorization.k8s.io"
LEASES, GKE = "coordination.k8s.io", "networking.gke.io"


@pytest.fixture(scope="module")
def token(control_plane: ControlPlane) -> Iterator[str]:
    """Return the shipped service account's token, on a server that has all kinds."""
    with control_plane.client() as client:
        before = client.inventory()
        client.put_all([*shipped_definitions(), *tier_definitions()])
        yield account_token(control_plane, client)
        client.remove(client.inventory() - before)


@pytest.fixture
def account(control_plane: ControlPlane, token: str) -> Iterator[LabApiClient]:
    with control_plane.client(token=token) as client:
        yield client


def test_every_kind_is_followed_without_trouble(control_plane: ControlPlane, token: str) -> None:
    with HttpFollower(control_plane, token, "n1") as follower:
        assert follower.whole.is_set()
        wanted = {resource.kind: ("watching", "") for resource in RESOURCES}
        # A kind is listed before it is watched.
        wait_until(lambda: {kind: (one["phase"], one["trouble"]) for kind, one in follower.kinds.items()} == wanted)


@pytest.mark.parametrize(
    ("verb", "resource", "group", "where"),
    [
        *(
            pytest.param(verb, resource.plural, resource.group, {"name": "ip-masq-agent"}, id=f"{verb} {resource.kind}")
            for resource in RESOURCES
            for verb in ("list", "watch")
        ),
        pytest.param("list", SERVICES.plural, "", {}, id="list Services, for explain"),
        pytest.param("create", "events", "", {}, id="create Events"),
        pytest.param("patch", "events", "", {}, id="patch Events, which counts them"),
        pytest.param("create", "leases", LEASES, {"namespace": "nfagent"}, id="create its Lease"),
        pytest.param("get", "leases", LEASES, {"namespace": "nfagent", "name": "nfagent"}, id="read its Lease"),
        pytest.param("update", "leases", LEASES, {"namespace": "nfagent", "name": "nfagent"}, id="renew its Lease"),
        pytest.param("create", "egressnatpolicies", GKE, {}, id="create the EgressNATPolicy `default`"),
        pytest.param("patch", "egressnatpolicies/status", GKE, {}, id="write conditions of EgressNATPolicies"),
        pytest.param("patch", "networkgatewaygroups/status", GKE, {}, id="write conditions of NetworkGatewayGroups"),
    ],
)
def test_it_may(account: LabApiClient, verb: str, resource: str, group: str, where: dict[str, str]) -> None:
    assert may(account, verb, resource, group=group, **where)


@pytest.mark.parametrize(
    ("verb", "resource", "group", "where"),
    [
        pytest.param("list", "secrets", "", {}, id="list Secrets"),
        pytest.param("get", "secrets", "", {"namespace": "nfagent"}, id="read Secrets of its own Namespace"),
        pytest.param("list", "configmaps", "", {}, id="list all ConfigMaps"),
        pytest.param("get", "configmaps", "", {"name": "kubeadm-config"}, id="read another ConfigMap"),
        pytest.param(
            "get", "configmaps", "", {"name": "ip-masq-agent", "namespace": "default"}, id="read it elsewhere"
        ),
        pytest.param("update", "configmaps", "", {"name": "ip-masq-agent"}, id="change the masquerade list"),
        pytest.param("create", "pods", "", {}, id="create Pods"),
        pytest.param("create", "pods/exec", "", {}, id="exec into Pods"),
        pytest.param("get", "pods/log", "", {}, id="read Pods' logs"),
        pytest.param("delete", "pods", "", {}, id="delete Pods"),
        pytest.param("patch", "pods/status", "", {}, id="write Pods' status"),
        pytest.param("update", "nodes", "", {}, id="change Nodes"),
        pytest.param("get", "nodes/proxy", "", {}, id="reach kubelets"),
        pytest.param("create", "networkpolicies", "networking.k8s.io", {}, id="create NetworkPolicies"),
        pytest.param("update", "networkpolicies", "networking.k8s.io", {}, id="change NetworkPolicies"),
        pytest.param("delete", "networkpolicies", "networking.k8s.io", {}, id="delete NetworkPolicies"),
        pytest.param("patch", "egressnatpolicies", GKE, {}, id="change EgressNATPolicies"),
        pytest.param("delete", "egressnatpolicies", GKE, {}, id="delete EgressNATPolicies"),
        pytest.param("list", "events", "", {}, id="read Events"),
        pytest.param("get", "leases", LEASES, {"name": "kube-scheduler"}, id="read another's Lease"),
        pytest.param("delete", "leases", LEASES, {"namespace": "nfagent", "name": "nfagent"}, id="delete its Lease"),
        pytest.param("create", "serviceaccounts/token", "", {"namespace": "nfagent"}, id="make tokens"),
        pytest.param("create", "clusterrolebindings", RBAC, {}, id="give rights"),
        pytest.param("escalate", "clusterroles", RBAC, {}, id="escalate"),
        pytest.param("impersonate", "users", "", {}, id="impersonate"),
    ],
)
def test_it_may_not(account: LabApiClient, verb: str, resource: str, group: str, where: dict[str, str]) -> None:
    assert not may(account, verb, resource, group=group, **where)


def test_real_requests_are_refused_too(control_plane: ControlPlane, account: LabApiClient) -> None:
    policy = policy_document("kept", "kept", podSelector={})
    path = "/apis/networking.k8s.io/v1/namespaces/kept/networkpolicies"
    with control_plane.client() as administrator:
        administrator.put(policy)
        try:
            refused = {
                "secrets": account.ask("GET", "/api/v1/secrets"),
                "its own Namespace's secrets": account.ask("GET", f"/api/v1/namespaces/{ACCOUNT[0]}/secrets"),
                "all ConfigMaps": account.ask("GET", "/api/v1/namespaces/kube-system/configmaps"),
                "a policy's deletion": account.ask("DELETE", f"{path}/kept"),
                "a policy's creation": account.ask("POST", path, policy_document("kept", "more", podSelector={})),
                "exec": account.ask("POST", "/api/v1/namespaces/kept/pods/web/exec", query={"command": "id"}),
            }
            assert {what: reply.status for what, reply in refused.items()} == dict.fromkeys(refused, 403)
            assert administrator.get(policy) is not None
        finally:
            administrator.delete(namespace_document("kept"))


@pytest.mark.parametrize("folder", ["examples"])
def test_the_examples_are_taken_and_read_without_a_problem(
    control_plane: ControlPlane, clean: LabApiClient, token: str, folder: str
) -> None:
    documents = [one for path in sorted((DEPLOY / folder).glob("*.yaml")) for one in read_documents(path)]
    clean.put_all(documents)
    with HttpFollower(control_plane, token, "n1") as follower:
        assert follower.settle(clean, documents)
        assert follower.problems == []
        for kind in ("EgressNATPolicy", "NetworkGatewayGroup", "NetworkLogging", "ConfigMap"):
            wanted = {one["metadata"]["name"] for one in documents if one["kind"] == kind}
            assert {name for _, name in follower.desired.keys(kind)} == wanted
