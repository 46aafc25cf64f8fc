"""An invalid field doesn't affect other fields: its value instead, and its error message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from nfagent.decode.core import (
    decode_namespace,
    decode_network_logging,
    decode_node,
    decode_pod,
    decode_service_cidr,
)
from nfagent.decode.services import decode_service
from nfagent.desired.state import DesiredState
from nfagent.model.gvk import ClusterObject
from nfagent.model.netaddr import parse_cidr
from nfagent.model.objects import ContainerPort, LoggingSwitch, NetworkLogging
from nfagent.state.cluster import ClusterState

Document = dict[str, Any]


def node(*addresses: object, **spec: object) -> Document:
    return {
        "kind": "Node",
        "metadata": {"name": "a", "labels": {"role": "cp"}},
        "spec": {"podCIDRs": ["10.64.0.0/24"], **spec},
        "status": {"addresses": list(addresses)},
    }


def internal(address: object) -> Document:
    return {"type": "InternalIP", "address": address}


GOOD = internal("192.0.2.1")


class NodeCase(NamedTuple):
    """What stands in a Node, and what is read of it; field and reason of the problem, none for ''."""

    document: Document
    addresses: tuple[str, ...]
    problem: str = ""
    cidrs: tuple[str, ...] = ("10.64.0.0/24",)


NODES = {
    "an empty ExternalIP is left out": NodeCase(
        node(GOOD, {"type": "ExternalIP", "address": ""}), ("192.0.2.1",), "status.addresses[1].address"
    ),
    "a host name as InternalIP is left out": NodeCase(
        node(internal("a.example"), GOOD), ("192.0.2.1",), "status.addresses[0].address 'a.example'"
    ),
    "an address with a zone is left out": NodeCase(
        node(internal("fe80::1%eth0"), GOOD), ("192.0.2.1",), "status.addresses[0].address 'fe80::1%eth0'"
    ),
    "an address with a prefix length is left out": NodeCase(
        node(internal("192.0.2.1/24"), internal("192.0.2.2")), ("192.0.2.2",), "status.addresses[0].address"
    ),
    "leading zeros are decimal": NodeCase(node(internal("192.000.002.010")), ("192.0.2.10",)),
    "an IP address of type Hostname is the Node's": NodeCase(
        node({"type": "Hostname", "address": "192.0.2.9"}), ("192.0.2.9",)
    ),
    "an IP address of type InternalDNS is the Node's": NodeCase(
        node({"type": "InternalDNS", "address": "fd00::9"}), ("fd00::9",)
    ),
    "an IP address without a type is the Node's": NodeCase(node({"address": "192.0.2.9"}), ("192.0.2.9",)),
    "a name of type Hostname is left out without a word": NodeCase(
        node({"type": "Hostname", "address": "a.example"}, GOOD), ("192.0.2.1",)
    ),
    "an entry that is no mapping is left out": NodeCase(node("192.0.2.9", GOOD), ("192.0.2.1",), "status.addresses[0]"),
    "addresses that are no list leave the ranges": NodeCase(
        {**node(), "status": {"addresses": "192.0.2.1"}}, (), "status.addresses '192.0.2.1': is not a list"
    ),
    "a status that is no mapping leaves the ranges": NodeCase({**node(), "status": []}, (), "status: is not a mapping"),
    "an unreadable range leaves the others": NodeCase(
        node(GOOD, podCIDRs=["10.64.0.0", "2001:db8::/64"]),
        ("192.0.2.1",),
        "spec.podCIDRs[0] '10.64.0.0': is not a CIDR",
        ("2001:db8::/64",),
    ),
    "podCIDR stands in where no entry of podCIDRs can be read": NodeCase(
        node(GOOD, podCIDRs=["x"], podCIDR="10.64.9.0/24"), ("192.0.2.1",), "spec.podCIDRs[0] 'x'", ("10.64.9.0/24",)
    ),
    "leading zeros in a range are decimal": NodeCase(
        node(GOOD, podCIDRs=["010.064.000.000/24"]), ("192.0.2.1",), "", ("10.64.0.0/24",)
    ),
}


@pytest.mark.parametrize("case", NODES.values(), ids=NODES)
def test_a_node_keeps_its_valid_fields(case: NodeCase) -> None:
    found = decode_node(case.document)
    assert (found.addresses, found.labels) == (case.addresses, (("role", "cp"),))
    assert found.pod_cidrs == tuple(map(parse_cidr, case.cidrs))
    said = "; ".join(map(str, found.problems))
    assert said.startswith(f"Node a: {case.problem}") if case.problem else not said


def conditions(*entries: object) -> Document:
    return {**node(GOOD), "status": {"addresses": [GOOD], "conditions": list(entries)}}


def ready(status: object) -> Document:
    return {"type": "Ready", "status": status}


PRESSURE = {"type": "MemoryPressure", "status": "False"}


@pytest.mark.parametrize(
    ("document", "is_ready"),
    [
        pytest.param(conditions(PRESSURE, ready("True")), True, id="status True"),
        pytest.param(conditions(ready("False")), False, id="status False"),
        pytest.param(conditions(ready("Unknown"), PRESSURE), False, id="status Unknown: its kubelet is silent"),
        pytest.param(conditions(PRESSURE), False, id="conditions without Ready"),
        pytest.param(conditions(), True, id="an empty list"),
        pytest.param(node(GOOD), True, id="no conditions, as in a folder of manifests"),
        pytest.param({"kind": "Node", "metadata": {"name": "a"}}, True, id="no status"),
    ],
)
def test_a_node_is_ready_by_its_condition(document: Document, *, is_ready: bool) -> None:
    found = decode_node(document)
    assert (found.ready, found.problems) == (is_ready, ())


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        pytest.param(conditions(ready(status=True)), "[0].status 'True': is not a string", id="a boolean"),
        pytest.param(conditions(PRESSURE, ready("true")), "[1].status 'true': is not a status", id="in lower case"),
        pytest.param(conditions({"type": "Ready"}), "[0].status: is not a status", id="no status"),
        pytest.param(conditions(ready("True"), ready("True")), "[1].status 'True': is the second", id="twice Ready"),
        pytest.param(conditions("Ready", ready("True")), "[0] 'Ready': is not a mapping", id="an entry that is text"),
        pytest.param(
            {**node(GOOD), "status": {"addresses": [GOOD], "conditions": ready("True")}},
            ": is not a list",
            id="no list",
        ),
    ],
)
def test_a_node_whose_readiness_can_t_be_read_is_not_ready_and_keeps_the_rest(document: Document, problem: str) -> None:
    state = put(conditions(ready("True")), document)
    found = state.nodes["a"]
    assert (found.ready, found.addresses) == (False, ("192.0.2.1",)), "the last good value must not stay"
    (said,) = map(str, found.problems)
    assert said.startswith(f"Node a: status.conditions{problem}")


def pod(labels: object = None, status: object = None, owners: object = None, **spec: object) -> Document:
    return {
        "kind": "Pod",
        "metadata": {
            "namespace": "shop",
            "name": "web",
            "labels": {"app": "web"} if labels is None else labels,
            "ownerReferences": owners,
        },
        "spec": {"nodeName": "a", "containers": [{"ports": [{"name": "http", "containerPort": 80}]}], **spec},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]} if status is None else status,
    }


READ = {
    "labels": (("app", "web"),),
    "node": "a",
    "addresses": ("10.0.0.1",),
    "host_network": False,
    "phase": "Running",
    "ports": (ContainerPort("http", 80, "tcp"),),
    "workload_kind": "Pod",
}
HTTP = {"name": "http", "containerPort": 80}

PODS: dict[str, tuple[Document, dict[str, object], str]] = {
    "an unreadable address leaves the other": (
        pod(status={"phase": "Running", "podIPs": [{"ip": "fe80::1%eth0"}, {"ip": "10.0.0.1"}]}),
        {},
        "status.podIPs[0].ip 'fe80::1%eth0'",
    ),
    "an address that is no text leaves the other": (
        pod(status={"phase": "Running", "podIPs": [{"ip": 10}, {"ip": "10.0.0.1"}]}),
        {},
        "status.podIPs[0].ip '10'",
    ),
    "addresses that are no list leave podIP": (
        pod(status={"phase": "Running", "podIPs": "x", "podIP": "10.0.0.1"}),
        {},
        "status.podIPs 'x'",
    ),
    "a status that is no mapping leaves the identity": (
        pod(status=[]),
        {"addresses": (), "phase": "Pending"},
        "status: is not a mapping",
    ),
    "a phase that is no text holds its addresses": (
        pod(status={"phase": 1, "podIPs": [{"ip": "10.0.0.1"}]}),
        {"phase": "Pending"},
        "status.phase '1'",
    ),
    "a label's value that is no text is one that no selector can name": (
        pod(labels={"app": "web", "tier": 1}),
        {"labels": (("app", "web"), ("tier", "?"))},
        "metadata.labels.tier '1': is not a string",
    ),
    "a label's value that the API refuses is one that no selector can name": (
        pod(labels={"app": "web", "tier": "a b"}),
        {"labels": (("app", "web"), ("tier", "?"))},
        "metadata.labels.tier 'a b'",
    ),
    "a label's key that the API refuses is left out": (
        pod(labels={"app": "web", "a b": "x"}),
        {},
        "metadata.labels.a b 'a b': is not a label key",
    ),
    "labels that are not a mapping are unreadable": (
        pod(labels=["app=web"]),
        {"labels": (("?", "?"),)},
        "metadata.labels: is not a mapping",
    ),
    "an unreadable named port leaves the others": (
        pod(containers=[{"ports": [{"name": "dns", "containerPort": 0}, HTTP]}]),
        {},
        "spec.containers[0].ports[0].containerPort '0'",
    ),
    "an unreadable protocol leaves other containers' ports": (
        pod(containers=[{"ports": [{"name": "dns", "containerPort": 53, "protocol": "X"}]}, {"ports": [HTTP]}]),
        {},
        "spec.containers[0].ports[0].protocol 'X'",
    ),
    "a container that is no mapping leaves the others": (
        pod(containers=["x", {"ports": [HTTP]}]),
        {},
        "spec.containers[0] 'x'",
    ),
    "a restartPolicy that is no text leaves the containers' ports": (
        pod(initContainers=[{"restartPolicy": 1, "ports": [{"name": "dns", "containerPort": 53}]}]),
        {},
        "spec.initContainers[0].restartPolicy '1'",
    ),
    "hostNetwork in quotes is read as a Pod with addresses of its own, which policies isolate": (
        pod(hostNetwork="true"),
        {},
        "spec.hostNetwork 'true': is not a boolean",
    ),
    "a nodeName that is no text leaves the identity": (pod(nodeName=5), {"node": ""}, "spec.nodeName '5'"),
    "owners that are no list leave the Pod as its own workload": (pod(owners="x"), {}, "metadata.ownerReferences 'x'"),
    "a controller without a readable kind leaves the Pod as its own workload": (
        pod(owners=[{"controller": True, "kind": 1, "name": "x"}]),
        {},
        "metadata.ownerReferences[0].kind '1'",
    ),
}


@pytest.mark.parametrize(("document", "changed", "problem"), PODS.values(), ids=PODS)
def test_a_pod_keeps_its_valid_fields(document: Document, changed: dict[str, object], problem: str) -> None:
    found = decode_pod(document)
    assert {name: getattr(found, name) for name in READ} == {**READ, **changed}
    (said,) = map(str, found.problems)
    assert said.startswith(f"Pod shop/web: {problem}")


def test_a_spec_that_is_no_mapping_is_said_once_and_leaves_the_rest() -> None:
    found = decode_pod({**pod(), "spec": "x"})
    assert (found.labels, found.addresses) == (READ["labels"], READ["addresses"])
    assert [str(problem) for problem in found.problems] == [
        "Pod shop/web: spec 'x': is not a mapping; write `key: value` pairs"
    ]


def test_many_unreadable_fields_are_counted_after_the_first() -> None:
    found = decode_pod(pod(labels={f"k{number}": number for number in range(12)}))
    assert len(found.problems) == 9
    assert str(found.problems[-1]) == "Pod shop/web: 4 more fields can't be read; fix these first"


def test_an_unreadable_label_leaves_a_namespace_the_others() -> None:
    document = {"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "red", "tier": True}}}
    found = decode_namespace(document)
    assert found.labels == (("kubernetes.io/metadata.name", "shop"), ("team", "red"), ("tier", "?"))
    assert [problem.field for problem in found.problems] == ["metadata.labels.tier"]


def test_an_unreadable_range_leaves_a_service_cidr_the_other() -> None:
    found = decode_service_cidr(
        {"kind": "ServiceCIDR", "metadata": {"name": "x"}, "spec": {"cidrs": ["10.96.0.1", "2001:db8::/108"]}}
    )
    assert found.cidrs == (parse_cidr("2001:db8::/108"),)
    assert [problem.field for problem in found.problems] == ["spec.cidrs[0]"]


def logging(**cluster: object) -> Document:
    return {"kind": "NetworkLogging", "metadata": {"name": "default"}, "spec": {"cluster": cluster}}


@pytest.mark.parametrize(
    "allow",
    [
        pytest.param({"log": "yes"}, id="log in quotes"),
        pytest.param({"delegate": "yes"}, id="delegate in quotes"),
        pytest.param("x", id="no mapping"),
        pytest.param({"logs": True}, id="a misspelt field"),
    ],
)
def test_an_unreadable_switch_leaves_the_other(allow: object) -> None:
    found = decode_network_logging(logging(allow=allow, deny={"log": True}))
    assert (found.allow, found.deny) == (LoggingSwitch(), LoggingSwitch(log=True))
    (problem,) = found.problems
    assert problem.field.startswith("spec.cluster.allow")


@pytest.mark.parametrize(
    ("spec", "field", "kept"),
    [
        pytest.param({"clusters": {"deny": {"log": False}}}, "spec.clusters", ("allow", "deny"), id="of spec"),
        pytest.param(
            {"cluster": {"denies": {"log": False}}}, "spec.cluster.denies", ("allow", "deny"), id="of cluster"
        ),
        pytest.param(
            {"cluster": {"allow": {"log": True}, "denies": {"log": False}}},
            "spec.cluster.denies",
            ("deny",),
            id="of cluster, beside a switch that can be read",
        ),
    ],
)
def test_a_misspelt_field_keeps_the_switches_that_it_may_mean(spec: object, field: str, kept: tuple[str, ...]) -> None:
    found = decode_network_logging({**logging(), "spec": spec})
    assert ([problem.field for problem in found.problems], found.unread) == ([field], kept)


def service(**spec: object) -> Document:
    return {
        "kind": "Service",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}], "selector": {"app": "web"}, **spec},
    }


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param({"clusterIPs": ["x", "10.96.0.1"]}, "spec.clusterIPs[0]", id="one of two cluster addresses"),
        pytest.param({"externalIPs": ["x"]}, "spec.externalIPs[0]", id="an external address"),
        pytest.param({"ports": [{"port": 0}, {"port": 80}]}, "spec.ports[0].port", id="one of two ports"),
        pytest.param({"type": "X"}, "spec.type", id="the type"),
        pytest.param({"externalTrafficPolicy": "X"}, "spec.externalTrafficPolicy", id="a traffic policy"),
    ],
)
def test_an_unreadable_field_leaves_a_service_the_others(spec: Document, field: str) -> None:
    found = decode_service(service(**spec))
    assert (found.cluster_addresses, [str(port) for port in found.ports]) == (("10.96.0.1",), ["80/tcp"])
    assert found.selector == (("app", "web"),)
    assert [problem.field for problem in found.problems] == [field]


def test_a_selector_that_cannot_be_read_is_not_that_of_a_service_without_one() -> None:
    found = decode_service(service(selector={"app": 1}))
    assert found.selector == (("app", "?"),)


# What the last good version has


DECODERS: dict[str, Callable[[Document], ClusterObject]] = {
    "Pod": decode_pod,
    "Node": decode_node,
    "Namespace": decode_namespace,
    "ServiceCIDR": decode_service_cidr,
}


def put(*documents: Document) -> ClusterState:
    state = ClusterState("a")
    for document in documents:
        state.put(DECODERS[document["kind"]](document))
    return state


def test_a_label_that_can_t_be_read_any_more_stays_as_it_was_and_others_change() -> None:
    state = put(pod(labels={"app": "web", "tier": "db"}), pod(labels={"app": "new", "tier": 1}))
    found = state.pods["shop", "web"]
    assert found.labels == (("app", "new"), ("tier", "db"))
    assert found.problems
    assert state.members.keys() == state.rebuilt().members.keys()


def test_a_label_that_stays_for_want_of_a_readable_one_goes_with_its_key() -> None:
    state = put(pod(labels={"app": "web", "tier": "db"}), pod(labels={"app": "web", "tier": 1}), pod())
    assert state.pods["shop", "web"].labels == (("app", "web"),)


def test_labels_that_are_no_mapping_any_more_stay_as_a_whole() -> None:
    state = put(pod(labels={"app": "web", "tier": "db"}), pod(labels=[]), pod(labels=["x"]))
    assert state.pods["shop", "web"].labels == (("app", "web"), ("tier", "db"))


def test_node_and_host_network_and_a_named_port_stay_as_they_were() -> None:
    broken = {"name": "http", "containerPort": "80"}
    state = put(
        pod(hostNetwork=True),
        pod(nodeName=5, hostNetwork="true", containers=[{"ports": [broken, {**HTTP, "name": "x"}]}]),
    )
    found = state.pods["shop", "web"]
    assert (found.node, found.host_network) == ("a", True)
    assert found.ports == (ContainerPort("x", 80, "tcp"), ContainerPort("http", 80, "tcp"))


def podips(*addresses: str) -> Document:
    return pod(status={"phase": "Running", "podIPs": [{"ip": address} for address in addresses]})


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        pytest.param(["10.0.0.1"], ["x"], ["10.0.0.1"], id="the only address stays: the Pod stays isolated"),
        pytest.param(
            ["10.0.0.1", "fd00::1"], ["10.0.0.2", "x"], ["10.0.0.2", "fd00::1"], id="the other family's stays"
        ),
        pytest.param(["10.0.0.1"], ["10.0.0.2", "x"], ["10.0.0.2"], id="one that was replaced goes"),
        pytest.param(["10.0.0.1"], [], [], id="one that is gone goes"),
    ],
)
def test_a_pod_s_address_that_can_t_be_read_any_more(before: list[str], after: list[str], kept: list[str]) -> None:
    state = put(podips(*before), podips(*after))
    assert list(state.pods["shop", "web"].addresses) == kept
    assert list(state.by_address) == kept
    assert state.rebuilt().by_address == state.by_address


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        pytest.param([internal("x"), GOOD], ("192.0.2.1", "fd00::1"), id="the other family's stays"),
        pytest.param(["fd00::1", GOOD], ("192.0.2.1", "fd00::1"), id="an entry that is no mapping says nothing"),
        pytest.param([GOOD, internal("")], ("192.0.2.1",), id="an empty one says that there is none"),
        pytest.param([GOOD], ("192.0.2.1",), id="one that is gone goes"),
    ],
)
def test_a_node_s_address_that_can_t_be_read_any_more(after: list[object], kept: tuple[str, ...]) -> None:
    assert put(node(GOOD, internal("fd00::1")), node(*after)).nodes["a"].addresses == kept


def test_ranges_that_can_t_be_read_any_more_stay_by_family() -> None:
    def service_range(*cidrs: str) -> Document:
        return {"kind": "ServiceCIDR", "metadata": {"name": "x"}, "spec": {"cidrs": list(cidrs)}}

    both, broken = ["10.64.0.0/24", "fd00::/64"], ["10.65.0.0/24", "x"]
    state = put(node(podCIDRs=both), node(podCIDRs=broken), service_range(*both), service_range(*broken))
    expected = (parse_cidr("10.65.0.0/24"), parse_cidr("fd00::/64"))
    assert (state.nodes["a"].pod_cidrs, state.service_ranges["x"].cidrs) == (expected, expected)


def test_a_node_s_and_a_namespace_s_labels_stay_by_key() -> None:
    namespace = {"kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "red"}}}
    broken_node = {**node(GOOD), "metadata": {"name": "a", "labels": {"role": 1}}}
    broken_namespace = {**namespace, "metadata": {"name": "shop", "labels": {"team": 1, "new": "x"}}}
    state = put(node(GOOD), namespace, broken_node, broken_namespace)
    assert state.nodes["a"].labels == (("role", "cp"),)
    assert dict(state.namespace_labels("shop")) == {
        "team": "red",
        "new": "x",
        "kubernetes.io/metadata.name": "shop",
    }


def test_a_switch_of_logging_that_can_t_be_read_stays_as_it_was() -> None:
    desired = DesiredState("a")
    desired.put(decode_network_logging(logging(allow={"log": True}, deny={"log": False})))
    desired.put(decode_network_logging(logging(allow={"log": "no"}, deny={"log": True})))
    assert (desired.logging.allow.log, desired.logging.deny.log) == (True, True)
    assert desired.find(NetworkLogging().ref) == desired.logging
