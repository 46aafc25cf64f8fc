"""Labs whose agents follow a real kube-apiserver, which runs on a host outside the cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from nfagent.kube.rbac import REQUIREMENTS, Permission
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.apiserver.kube_client import LabApiClient
from nfagent.lab.cluster.agents_apiserver import ApiCluster
from nfagent.lab.machine.binaries import ControlPlaneBinaries
from nfagent.lab.probes.listeners import Listeners
from nfagent.lab.probes.probe import Probe
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, OutsideHost, PodPlan
from nfagent.model.gvk import RESOURCES
from nfagent.model.netaddr import FAMILIES
from tests.support.packet_labs import Document, ProbedLab, node_document, wait_until

API_HOST = OutsideHost("api", ("192.0.2.250", "2001:db8:ffff::250"))
"""The host of the API server."""

DEPLOY = Path(__file__).parents[2] / "deploy"
ACCOUNT = ("nfagent", "nfagent")
"""Namespace and name of the service account that deploy/rbac.yaml makes."""


class ApiLab(ProbedLab[ApiCluster]):
    """A running lab with its control plane."""

    def __init__(self, topology: NetnsTopology, servers: Listeners, cluster: ApiCluster, plane: ControlPlane) -> None:
        super().__init__(topology, servers, cluster)
        self.plane = plane

    @property
    def client(self) -> LabApiClient:
        """The client of the user `admin`."""
        return self.cluster.client

    def reach(self, source: str, destination: str) -> set[bool]:
        """Return whether one Pod reaches another by TCP, as a set over both families."""
        probes = [Probe(self.pod(source), self.address(destination, family), "tcp", 80) for family in FAMILIES]
        return {outcome.reached for outcome in self.ask(probes, 0.3).values()}

    def restore(self, before: frozenset[str]) -> None:
        """Delete all objects that didn't exist before, and wait until the agents enforce the rest."""
        extra = self.client.inventory() - before
        self.client.remove(extra)
        plurals = {path.split("/")[-2] for path in extra}
        self.cluster.wait_until_enforced(
            {"apiVersion": resource.api_version, "kind": resource.kind}
            for resource in RESOURCES
            if resource.plural in plurals
        )


@contextlib.contextmanager
def running_api_lab(
    folder: Path,
    nodes: Sequence[NodePlan],
    pods: Sequence[PodPlan],
    outside: Sequence[OutsideHost] = (),
    documents: Iterable[Document] = (),
    *,
    uncached: Sequence[str] = (),
    binaries: ControlPlaneBinaries | None = None,
) -> Iterator[ApiLab]:
    """Build a lab whose API server holds the nodes and `documents` before the agents start.

    The agents have the rights of deploy/rbac.yaml and no others. uncached: as ControlPlane has it.
    """
    with (
        NetnsTopology(nodes, pods, [*outside, API_HOST], tag="t") as topology,
        Listeners() as servers,
        ControlPlane(
            folder / "plane",
            address=API_HOST.addresses[0],
            netns=topology.outside_namespace(API_HOST.name),
            uncached=uncached,
            binaries=binaries,
        ) as plane,
        plane.client() as client,
    ):
        client.put_all([*map(node_document, nodes), *documents])
        kubeconfig = plane.kubeconfig("nfagent", token=account_token(plane, client))
        with ApiCluster(topology, kubeconfig, client, folder / "agents") as cluster:
            yield ApiLab(topology, servers, cluster, plane)


def account_token(plane: ControlPlane, client: LabApiClient, seconds: int = 3600) -> str:
    """Apply deploy/rbac.yaml; return a token of its service account as soon as the server grants what an agent needs.

    seconds: how long it is valid
    """
    client.put_all(read_documents(DEPLOY / "rbac.yaml"))
    token = client.service_account_token(*ACCOUNT, seconds)
    with plane.client(token=token) as account:
        wait_until(lambda: all(is_granted(account, wanted) for need in REQUIREMENTS for wanted in need.permissions))
    return token


def is_granted(client: LabApiClient, wanted: Permission) -> bool:
    """Return whether a client's user has a permission. Raises ClusterError."""
    return may(client, wanted.verb, wanted.resource, group=wanted.group, namespace=wanted.namespace, name=wanted.name)


def may(
    client: LabApiClient, verb: str, resource: str, *, group: str = "", namespace: str = "kube-system", name: str = ""
) -> bool:
    """Return whether a client's user is allowed something (SelfSubjectAccessReview). Raises ClusterError."""
    resource, _, subresource = resource.partition("/")
    wanted = {
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace,
        "name": name,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted},
    }
    review = client.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body).document("review")
    allowed: bool = review["status"]["allowed"]
    return allowed


def read_documents(path: Path) -> list[Document]:
    """Read a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document]


def shipped_definitions() -> list[Document]:
    """Return the CustomResourceDefinitions of deploy/crds."""
    found = [document for path in sorted((DEPLOY / "crds").glob("*.yaml")) for document in read_documents(path)]
    return [document for document in found if document["kind"] == "CustomResourceDefinition"]


def tier_definitions() -> list[Document]:
    """Return definitions of the tier kinds that have them served; their schema accepts any object."""
    return [
        _definition("v1alpha1", "AdminNetworkPolicy", "adminnetworkpolicies"),
        _definition("v1alpha1", "BaselineAdminNetworkPolicy", "baselineadminnetworkpolicies"),
        _definition("v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies"),
    ]


def _definition(version: str, kind: str, plural: str) -> Document:
    group = "policy.networking.k8s.io"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            # The server requires this annotation for definitions of *.k8s.io groups.
            "annotations": {"api-approved.kubernetes.io": "unapproved, test-only"},
        },
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": plural, "kind": kind},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}],
        },
    }
