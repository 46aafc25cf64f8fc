"""The resources that are followed: where the API server serves them, and what of them is asked for."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from nfagent.model.admin_policy import TierPolicy
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.ip_masq import CONFIG_MAP, IpMasqConfig
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, NetworkLogging, Node, ObjectRef, Pod, ServiceCIDR
from nfagent.model.services import Service


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """One collection of the API.

    plural:         its name in paths
    namespace:      the one namespace that is asked for; '' for all of them, and for cluster-scoped kinds
    field_selector: which objects are asked for; '' for all
    optional:       a cluster may lack it: its CRD is somebody's decision, or the server's version is older
    """

    api_version: str
    kind: str
    plural: str
    namespace: str = ""
    field_selector: str = ""
    optional: bool = False

    @property
    def path(self) -> str:
        """Where the API server serves it."""
        return self._within(self.namespace)

    def object_path(self, ref: ObjectRef) -> str:
        """Where the API server serves one object of its kind."""
        return f"{self._within(ref.namespace)}/{ref.name}"

    def _within(self, namespace: str) -> str:
        root = "/apis" if "/" in self.api_version else "/api"
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}/{self.api_version}{within}/{self.plural}"

    @property
    def group(self) -> str:
        """Its API group; '' is the core group."""
        return self.api_version.rpartition("/")[0]

    def holds(self, ref: ObjectRef) -> bool:
        """Tell whether an object would be of this collection, whatever the field selector says."""
        return ref.kind == self.kind and self.namespace in {"", ref.namespace}


_TIERS = "policy.networking.k8s.io"

RESOURCES = (
    Resource(api_version="v1", kind="Namespace", plural="namespaces"),
    Resource(api_version="v1", kind="Node", plural="nodes"),
    Resource(api_version="v1", kind="Pod", plural="pods"),
    Resource(api_version="networking.k8s.io/v1", kind="NetworkPolicy", plural="networkpolicies"),
    Resource(
        api_version="v1",
        kind="ConfigMap",
        plural="configmaps",
        namespace=CONFIG_MAP.namespace,
        field_selector=f"metadata.name={CONFIG_MAP.name}",
    ),
    Resource(api_version=f"{_TIERS}/v1alpha1", kind="AdminNetworkPolicy", plural="adminnetworkpolicies", optional=True),
    Resource(
        api_version=f"{_TIERS}/v1alpha1",
        kind="BaselineAdminNetworkPolicy",
        plural="baselineadminnetworkpolicies",
        optional=True,
    ),
    Resource(
        api_version=f"{_TIERS}/v1alpha2", kind="ClusterNetworkPolicy", plural="clusternetworkpolicies", optional=True
    ),
    Resource(api_version="networking.gke.io/v1", kind="EgressNATPolicy", plural="egressnatpolicies", optional=True),
    Resource(
        api_version="networking.gke.io/v1", kind="NetworkGatewayGroup", plural="networkgatewaygroups", optional=True
    ),
    Resource(api_version="networking.gke.io/v1alpha1", kind="NetworkLogging", plural="networkloggings", optional=True),
    Resource(api_version="networking.k8s.io/v1", kind="ServiceCIDR", plural="servicecidrs", optional=True),
)
"""What is listed and watched. The tiers' kinds are optional because their CRDs are; where the API server serves a kind
and refuses it, that is no lack of it: nothing is enforced before it could be read."""

SERVICES = Resource(api_version="v1", kind="Service", plural="services")
"""Read for `explain` alone, when it is asked: no rule depends on them."""

BY_KIND = {resource.kind: resource for resource in (*RESOURCES, SERVICES)}
"""Every kind that is read."""


ClusterObject: TypeAlias = Namespace | Node | Pod | Service | ServiceCIDR


EgressObject: TypeAlias = IpMasqConfig | EgressNATPolicy | NetworkGatewayGroup


Item: TypeAlias = ClusterObject | NetworkPolicy | TierPolicy | EgressObject | NetworkLogging
"""Every kind of object that nfagent reads."""
