"""Documents to cluster objects: Namespace, Node, Pod, ServiceCIDR, NetworkLogging.

A document is what YAML or JSON gives. Each decoder returns the object, or raises an ObjectError that names
object, field and value. File input has not been through the API server: what that would default or refuse
is defaulted or refused here.
"""

from __future__ import annotations

from typing import Any

from nfagent.cluster.fields import Field
from nfagent.cluster.model import (
    METADATA_NAME,
    ContainerPort,
    Labels,
    LoggingSwitch,
    Namespace,
    NetworkLogging,
    Node,
    Pod,
    ServiceCIDR,
)
from nfagent.cluster.quick import quick_pod

DEFAULT_NAMESPACE = "default"
"""Where a namespaced document without metadata.namespace belongs, as kubectl has it."""


def document_field(document: dict[str, Any]) -> Field:
    """Stand at the top of a document, named by what it says of itself."""
    metadata = document.get("metadata")
    described = metadata if isinstance(metadata, dict) else {}
    names = [described.get(key) for key in ("namespace", "name")]
    path = "/".join(name for name in names if name and isinstance(name, str))
    return Field(f"{document.get('kind', 'object')} {path or '(unnamed)'}", "", document)


def namespaced_name(document: Field) -> tuple[str, str]:
    """Read metadata.namespace (`default` when missing) and metadata.name."""
    metadata = document / "metadata"
    namespace = metadata / "namespace"
    return DEFAULT_NAMESPACE if namespace.missing else namespace.dns_label(), (metadata / "name").dns_subdomain()


def decode_namespace(document: dict[str, Any]) -> Namespace:
    """Read a v1 Namespace; its name's label is supplied (corner-cases.md 17)."""
    metadata = document_field(document) / "metadata"
    name = (metadata / "name").dns_label()
    return Namespace(name, named_labels(name, (metadata / "labels").labels()))


def named_labels(namespace: str, labels: Labels) -> Labels:
    """Add the label that the API server gives every Namespace."""
    return tuple(sorted({**dict(labels), METADATA_NAME: namespace}.items()))


def decode_node(document: dict[str, Any]) -> Node:
    """Read a v1 Node; addresses that are names (Hostname, InternalDNS, ExternalDNS) are left out."""
    top = document_field(document)
    spec = top / "spec"
    cidrs = [field.cidr() for field in (spec / "podCIDRs").items()]
    if not cidrs and not (spec / "podCIDR").missing:
        cidrs = [(spec / "podCIDR").cidr()]
    addresses = [
        (entry / "address").address()
        for entry in (top / "status" / "addresses").items()
        if (entry / "type").string() in {"InternalIP", "ExternalIP"}
    ]
    return Node(
        name=(top / "metadata" / "name").dns_subdomain(),
        labels=(top / "metadata" / "labels").labels(),
        pod_cidrs=tuple(cidrs),
        addresses=tuple(dict.fromkeys(addresses)),
    )


def decode_pod(document: dict[str, Any]) -> Pod:
    """Read a v1 Pod: the quick way, or field by field where that finds something to look at."""
    return quick_pod(document) or careful_pod(document)


def careful_pod(document: dict[str, Any]) -> Pod:
    """Read a v1 Pod; status.podIPs, or status.podIP where only that is given."""
    top = document_field(document)
    namespace, name = namespaced_name(top)
    spec, status = top / "spec", top / "status"
    addresses = [(entry / "ip").address() for entry in (status / "podIPs").items()]
    if not addresses and (status / "podIP").string():
        addresses = [(status / "podIP").address()]
    kind, owner = _controller(top / "metadata" / "ownerReferences")
    return Pod(
        namespace=namespace,
        name=name,
        labels=(top / "metadata" / "labels").labels(),
        node=(spec / "nodeName").string(),
        addresses=tuple(dict.fromkeys(addresses)),
        host_network=(spec / "hostNetwork").boolean(),
        phase=(status / "phase").string("Pending"),
        ports=_named_ports(spec),
        workload_kind=kind or "Pod",
        workload_name=owner or name,
        # Whatever is there: when it ends isn't asked, and a time that can't be read takes no other field along.
        deleting=bool((top / "metadata" / "deletionTimestamp").value),
    )


def _controller(references: Field) -> tuple[str, str]:
    for reference in references.items():
        if (reference / "controller").boolean():
            return (reference / "kind").string(), (reference / "name").string()
    return "", ""


def _named_ports(spec: Field) -> tuple[ContainerPort, ...]:
    """Collect named ports of containers and sidecars; plain init containers serve nobody (corner-cases.md 13)."""
    containers = list((spec / "containers").items())
    containers += [c for c in (spec / "initContainers").items() if (c / "restartPolicy").string() == "Always"]
    return tuple(
        ContainerPort(
            name=(port / "name").string(),
            port=(port / "containerPort").port_number(),
            protocol=(port / "protocol").protocol(),
        )
        for container in containers
        for port in (container / "ports").items()
        if (port / "name").string()
    )


def decode_service_cidr(document: dict[str, Any]) -> ServiceCIDR:
    """Read a networking.k8s.io/v1 ServiceCIDR."""
    top = document_field(document)
    cidrs = tuple(entry.cidr() for entry in (top / "spec" / "cidrs").items())
    return ServiceCIDR((top / "metadata" / "name").dns_subdomain(), cidrs)


def decode_network_logging(document: dict[str, Any]) -> NetworkLogging:
    """Read the NetworkLogging object; it is named `default`, and `delegate` needs `log`."""
    top = document_field(document)
    name = top / "metadata" / "name"
    if name.string() != "default":
        raise name.error("is not the name of the one NetworkLogging object; name it default")
    cluster = top / "spec" / "cluster"
    return NetworkLogging(allow=_switch(cluster / "allow"), deny=_switch(cluster / "deny"))


def _switch(field: Field) -> LoggingSwitch:
    switch = LoggingSwitch(log=(field / "log").boolean(), delegate=(field / "delegate").boolean())
    if switch.delegate and not switch.log:
        raise (field / "delegate").error("needs `log: true` beside it; set log, or take delegate away")
    return switch
