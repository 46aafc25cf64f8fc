"""The resources that nfagent lists and watches: group, version, kind, path, selectors."""

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
    namespace:      the only Namespace to list; '' for all of them, and for cluster-scoped kinds
    field_selector: field selector of list and watch; '' for all objects
    optional:       a cluster may not have it: its CRD isn't installed, or the server's version is older
    """

    api_version: str
    kind: str
    plural: str
    namespace: str = ""
    field_selector: str = ""
    optional: bool = False

    @property
    def path(self) -> str:
        """Path of the collection on the API server."""
        return self._within(self.namespace)

    def object_path(self, ref: ObjectRef) -> str:
        """Return the path of one object of this kind."""
        return f"{self._within(ref.namespace)}/{ref.name}"

    def _within(self, namespace: str) -> str:
        root = "/apis" if "/" in self.api_version else "/api"
        within = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}/{self.api_version}{within}/{self.plural}"

    @property
    def group(self) -> str:
        """Its API group; '' is the core group."""
        return self.api_version.rpartition("/")[0]

    def contains(self, ref: ObjectRef) -> bool:
        """Return whether the collection contains an object, regardless of the field selector."""
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
"""What is listed and watched. The kinds of the tiers are optional because their CRDs are. A kind that the API server
serves but refuses to list isn't absent: nothing is enforced before it can be listed."""

SERVICES = Resource(api_version="v1", kind="Service", plural="services")
"""Listed only for `explain`, on request: no rule depends on Services."""

BY_KIND = {resource.kind: resource for resource in (*RESOURCES, SERVICES)}
"""Every kind that is read."""


ClusterObject: TypeAlias = Namespace | Node | Pod | Service | ServiceCIDR


EgressObject: TypeAlias = IpMasqConfig | EgressNATPolicy | NetworkGatewayGroup


Item: TypeAlias = ClusterObject | NetworkPolicy | TierPolicy | EgressObject | NetworkLogging
"""Every kind of object that nfagent reads."""
ObjectChange: TypeAlias = Item | ObjectRef
"""An object that was added or modified, or the reference of one that was removed."""
