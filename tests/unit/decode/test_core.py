"""Decoding of Namespaces, Nodes, Pods, ServiceCIDRs and NetworkLogging."""

from __future__ import annotations

from typing import Any

import pytest

from nfagent.decode.core import (
    decode_namespace,
    decode_network_logging,
    decode_node,
    decode_pod,
    decode_service_cidr,
)
from nfagent.decode.retained_fields import with_last_good
from nfagent.errors import ObjectError
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import ContainerPort, LoggingSwitch, Namespace, NetworkLogging, Node, ServiceCIDR

Document = dict[str, Any]


def pod(spec: Document | None = None, status: Document | None = None, **metadata: Any) -> Document:  # noqa: ANN401 - a document's fields
    return {
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "web", **metadata},
        "spec": spec or {},
        "status": status or {},
    }


def test_a_namespace_gets_the_label_of_its_name() -> None:
    document = {"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "red"}}}
    assert decode_namespace(document) == Namespace("shop", (("kubernetes.io/metadata.name", "shop"), ("team", "red")))


def test_the_label_of_its_name_cannot_be_forged() -> None:
    document = {"kind": "Namespace", "metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "ops"}}}
    assert decode_namespace(document).labels == (("kubernetes.io/metadata.name", "shop"),)


def test_a_node_keeps_addresses_and_leaves_names_out() -> None:
    document = {
        "kind": "Node",
        "metadata": {"name": "a.example"},
        "spec": {"podCIDR": "10.64.0.0/24", "podCIDRs": ["10.64.0.0/24", "2001:db8::/64"]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "192.168.0.1"},
                {"type": "ExternalIP", "address": "192.168.0.1"},
                {"type": "Hostname", "address": "a.example"},
                {"type": "InternalIP", "address": "FD00::1"},
            ]
        },
    }
    cidrs = (parse_cidr("10.64.0.0/24"), parse_cidr("2001:db8::/64"))
    assert decode_node(document) == Node("a.example", (), cidrs, ("192.168.0.1", "fd00::1"))


def test_a_node_with_only_the_older_field_has_one_range() -> None:
    document = {"kind": "Node", "metadata": {"name": "a"}, "spec": {"podCIDR": "10.64.0.0/24"}}
    assert decode_node(document).pod_cidrs == (parse_cidr("10.64.0.0/24"),)


def test_a_bare_pod_is_pending_in_the_default_namespace_and_its_own_workload() -> None:
    found = decode_pod({"kind": "Pod", "metadata": {"name": "web"}})
    assert (found.namespace, found.phase, found.addresses) == ("default", "Pending", ())
    assert (found.workload_kind, found.workload_name) == ("Pod", "web")
    assert not found.holds_addresses


def test_the_controller_among_the_owners_is_the_workload() -> None:
    owners = [{"kind": "Other", "name": "x"}, {"kind": "ReplicaSet", "name": "web-1", "controller": True}]
    found = decode_pod(pod(ownerReferences=owners))
    assert (found.workload_kind, found.workload_name) == ("ReplicaSet", "web-1")


@pytest.mark.parametrize(
    ("status", "addresses"),
    [
        pytest.param({"podIP": "10.0.0.1"}, ("10.0.0.1",), id="podIP alone"),
        pytest.param(
            {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "FD00::1"}]},
            ("10.0.0.1", "fd00::1"),
            id="podIPs",
        ),
        pytest.param({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "::ffff:10.0.0.1"}]}, ("10.0.0.1",), id="[26] one twice"),
        pytest.param({"podIP": "", "podIPs": []}, (), id="none yet"),
    ],
)
def test_addresses_of_a_pod(status: Document, addresses: tuple[str, ...]) -> None:
    assert decode_pod(pod(status=status)).addresses == addresses


def test_named_ports_are_those_of_containers_and_sidecars() -> None:
    spec = {
        "containers": [
            {"ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]},
            {"ports": [{"containerPort": 53, "name": "dns", "protocol": "UDP"}]},
        ],
        "initContainers": [
            {"ports": [{"containerPort": 1, "name": "init"}]},
            {"restartPolicy": "Always", "ports": [{"containerPort": 2, "name": "side"}]},
        ],
    }
    expected = (ContainerPort("http", 80, "tcp"), ContainerPort("dns", 53, "udp"), ContainerPort("side", 2, "tcp"))
    assert decode_pod(pod(spec)).ports == expected


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param(
            pod(name="Web"), "Pod shop/Web: metadata.name 'Web': is not a valid name", id="a name in capitals"
        ),
        pytest.param(
            pod(namespace="a.b"), "metadata.namespace 'a.b': is not a valid name", id="a namespace with a dot"
        ),
        pytest.param({"kind": "Pod"}, "Pod (unnamed): metadata.name: is not a valid name", id="no name at all"),
        pytest.param(
            {"kind": "Pod", "metadata": "x"}, "Pod (unnamed): metadata 'x': is not a mapping", id="metadata of text"
        ),
    ],
)
def test_a_pod_that_can_t_be_named_is_refused_with_its_place(document: Document, message: str) -> None:
    with pytest.raises(ObjectError) as caught:
        decode_pod(document)
    assert message in str(caught.value)


def test_a_service_range_is_read() -> None:
    document = {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12", "2001:db8:5::/108"]}}
    ranges = (parse_cidr("10.96.0.0/12"), parse_cidr("2001:db8:5::/108"))
    assert decode_service_cidr(document) == ServiceCIDR("kubernetes", ranges)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param({"spec": {"cidrs": []}}, "metadata.name: is not a valid name", id="no name"),
    ],
)
def test_a_service_range_without_a_name_is_refused(document: Document, message: str) -> None:
    with pytest.raises(ObjectError) as caught:
        decode_service_cidr({"kind": "ServiceCIDR", **document})
    assert message in str(caught.value)


def logging(name: str = "default", **cluster: Document) -> Document:
    return {"kind": "NetworkLogging", "metadata": {"name": name}, "spec": {"cluster": cluster}}


def test_network_logging_is_off_by_default() -> None:
    assert decode_network_logging(logging()) == NetworkLogging()


def test_network_logging_switches_each_verdict() -> None:
    found = decode_network_logging(logging(allow={"log": True, "delegate": True}, deny={"log": True}))
    assert found == NetworkLogging(LoggingSwitch(log=True, delegate=True), LoggingSwitch(log=True))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param(
            logging("mine"), "metadata.name 'mine': is not the name of the one NetworkLogging", id="another name"
        ),
        pytest.param(
            logging(allow={"log": False, "delegate": True}, deny={"log": True}),
            "spec.cluster.allow.delegate 'True': needs `log: true` beside it",
            id="allows are delegated and not logged",
        ),
        pytest.param(
            logging(deny={"delegate": True}),
            "spec.cluster.deny.delegate 'True': needs `log: true` beside it",
            id="denies are delegated and not logged",
        ),
    ],
)
def test_network_logging_that_is_not_valid_is_refused_as_a_whole(document: Document, message: str) -> None:
    with pytest.raises(ObjectError) as caught:
        decode_network_logging(document)
    assert message in str(caught.value)


DENY_LOGGING = "policy.network.gke.io/enable-deny-logging"


@pytest.mark.parametrize(
    ("annotations", "logs"),
    [
        pytest.param(None, False, id="no annotations"),
        pytest.param({DENY_LOGGING: "true"}, True, id="exactly true"),
        pytest.param({DENY_LOGGING: "True"}, False, id="another spelling"),
        pytest.param({DENY_LOGGING: " true"}, False, id="with a space"),
        pytest.param({DENY_LOGGING: ""}, False, id="empty"),
        pytest.param({"policy.network.gke.io/enable-logging": "true"}, False, id="another annotation"),
    ],
)
def test_a_namespace_logs_denies_only_by_its_annotation(annotations: Document | None, *, logs: bool) -> None:
    found = decode_namespace({"kind": "Namespace", "metadata": {"name": "shop", "annotations": annotations}})
    assert (found.logs_denies, found.problems) == (logs, ())


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        pytest.param({DENY_LOGGING: True}, f"metadata.annotations.{DENY_LOGGING} 'True': is not a string", id="value"),
        pytest.param(["a"], "metadata.annotations: is not a mapping", id="the annotations"),
    ],
)
def test_an_annotation_of_a_namespace_that_is_no_string_keeps_its_last_good_value(
    annotations: object, message: str
) -> None:
    found = decode_namespace({"kind": "Namespace", "metadata": {"name": "shop", "annotations": annotations}})
    assert message in str(found.problems[0])
    assert not found.logs_denies
    assert with_last_good(found, Namespace("shop", found.labels, logs_denies=True)).logs_denies
