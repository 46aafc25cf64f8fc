"""The Services, by the addresses and node ports that clients connect to.

Policies apply after a Service's address was translated to a Pod's, so no Service ever changes a rule. Services are
read for `explain` only: a question about `10.96.0.10:80` is about the Pods behind it.
"""

from __future__ import annotations

from typing import TypeVar

from nfagent.model.objects import ObjectRef
from nfagent.model.services import Service, ServicePort

_K = TypeVar("_K")


class ServiceIndex:
    """The Services, indexed by address and by node port.

    services:     every Service of the cluster
    by_address:   address -> its Services: one, except for external addresses that several share
    by_node_port: (protocol, node port) -> its Services: one, except while two exchange their ports
    """

    def __init__(self) -> None:
        """Start without Services."""
        self.services: dict[ObjectRef, Service] = {}
        self.by_address: dict[str, tuple[Service, ...]] = {}
        self.by_node_port: dict[tuple[str, int], tuple[Service, ...]] = {}

    def put(self, service: Service) -> None:
        """Add or replace a Service."""
        self.remove(service.ref)
        self.services[service.ref] = service
        for address in service.addresses:
            _add_to(self.by_address, address, service)
        for key in _node_ports(service):
            _add_to(self.by_node_port, key, service)

    def remove(self, ref: ObjectRef) -> None:
        """Remove a Service, if it exists."""
        service = self.services.pop(ref, None)
        if service is None:
            return
        for address in service.addresses:
            _remove_from(self.by_address, address, ref)
        for key in _node_ports(service):
            _remove_from(self.by_node_port, key, ref)

    def find_by_node_port(self, protocol: str, port: int) -> tuple[Service, ServicePort] | None:
        """Return the Service, and its port, with a node port; None if there is none."""
        for service in self.by_node_port.get((protocol, port), ()):
            for known in service.ports:
                if (known.protocol, known.node_port) == (protocol, port):
                    return service, known
        return None


def _node_ports(service: Service) -> set[tuple[str, int]]:
    return {(port.protocol, port.node_port) for port in service.ports if port.node_port}


def _add_to(index: dict[_K, tuple[Service, ...]], key: _K, service: Service) -> None:
    index[key] = tuple(sorted((*index.get(key, ()), service), key=lambda known: known.ref))


def _remove_from(index: dict[_K, tuple[Service, ...]], key: _K, ref: ObjectRef) -> None:
    index[key] = tuple(known for known in index[key] if known.ref != ref)
    if not index[key]:
        del index[key]
