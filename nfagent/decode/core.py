"""Decodes Namespace, Node, Pod, ServiceCIDR and NetworkLogging.

A document is parsed YAML or JSON. Each decoder returns the object, with the problems of single fields, or raises an
ObjectError if its name is invalid. Both name object, field and value. No API server has validated a file, so its
defaults and checks are applied here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from nfagent.decode.annotations import read_audit
from nfagent.decode.crd_validation import known_fields
from nfagent.decode.fast_pod import decode_pod_fast
from nfagent.decode.field_errors import FieldErrors
from nfagent.decode.fields import DocumentField
from nfagent.errors import ObjectError
from nfagent.model.objects import (
    DENY_LOGGING,
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

T = TypeVar("T")

DEFAULT_NAMESPACE = "default"
"""The Namespace of a document without metadata.namespace, as in kubectl."""

_SWITCHES = ("allow", "deny")
"""The fields of NetworkLogging's spec.cluster."""
_READY = "Ready"
_STATUSES = ("True", "False", "Unknown")
_NAME_TYPES = ("Hostname", "InternalDNS", "ExternalDNS")
"""Types of Node addresses that may be host names."""


def document_field(document: dict[str, Any]) -> DocumentField:
    """Return the field of a whole document; its owner is the kind and name in the document."""
    metadata = document.get("metadata")
    described = metadata if isinstance(metadata, dict) else {}
    names = [described.get(key) for key in ("namespace", "name")]
    path = "/".join(name for name in names if name and isinstance(name, str))
    return DocumentField(f"{document.get('kind', 'object')} {path or '(unnamed)'}", "", document)


def namespaced_name(document: DocumentField) -> tuple[str, str]:
    """Read metadata.namespace (`default` when missing) and metadata.name."""
    metadata = document / "metadata"
    namespace = metadata / "namespace"
    return DEFAULT_NAMESPACE if namespace.missing else namespace.dns_label(), (metadata / "name").dns_subdomain()


def decode_namespace(document: dict[str, Any]) -> Namespace:
    """Read a v1 Namespace; the label of its name is added (docs/semantics.md, edge case 17)."""
    top = document_field(document)
    name, errors = (top / "metadata" / "name").dns_label(), FieldErrors(top)
    labels = named_labels(name, errors.labels("metadata.labels"))
    logs_denies = errors.read("metadata.annotations", _logs_denies, instead=False, keep="logs_denies")
    audits = errors.read("metadata.annotations", read_audit, instead=False, keep="audits_policies")
    return Namespace(name, labels, errors.problems, errors.unread, logs_denies, audits)


def _logs_denies(annotations: DocumentField) -> bool:
    return (annotations / DENY_LOGGING).string() == "true"


def named_labels(namespace: str, labels: Labels) -> Labels:
    """Add the label that the API server gives every Namespace."""
    return tuple(sorted({**dict(labels), METADATA_NAME: namespace}.items()))


def decode_node(document: dict[str, Any]) -> Node:
    """Read a v1 Node, with all IP addresses in status.addresses, of any type.

    A Node whose Ready condition can't be read is not ready.
    """
    top = document_field(document)
    name, errors = (top / "metadata" / "name").dns_subdomain(), FieldErrors(top)
    labels = errors.labels("metadata.labels")
    cidrs = errors.entries("spec.podCIDRs", DocumentField.cidr, keep="pod_cidrs")
    cidrs = cidrs or errors.read("spec.podCIDR", _one(DocumentField.cidr), [], keep="pod_cidrs")
    given = errors.each(errors.items("status.addresses", keep="addresses"), _with_address)
    addresses = errors.each(given, _node_address, keep="addresses")
    return Node(
        name=name,
        labels=labels,
        pod_cidrs=tuple(cidrs),
        addresses=tuple(dict.fromkeys(address for address in addresses if address)),
        ready=errors.read("status.conditions", _is_ready, instead=False),
        problems=errors.problems,
        unread=errors.unread,
    )


def _is_ready(conditions: DocumentField) -> bool:
    """Return whether a Node is ready by its conditions; a Node without any counts as ready."""
    if conditions.missing or conditions.value == []:
        return True
    found = [entry / "status" for entry in conditions.items() if (entry / "type").value == _READY]
    statuses = [status.string() for status in found]
    if len(found) > 1:
        raise found[1].error("is the second condition Ready; delete one")
    if found and statuses[0] not in _STATUSES:
        raise found[0].error('is not a status; write "True", "False" or "Unknown", in quotes')
    return statuses == ["True"]


def _with_address(entry: DocumentField) -> DocumentField:
    """Return an entry of status.addresses; raises ObjectError if its address is empty, and not of a host name type.

    An empty address means that there is none, so no older address stays. An entry that isn't a mapping is returned:
    reading its address fails later, and older addresses stay.
    """
    if not isinstance(entry.value, dict):
        return entry
    address = entry / "address"
    if address.value in (None, "") and (entry / "type").value not in _NAME_TYPES:
        raise address.error("is empty; delete the entry, or write an address like 10.0.0.1 or 2001:db8::1")
    return entry


def _node_address(entry: DocumentField) -> str:
    """Read an entry of status.addresses; '' for a host name of a type that allows one."""
    address = entry / "address"
    try:
        return address.address()
    except ObjectError:
        if isinstance(address.value, str) and (entry / "type").string() in _NAME_TYPES:
            return ""
        raise


def _one(read: Callable[[DocumentField], T]) -> Callable[[DocumentField], list[T]]:
    """Return a reader of the older singular field of a list: no entry if missing or empty."""
    return lambda field: [read(field)] if field.string() else []


def decode_pod(document: dict[str, Any]) -> Pod:
    """Read a v1 Pod: by the fast decoder, or field by field if that doesn't accept the document."""
    return decode_pod_fast(document) or decode_pod_by_field(document)


def decode_pod_by_field(document: dict[str, Any]) -> Pod:
    """Read a v1 Pod field by field; status.podIP is used if status.podIPs has no address."""
    top = document_field(document)
    namespace, name = namespaced_name(top)
    errors = FieldErrors(top)
    labels = errors.labels("metadata.labels")
    addresses = errors.entries("status.podIPs", _pod_address, keep="addresses")
    addresses = addresses or errors.read("status.podIP", _one(DocumentField.address), [], keep="addresses")
    kind, owner = errors.read("metadata.ownerReferences", _controller, ("", ""))
    return Pod(
        namespace=namespace,
        name=name,
        labels=labels,
        node=errors.read("spec.nodeName", DocumentField.string, "", keep="node"),
        addresses=tuple(dict.fromkeys(addresses)),
        host_network=errors.read("spec.hostNetwork", DocumentField.boolean, instead=False, keep="host_network"),
        phase=errors.read("status.phase", _phase, "Pending", keep="phase"),
        ports=_named_ports(errors),
        workload_kind=kind or "Pod",
        workload_name=owner or name,
        problems=errors.problems,
        unread=errors.unread,
        # Any value counts: the time isn't used, so an invalid one is no error.
        deleting=bool((top / "metadata" / "deletionTimestamp").value),
    )


def _pod_address(entry: DocumentField) -> str:
    return (entry / "ip").address()


def _phase(field: DocumentField) -> str:
    return field.string("Pending")


def _controller(references: DocumentField) -> tuple[str, str]:
    for reference in references.items():
        if (reference / "controller").boolean():
            return (reference / "kind").string(), (reference / "name").string()
    return "", ""


def _named_ports(errors: FieldErrors) -> tuple[ContainerPort, ...]:
    """Read named ports of containers and sidecars, not of other init containers (docs/semantics.md, edge case 13)."""
    containers = errors.entries("spec.containers", _container, keep="ports")
    containers += errors.entries("spec.initContainers", _sidecar, keep="ports")
    ports = [port for container in containers for port in errors.items(container / "ports", keep="ports")]
    return tuple(port for port in errors.each(ports, _named_port, keep="ports") if port is not None)


def _container(field: DocumentField) -> DocumentField:
    field.mapping()
    return field


def _sidecar(field: DocumentField) -> DocumentField:
    """Return the init container if it is a sidecar (restartPolicy Always), and an empty field otherwise."""
    return field if (field / "restartPolicy").string() == "Always" else DocumentField(field.owner, field.path, None)


def _named_port(field: DocumentField) -> ContainerPort | None:
    """Read a container's port; None without a name."""
    name = (field / "name").string()
    if not name:
        return None
    return ContainerPort(name, (field / "containerPort").port_number(), (field / "protocol").protocol())


def decode_service_cidr(document: dict[str, Any]) -> ServiceCIDR:
    """Read a networking.k8s.io/v1 ServiceCIDR."""
    top = document_field(document)
    name, errors = (top / "metadata" / "name").dns_subdomain(), FieldErrors(top)
    cidrs = tuple(errors.entries("spec.cidrs", DocumentField.cidr, keep="cidrs"))
    return ServiceCIDR(name, cidrs, errors.problems, errors.unread)


def decode_network_logging(document: dict[str, Any]) -> NetworkLogging:
    """Read the NetworkLogging object. Raises ObjectError for another name than `default`, and `delegate` without `log`.

    Of these the object's author meant something else: nothing of it applies. An unknown field may be a misspelt one, so
    the switches that are absent beside it keep their last good value.
    """
    top = document_field(document)
    name, errors = top / "metadata" / "name", FieldErrors(top)
    if name.string() != "default":
        raise name.error("is not the name of the one NetworkLogging object; name it default")
    allow = errors.read("spec.cluster.allow", _switch, LoggingSwitch(), keep="allow")
    deny = errors.read("spec.cluster.deny", _switch, LoggingSwitch(), keep="deny")
    _check_logging_fields(top, errors)
    for key, switch in zip(_SWITCHES, (allow, deny), strict=True):
        if switch.delegate and not switch.log:
            delegate = top / "spec" / "cluster" / key / "delegate"
            raise delegate.error("needs `log: true` beside it; set log, or delete delegate")
    return NetworkLogging(allow, deny, errors.problems, errors.unread)


def _check_logging_fields(top: DocumentField, errors: FieldErrors) -> None:
    """Add errors for unknown fields around the switches, which then keep the switches that are absent."""
    try:
        known_fields(top / "spec", "cluster")
        known_fields(top / "spec" / "cluster", *_SWITCHES)
    except ObjectError as error:
        errors.add(error)
        cluster: dict[str, Any] = errors.read("spec.cluster", DocumentField.mapping, {})
        for key in _SWITCHES:
            if cluster.get(key) is None:
                errors.keep(key)


def _switch(field: DocumentField) -> LoggingSwitch:
    known_fields(field, "log", "delegate")
    return LoggingSwitch(log=(field / "log").boolean(), delegate=(field / "delegate").boolean())
