"""Paths and selectors of the resources; each resource has a decoder."""

from __future__ import annotations

import pytest

from nfagent.decode.registry import CLUSTER_SCOPED, DECODERS
from nfagent.model.gvk import RESOURCES, SERVICES, Resource
from nfagent.model.objects import ObjectRef

BY_KIND = {resource.kind: resource for resource in (*RESOURCES, SERVICES)}

PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "Pod": "/api/v1/pods",
    "Service": "/api/v1/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/networkpolicies",
    "ConfigMap": "/api/v1/namespaces/kube-system/configmaps",
    "AdminNetworkPolicy": "/apis/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies",
    "BaselineAdminNetworkPolicy": "/apis/policy.networking.k8s.io/v1alpha1/baselineadminnetworkpolicies",
    "ClusterNetworkPolicy": "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
    "EgressNATPolicy": "/apis/networking.gke.io/v1/egressnatpolicies",
    "NetworkGatewayGroup": "/apis/networking.gke.io/v1/networkgatewaygroups",
    "NetworkLogging": "/apis/networking.gke.io/v1alpha1/networkloggings",
    "ServiceCIDR": "/apis/networking.k8s.io/v1/servicecidrs",
}


@pytest.mark.parametrize(("kind", "path"), PATHS.items(), ids=PATHS)
def test_a_resource_is_asked_for_where_the_api_server_serves_it(kind: str, path: str) -> None:
    assert BY_KIND[kind].path == path


def test_every_kind_that_is_read_is_followed_and_no_other() -> None:
    assert {(resource.api_version, resource.kind) for resource in (*RESOURCES, SERVICES)} == set(DECODERS)
    assert len(BY_KIND) == len(RESOURCES) + 1 == len(PATHS)


def test_only_what_every_cluster_has_is_never_missing() -> None:
    needed = {resource.kind for resource in RESOURCES if not resource.optional}
    assert needed == {"Namespace", "Node", "Pod", "NetworkPolicy", "ConfigMap"}


def test_of_config_maps_one_is_asked_for() -> None:
    selectors = {resource.kind: resource.field_selector for resource in RESOURCES if resource.field_selector}
    assert selectors == {"ConfigMap": "metadata.name=ip-masq-agent"}


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_only_a_config_maps_namespace_narrows_what_a_resource_holds(resource: Resource) -> None:
    elsewhere = ObjectRef(resource.kind, "" if resource.kind in CLUSTER_SCOPED else "shop", "x")
    assert resource.contains(elsewhere) == (resource.kind != "ConfigMap")
    assert resource.contains(ObjectRef(resource.kind, resource.namespace, "x"))
    assert not resource.contains(ObjectRef("Secret", resource.namespace, "x"))


@pytest.mark.parametrize(("kind", "group"), [("Pod", ""), ("NetworkPolicy", "networking.k8s.io")])
def test_the_core_group_has_no_name(kind: str, group: str) -> None:
    assert BY_KIND[kind].group == group
