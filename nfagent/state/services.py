"""Services: who stands behind an address that a client calls.

Policies judge connections after a Service's address was translated, so no Service ever changes a rule. They are read
for people's sake: who asks about `10.96.0.10:80` means the Pods behind it.
"""

from __future__ import annotations

from typing import TypeVar

from nfagent.model.objects import ObjectRef
from nfagent.model.services import Service, ServicePort

_K = TypeVar("_K")


class ServiceIndex:
    """The Services, found by what clients call.

    services:     every Service of the cluster
    by_address:   an address -> the Services that have it: one, but for external addresses that several share
    by_node_port: (protocol, port) on every node -> the Services that have it: one, but while two change places
    """

    def __init__(self) -> None:
        """Start without Services."""
        self.services: dict[ObjectRef, Service] = {}
        self.by_address: dict[str, tuple[Service, ...]] = {}
        self.by_node_port: dict[tuple[str, int], tuple[Service, ...]] = {}

    def put(self, service: Service) -> None:
        """Take in a Service, new or changed."""
        self.remove(service.ref)
        self.services[service.ref] = service
        for address in service.addresses:
            _file(self.by_address, address, service)
        for key in _node_ports(service):
            _file(self.by_node_port, key, service)

    def remove(self, ref: ObjectRef) -> None:
        """Drop a Service; one that isn't there changes nothing."""
        service = self.services.pop(ref, None)
        if service is None:
            return
        for address in service.addresses:
            _unfile(self.by_address, address, ref)
        for key in _node_ports(service):
            _unfile(self.by_node_port, key, ref)

    def find_by_node_port(self, protocol: str, port: int) -> tuple[Service, ServicePort] | None:
        """Find whose node port a client calls on a node's own address; None where it is nobody's."""
        for service in self.by_node_port.get((protocol, port), ()):
            for known in service.ports:
                if (known.protocol, known.node_port) == (protocol, port):
                    return service, known
        return None


def _node_ports(service: Service) -> set[tuple[str, int]]:
    return {(port.protocol, port.node_port) for port in service.ports if port.node_port}


def _file(index: dict[_K, tuple[Service, ...]], key: _K, service: Service) -> None:
    index[key] = tuple(sorted((*index.get(key, ()), service), key=lambda known: known.ref))


def _unfile(index: dict[_K, tuple[Service, ...]], key: _K, ref: ObjectRef) -> None:
    index[key] = tuple(known for known in index[key] if known.ref != ref)
    if not index[key]:
        del index[key]
