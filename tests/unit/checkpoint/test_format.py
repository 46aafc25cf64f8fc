"""The fields that a checkpoint of format 1 holds: a checkpoint of an earlier version must keep its meaning."""

from __future__ import annotations

import typing
from collections.abc import Iterator

import msgspec

from nfagent.checkpoint.codec import FORMAT
from nfagent.model.admin_policy import TierPolicy
from nfagent.model.egress_nat import EgressNATPolicy, NetworkGatewayGroup
from nfagent.model.ip_masq import IpMasqConfig
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, NetworkLogging, Node, Pod, ServiceCIDR

KEPT = (
    *(Namespace, Node, Pod, ServiceCIDR, NetworkLogging, NetworkPolicy),
    *(IpMasqConfig, EgressNATPolicy, NetworkGatewayGroup, TierPolicy),
)
FIELDS = {
    "ContainerPort": "name port protocol",
    "EgressNATPolicy": "name action destinations sources gateway",
    "EgressSource": "pods namespaces",
    "IpBlock": "cidr excepts",
    "IpMasqConfig": "cidrs link_local problems unread translated",
    "LoggingSwitch": "log delegate",
    "Namespace": "name labels problems unread logs_denies audits_policies",
    "NetworkGatewayGroup": "namespace name addresses nodes",
    "NetworkLogging": "allow deny problems unread",
    "NetworkPolicy": "namespace name pods isolates ingress egress problem logs_allows audit audit_problem",
    "NetworkPolicyRule": "peers ports",
    "Node": "name labels pod_cidrs addresses problems unread ready",
    "NodePeer": "nodes",
    "ObjectRef": "kind namespace name",
    "Pod": "namespace name labels node addresses host_network phase ports workload_kind workload_name deleting problems"
    " unread",
    "PodPeer": "pods namespaces namespace",
    "PolicyPort": "protocol first last name",
    "Range": "family first last",
    "Requirement": "key operator values",
    "Selector": "requirements",
    "ServiceCIDR": "name cidrs problems unread",
    "TierPolicy": "kind name tier priority subject ingress egress problem audit audit_problem",
    "TierRule": "action peers ports name problem",
    "ValidationIssue": "reason place object field value",
}
"""Of every struct in a kept object: its fields. A name that changes needs another FORMAT, and a reader of this one."""


def structs(kind: object, seen: set[object]) -> Iterator[type[msgspec.Struct]]:
    """Return the structs that a type contains, itself included."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind in seen:
            return
        seen.add(kind)
        yield kind
        for field in typing.get_type_hints(kind).values():
            yield from structs(field, seen)
    for argument in typing.get_args(kind):
        yield from structs(argument, seen)


def test_kept_structs_have_the_fields_of_format_1() -> None:
    seen: set[object] = set()
    found = {item.__name__: " ".join(item.__struct_fields__) for kind in KEPT for item in structs(kind, seen)}
    assert found == FIELDS
    assert {name for name in found if name.endswith("Peer")} == {"NodePeer", "PodPeer"}, "tags are class names"
    assert FORMAT == 1
