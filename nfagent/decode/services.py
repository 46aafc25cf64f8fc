"""Decodes v1 Service documents."""

from __future__ import annotations

from typing import Any

from nfagent.decode.core import document_field, namespaced_name
from nfagent.decode.field_errors import FieldErrors
from nfagent.decode.fields import DocumentField
from nfagent.model.services import Service, ServicePort, TrafficPolicy

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_HEADLESS = "None"


def decode_service(document: dict[str, Any]) -> Service:
    """Read a v1 Service. Raises ObjectError if its name is invalid."""
    top = document_field(document)
    namespace, name = namespaced_name(top)
    errors = FieldErrors(top)
    kind = errors.read("spec.type", _type, "ClusterIP")
    ports = tuple(errors.entries("spec.ports", _port))
    if kind == "ExternalName":
        alias = errors.read("spec.externalName", DocumentField.string, "")
        return Service(namespace=namespace, name=name, ports=ports, external_name=alias, problems=errors.problems)
    given = [address for address in errors.entries("spec.clusterIPs", _cluster_address) if address]
    if not given and (lone := errors.read("spec.clusterIP", _cluster_address, "")):
        given = [lone]
    headless = _HEADLESS in given
    external = [*errors.entries("spec.externalIPs", DocumentField.address)]
    external += [address for address in errors.entries("status.loadBalancer.ingress", _balanced) if address]
    return Service(
        namespace=namespace,
        name=name,
        cluster_addresses=() if headless else tuple(dict.fromkeys(given)),
        external_addresses=tuple(dict.fromkeys(external)),
        ports=ports,
        headless=headless,
        selector=errors.labels("spec.selector") or None,
        external=errors.read("spec.externalTrafficPolicy", _traffic, "Cluster"),
        internal=errors.read("spec.internalTrafficPolicy", _traffic, "Cluster"),
        problems=errors.problems,
    )


def _type(field: DocumentField) -> str:
    return _choice(field, "ClusterIP", _TYPES)


def _cluster_address(field: DocumentField) -> str:
    """Read a cluster address; `None` of a headless Service, '' before one is assigned."""
    return field.address() if field.string() not in {"", _HEADLESS} else field.string()


def _port(field: DocumentField) -> ServicePort:
    port = (field / "port").port_number()
    return ServicePort(
        port=port,
        target=_target(field / "targetPort") or port,
        protocol=(field / "protocol").protocol(),
        name=(field / "name").string(),
        node_port=_number(field / "nodePort"),
    )


def _target(field: DocumentField) -> int | str:
    if isinstance(field.value, str):
        return field.port_name() if field.value else ""
    return _number(field)


def _number(field: DocumentField) -> int:
    """Read a port number; 0 if missing, as in the API."""
    return 0 if field.missing or field.integer() == 0 else field.port_number()


def _balanced(entry: DocumentField) -> str:
    """Read the address of a load balancer that keeps the destination address (ipMode VIP, the default), or ''."""
    address = entry / "ip"
    kept = (entry / "ipMode").string("VIP") != "Proxy"
    return address.address() if kept and address.string() else ""


def _traffic(field: DocumentField) -> TrafficPolicy:
    return "Local" if _choice(field, "Cluster", ("Cluster", "Local")) == "Local" else "Cluster"


def _choice(field: DocumentField, default: str, known: tuple[str, ...]) -> str:
    found = field.string() or default
    if found not in known:
        raise field.error(f"is not known here; write {', '.join(known[:-1])} or {known[-1]}")
    return found
