"""v1 Service: the fields that tell where a connection to it goes."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.objects import Labels, ObjectRef, Pod, Protocol

TrafficPolicy: TypeAlias = Literal["Cluster", "Local"]
"""All Pods behind the Service, or only those on the node that took the connection in."""


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """v1 ServicePort: the port that clients call, and the Pods' port that it stands for.

    name:      '' where the Service has only this one and didn't name it
    target:    the Pods' port; a name is each Pod's own container port of that name and protocol
    node_port: the port on every node's own addresses; 0 for none
    """

    port: int
    target: int | str
    protocol: Protocol = "tcp"
    name: str = ""
    node_port: int = 0

    def on(self, pod: Pod) -> int | None:
        """Give the port's number on a Pod; None where the Pod has no container port of its target's name."""
        if isinstance(self.target, int):
            return self.target
        wanted = (self.target, self.protocol)
        return next((known.port for known in pod.ports if (known.name, known.protocol) == wanted), None)

    def __str__(self) -> str:
        """Write it as `http (80/tcp)`, or `80/tcp` without a name."""
        spelt = f"{self.port}/{self.protocol}"
        return f"{self.name} ({spelt})" if self.name else spelt


class Service(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """v1 Service, with what tells where a connection to it goes.

    cluster_addresses:  spec.clusterIPs, canonical, in the API's order; none for a headless Service or an ExternalName,
                        nor in a file before the API server gave one
    external_addresses: spec.externalIPs, and those of status.loadBalancer.ingress that the nodes translate themselves
                        (ipMode isn't Proxy)
    headless:           spec.clusterIP is None: its name stands for the Pods' own addresses, which clients call
    selector:           the labels of the Pods behind it; None: it has none, others say who stands behind it
    external:           spec.externalTrafficPolicy: of connections to node ports and external addresses
    internal:           spec.internalTrafficPolicy: of connections to cluster addresses
    external_name:      spec.externalName: the Service is an alias for that name, and '' otherwise
    problems:           what is wrong with the object, for people; the rest of it holds
    """

    namespace: str
    name: str
    cluster_addresses: tuple[str, ...] = ()
    external_addresses: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    headless: bool = False
    selector: Labels | None = None
    external: TrafficPolicy = "Cluster"
    internal: TrafficPolicy = "Cluster"
    external_name: str = ""
    problems: tuple[ValidationIssue, ...] = ()

    @property
    def ref(self) -> ObjectRef:
        """Name this object."""
        return ObjectRef("Service", self.namespace, self.name)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address of its own that clients call: the cluster's first."""
        return tuple(dict.fromkeys((*self.cluster_addresses, *self.external_addresses)))
