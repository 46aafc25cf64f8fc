"""Invalid values that kube-apiserver accepts in fields that nfagent reads."""

from __future__ import annotations

import pytest

from nfagent.decode.object_decoder import DecodedObject, object_decoder
from nfagent.lab.apiserver.kube_client import Document, LabApiClient
from nfagent.model.gvk import BY_KIND, Item
from nfagent.model.netaddr import parse_cidr
from nfagent.model.networkpolicy import IpBlock, NetworkPolicy
from nfagent.model.objects import Node, Pod
from tests.support.apiserver_documents import encoded

pytestmark = pytest.mark.apiserver


def stored(clean: LabApiClient, document: Document) -> tuple[Item | None, list[str]]:
    """Put an object, and read it as the server has it."""
    clean.put(document)
    found = object_decoder(BY_KIND[document["kind"]])(encoded(clean.get(document)))
    assert isinstance(found, DecodedObject)
    return found.item, [f"{problem.field} {problem.value}".rstrip() for problem in found.problems]


def test_any_text_is_stored_as_address_of_a_node_and_an_invalid_one_affects_no_other(clean: LabApiClient) -> None:
    addresses = [
        ("InternalIP", "192.000.002.001"),
        ("InternalIP", "fe80::1%eth0"),
        ("InternalIP", "192.0.2.1/24"),
        ("InternalIP", "a.example"),
        ("ExternalIP", ""),
        ("Hostname", "192.0.2.9"),
        ("InternalDNS", "a.internal"),
        ("Other", "2001:db8::1"),
    ]
    item, problems = stored(
        clean,
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "odd", "labels": {"role": "cp"}},
            "spec": {"podCIDR": "10.064.001.000/24", "podCIDRs": ["10.064.001.000/24"]},
            "status": {"addresses": [{"type": kind, "address": address} for kind, address in addresses]},
        },
    )
    assert isinstance(item, Node)
    assert item.addresses == ("192.0.2.1", "192.0.2.9", "2001:db8::1")
    assert item.pod_cidrs == (parse_cidr("10.64.1.0/24"),)
    assert ("role", "cp") in item.labels
    assert problems == [
        "status.addresses[4].address",
        "status.addresses[1].address fe80::1%eth0",
        "status.addresses[2].address 192.0.2.1/24",
        "status.addresses[3].address a.example",
    ]


def test_leading_zeros_of_a_pod_and_of_an_ip_block_are_stored_and_read_as_decimal(clean: LabApiClient) -> None:
    clean.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "zeros"}})
    metadata = {"namespace": "zeros", "name": "zero"}
    pod, problems = stored(
        clean,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "c"}]},
            "status": {"phase": "Running", "podIP": "010.064.000.030", "podIPs": [{"ip": "010.064.000.030"}]},
        },
    )
    assert isinstance(pod, Pod)
    assert (pod.addresses, problems) == (("10.64.0.30",), [])
    policy, problems = stored(
        clean,
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata,
            "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.064.000.030/32"}}]}]},
        },
    )
    assert isinstance(policy, NetworkPolicy)
    assert policy.ingress[0].peers == (IpBlock(parse_cidr("10.64.0.30/32")),)
    assert problems == []
