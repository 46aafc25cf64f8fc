"""v1 Service: the fields that determine the destination of its connections."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.objects import Labels, ObjectRef, Pod, Protocol

TrafficPolicy: TypeAlias = Literal["Cluster", "Local"]
"""All endpoints of the Service, or only those on the node that received the connection."""


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """v1 ServicePort: the port of the Service, and the target port of its Pods.

    name:      '' for the only port of a Service, without a name
    target:    targetPort; a name is each Pod's own container port of that name and protocol
    node_port: the port on the addresses of every node; 0 for none
    """

    port: int
    target: int | str
    protocol: Protocol = "tcp"
    name: str = ""
    node_port: int = 0

    def on(self, pod: Pod) -> int | None:
        """Return the port's number on a Pod; None if the Pod has no container port of the target's name."""
        if isinstance(self.target, int):
            return self.target
        wanted = (self.target, self.protocol)
        return next((known.port for known in pod.ports if (known.name, known.protocol) == wanted), None)

    def __str__(self) -> str:
        """Return it as `http (80/tcp)`, or `80/tcp` without a name."""
        spelt = f"{self.port}/{self.protocol}"
        return f"{self.name} ({spelt})" if self.name else spelt


class Service(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """v1 Service, with the fields that determine the destination of its connections.

    cluster_addresses:  spec.clusterIPs, canonical, in the API's order; none for a headless Service or an ExternalName,
                        nor in a file without an assigned one
    external_addresses: spec.externalIPs, and those of status.loadBalancer.ingress that the nodes translate themselves
                        (ipMode isn't Proxy)
    headless:           spec.clusterIP is None: its name resolves to the Pods' own addresses
    selector:           the labels of its Pods; None without a selector: its endpoints are set elsewhere
    external:           spec.externalTrafficPolicy: of connections to node ports and external addresses
    internal:           spec.internalTrafficPolicy: of connections to cluster addresses
    external_name:      spec.externalName: the Service is an alias for that name, and '' otherwise
    problems:           problems of invalid fields; the other fields apply
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
        """The reference of this object."""
        return ObjectRef("Service", self.namespace, self.name)

    @property
    def addresses(self) -> tuple[str, ...]:
        """All addresses of the Service, cluster addresses first."""
        return tuple(dict.fromkeys((*self.cluster_addresses, *self.external_addresses)))
