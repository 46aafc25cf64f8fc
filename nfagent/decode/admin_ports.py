"""Decodes ports of tier rules, in the two forms of the API versions (policy.networking.k8s.io).

v1alpha1 AdminNetworkPolicyPort:        portNumber, portRange, namedPort; TCP where no protocol is given
v1alpha2 ClusterNetworkPolicyProtocol:  tcp, udp, sctp, destinationNamedPort

A named port has the protocol of the container port. All functions raise ObjectErrors.
"""

from __future__ import annotations

from nfagent.decode.crd_validation import known_fields, only_field
from nfagent.decode.fields import DocumentField
from nfagent.model.networkpolicy import PolicyPort
from nfagent.model.objects import Protocol

_PROTOCOLS: dict[str, Protocol] = {"tcp": "tcp", "udp": "udp", "sctp": "sctp"}


def decode_v1alpha1_port(field: DocumentField) -> PolicyPort:
    """Read an entry of `ports`."""
    form, value = only_field(field, "portNumber", "portRange", "namedPort")
    if form == "namedPort":
        return _named(value, "portNumber")
    protocol = value / "protocol"
    if form == "portNumber":
        known_fields(value, "protocol", "port")
        return _single(protocol.protocol(), value / "port")
    known_fields(value, "protocol", "start", "end")
    return _range(protocol.protocol(), value, "portNumber")


def decode_v1alpha2_port(field: DocumentField) -> PolicyPort:
    """Read an entry of `protocols`."""
    form, value = only_field(field, *_PROTOCOLS, "destinationNamedPort")
    if form == "destinationNamedPort":
        return _named(value, "tcp, udp or sctp")
    known_fields(value, "destinationPort")
    port = value / "destinationPort"
    if port.missing:
        raise value.error("is empty; write destinationPort; its range 1 to 65535 is every port")
    form_of_port, number = only_field(port, "number", "range")
    if form_of_port == "number":
        return _single(_PROTOCOLS[form], number)
    known_fields(number, "start", "end")
    return _range(_PROTOCOLS[form], number, "number")


def _single(protocol: Protocol, field: DocumentField) -> PolicyPort:
    port = field.port_number()
    return PolicyPort(protocol, port, port)


def _range(protocol: Protocol, field: DocumentField, single: str) -> PolicyPort:
    first, last = (field / "start").port_number(), (field / "end").port_number()
    if last <= first:
        raise (field / "end").error(f"is not above start {first}; write a higher end, or one port as {single}")
    return PolicyPort(protocol, first, last)


def _named(field: DocumentField, numbers: str) -> PolicyPort:
    """Read a port's name. The CRDs allow any text: a name that no container port has matches nothing."""
    name = field.value
    if not isinstance(name, str) or not name or name.isdecimal():
        raise field.error(f"is not the name of a port; write a container port's name, or a number under {numbers}")
    return PolicyPort("any", name=name)
