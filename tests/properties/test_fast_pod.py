"""The fast Pod decoder compared with the full one: it returns the same Pod, or none, and raises no error."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.decode.core import decode_pod, decode_pod_by_field
from nfagent.decode.fast_pod import decode_pod_event, decode_pod_fast, decode_pod_json
from nfagent.errors import ObjectError
from nfagent.model.objects import Pod
from tests.properties.objects import LABEL_SETS

Document = dict[str, Any]


def careful(document: Document) -> Pod | None:
    """Read field by field; None where that refuses."""
    try:
        return decode_pod_by_field(document)
    except ObjectError:
        return None


def agree(document: Document) -> Pod | None:
    """Ask both ways, and what the agent uses; give the quick one's answer."""
    before = copy.deepcopy(document)
    quick, slow = decode_pod_fast(document), careful(document)
    assert quick is None or quick == slow
    assert document == before, "a document is not changed by reading it"
    if slow is None:
        with pytest.raises(ObjectError):
            decode_pod(document)
    else:
        assert decode_pod(document) == slow
    written_the_same(document)
    return quick


def written_the_same(document: Document) -> None:
    """Ask the way that reads JSON, alone and in a watch event: the same Pod as by the careful way, or none."""
    try:
        written = msgspec.json.encode(document)
    except (TypeError, ValueError, UnicodeEncodeError):
        return
    slow = careful(msgspec.json.decode(written))
    alone = decode_pod_json(written)
    assert alone is None or alone[0] == slow
    event = decode_pod_event(b'{"type":"ADDED","object":%b}' % written)
    assert event == (None if alone is None else ("ADDED", *alone))


ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded.upper()),
    st.ip_addresses(v=4).map(lambda address: f"::ffff:{address}"),
)
NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,9}[a-z0-9])?", fullmatch=True)
PORTS = st.fixed_dictionaries(
    {"containerPort": st.integers(1, 65535)},
    optional={
        "name": st.sampled_from(["http", "dns", ""]) | NAMES,
        "protocol": st.sampled_from(["TCP", "UDP", "SCTP"]),
        "hostPort": st.integers(0, 65535),
    },
)
CONTAINERS = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "ports": st.lists(PORTS, max_size=3),
        "restartPolicy": st.sampled_from(["Always", "OnFailure", "Never"]),
        "image": st.text(max_size=5),
    },
)
OWNERS = st.fixed_dictionaries(
    {"kind": st.sampled_from(["ReplicaSet", "Job", "Node"]), "name": NAMES}, optional={"controller": st.booleans()}
)
PODS: st.SearchStrategy[Document] = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"name": NAMES | st.just("web.1"), "namespace": NAMES},
            optional={
                "labels": LABEL_SETS,
                "ownerReferences": st.lists(OWNERS, max_size=3),
                "deletionTimestamp": st.sampled_from(["2026-01-01T00:00:00Z", "", None]),
            },
        ),
        "spec": st.fixed_dictionaries(
            {"containers": st.lists(CONTAINERS, min_size=1, max_size=2)},
            optional={
                "nodeName": NAMES,
                "hostNetwork": st.booleans(),
                "initContainers": st.lists(CONTAINERS, max_size=2),
            },
        ),
        "status": st.fixed_dictionaries(
            {},
            optional={
                "phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
                "podIP": ADDRESSES | st.just(""),
                "podIPs": st.lists(st.fixed_dictionaries({"ip": ADDRESSES}), max_size=3),
            },
        ),
    },
    optional={"kind": st.just("Pod"), "apiVersion": st.just("v1")},
)


@settings(max_examples=4 * settings().max_examples)
@given(PODS)
def test_what_the_api_server_serves_is_read_by_the_fast_decoder(document: Document) -> None:
    assert agree(document) is not None
    assert agree(json.loads(json.dumps(document))) is not None


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 65535, 65536, 1 << 63, 1 << 64, 1 << 5000]),
    st.floats(),
    st.sampled_from([80.0, 0.0, 65535.0]),
    st.text(max_size=5),
    st.sampled_from(
        [
            *("TCP", "tcp", "http", "Always", "Pod", "Pending", "app", "a/b", "-app", "app ", "App", "web\n", "10"),
            *(
                "10.0.0.1",
                "010.0.0.1",
                "10.0.0",
                "10.0.0.1\n",
                "10.0.0.256",
                "1.2.3.4.5",
                "\uff11.2.3.4",
                "10.0.0.1/32",
            ),
            *("::ffff:10.0.0.1", "fe80::1%eth0", "::1", "FD00::1", "true", "80", "a" * 64, "a." * 127 + "a"),
        ]
    ),
    ADDRESSES,
    st.binary(max_size=3),
)
KEYS = st.sampled_from(
    [
        *("metadata", "spec", "status", "name", "namespace", "labels", "ownerReferences", "kind", "controller"),
        *("nodeName", "hostNetwork", "containers", "initContainers", "restartPolicy", "ports", "containerPort"),
        *("protocol", "phase", "podIP", "podIPs", "ip", "app", "example.com/tier"),
    ]
)
JUNK: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3) | SCALARS, inner, max_size=3)
    ),
    max_leaves=8,
)


def places(value: object) -> Iterator[tuple[Any, Any]]:
    """Return every place in a document: the mapping or list, and the key or index."""
    found = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in found:
        yield value, key
        yield from places(inner)


@settings(max_examples=15 * settings().max_examples)
@given(PODS, st.data())
def test_for_any_change_the_fast_decoder_reads_the_same_or_declines(document: Document, data: st.DataObject) -> None:
    altered = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        holders = list(places(altered))
        if not holders:
            break
        holder, key = data.draw(st.sampled_from(holders))
        if data.draw(st.booleans()):
            holder[key] = data.draw(SCALARS | JUNK)
        elif isinstance(holder, dict) and data.draw(st.booleans()):
            holder[data.draw(KEYS | SCALARS)] = holder.pop(key)
        else:
            del holder[key]
    agree(altered)


@settings(max_examples=4 * settings().max_examples)
@given(st.dictionaries(KEYS | st.text(max_size=3), JUNK, max_size=4))
def test_junk_is_refused_by_both_or_read_the_same_by_both(document: Document) -> None:
    agree(document)


def pod(**parts: Document) -> Document:
    """Describe a Pod with something else in its metadata, spec or status."""
    return {
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "web", **parts.get("metadata", {})},
        "spec": {"nodeName": "a", **parts.get("spec", {})},
        "status": {"phase": "Running", **parts.get("status", {})},
    }


def ports(*items: Document) -> Document:
    return pod(spec={"containers": [{"ports": list(items)}]})


def sidecar(**fields: object) -> Document:
    return pod(spec={"initContainers": [{"ports": [{"name": "dns", "containerPort": 53}], **fields}]})


def owned(*owners: Document) -> Document:
    return pod(metadata={"ownerReferences": list(owners)})


QUICK, SLOW, REFUSED = "read the quick way", "left to the careful way", "refused"

TRICKY: dict[str, tuple[Document, str, dict[str, object]]] = {
    "every optional field null": (
        pod(
            metadata={"labels": None, "ownerReferences": None},
            spec={"nodeName": None, "hostNetwork": None, "containers": None, "initContainers": None},
            status={"phase": None, "podIP": None, "podIPs": None},
        ),
        QUICK,
        {"labels": (), "node": "", "host_network": False, "addresses": (), "phase": "Pending"},
    ),
    "hostNetwork null": (pod(spec={"hostNetwork": None}), QUICK, {"host_network": False}),
    "hostNetwork a word": (pod(spec={"hostNetwork": "true"}), SLOW, {"host_network": False, "node": "a"}),
    "hostNetwork a number": (pod(spec={"hostNetwork": 1}), SLOW, {"host_network": False, "node": "a"}),
    "podIP only": (pod(status={"podIP": "10.0.0.1"}), QUICK, {"addresses": ("10.0.0.1",)}),
    "podIP beside an empty podIPs": (
        pod(status={"podIP": "fd00::1", "podIPs": []}),
        QUICK,
        {"addresses": ("fd00::1",)},
    ),
    "podIPs win over podIP": (
        pod(status={"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.1"}]}),
        QUICK,
        {"addresses": ("10.0.0.1",)},
    ),
    "an unreadable entry of podIPs beside another": (
        pod(status={"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.1/32"}, {"ip": "fd00::1"}]}),
        SLOW,
        {"addresses": ("fd00::1",)},
    ),
    "podIP where no entry of podIPs can be read": (
        pod(status={"podIP": "10.0.0.9", "podIPs": [{"ip": "x"}]}),
        SLOW,
        {"addresses": ("10.0.0.9",)},
    ),
    "podIP that is not read is no address": (
        pod(status={"podIP": "x", "podIPs": [{"ip": "10.0.0.1"}]}),
        QUICK,
        {"addresses": ("10.0.0.1",)},
    ),
    "podIP that is not read is no string": (
        pod(status={"podIP": 5, "podIPs": [{"ip": "10.0.0.1"}]}),
        SLOW,
        {"addresses": ("10.0.0.1",)},
    ),
    "podIP empty": (pod(status={"podIP": ""}), QUICK, {"addresses": ()}),
    "an IPv4-mapped address": (pod(status={"podIP": "::ffff:10.0.0.1"}), QUICK, {"addresses": ("10.0.0.1",)}),
    "an address and the same one mapped": (
        pod(status={"podIPs": [{"ip": "10.0.0.1"}, {"ip": "::FFFF:0a00:0001"}]}),
        QUICK,
        {"addresses": ("10.0.0.1",)},
    ),
    "leading zeros in IPv4": (pod(status={"podIP": "010.0.0.01"}), QUICK, {"addresses": ("10.0.0.1",)}),
    "zeros that lead nothing": (pod(status={"podIP": "0.0.0.0"}), QUICK, {"addresses": ("0.0.0.0",)}),  # noqa: S104
    "a line break behind an address": (pod(status={"podIP": "10.0.0.1\n"}), SLOW, {"addresses": ()}),
    "a dot behind an address": (pod(status={"podIP": "10.0.0.1."}), SLOW, {"addresses": ()}),
    "digits of another script": (pod(status={"podIP": "\uff110.0.0.1"}), SLOW, {"addresses": ()}),
    "an address with a zone": (pod(status={"podIP": "fe80::1%eth0"}), SLOW, {"addresses": ()}),
    "an IPv6 address written long": (
        pod(status={"podIP": "2001:0DB8:0:0:0:0:0:1"}),
        QUICK,
        {"addresses": ("2001:db8::1",)},
    ),
    "an entry of podIPs without an address": (pod(status={"podIPs": [{}]}), SLOW, {"addresses": ()}),
    "an entry of podIPs that is null": (pod(status={"podIPs": [None]}), SLOW, {"addresses": ()}),
    "protocol missing": (ports({"name": "http", "containerPort": 80}), QUICK, {}),
    "protocol null": (ports({"name": "http", "containerPort": 80, "protocol": None}), QUICK, {}),
    "protocol lower case": (ports({"name": "http", "containerPort": 80, "protocol": "tcp"}), SLOW, {"ports": ()}),
    "protocol empty": (ports({"name": "http", "containerPort": 80, "protocol": ""}), SLOW, {"ports": ()}),
    "port 0": (ports({"name": "http", "containerPort": 0}), SLOW, {"ports": ()}),
    "port 65536": (ports({"name": "http", "containerPort": 65536}), SLOW, {"ports": ()}),
    "a port that is a word": (ports({"name": "http", "containerPort": "80"}), SLOW, {"ports": ()}),
    "a port that is a boolean": (ports({"name": "http", "containerPort": True}), SLOW, {"ports": ()}),
    "a port that is a fraction": (ports({"name": "http", "containerPort": 80.0}), SLOW, {"ports": ()}),
    "a port without a name is not looked at": (ports({"containerPort": 0, "protocol": "x"}), QUICK, {"ports": ()}),
    "a port without a name or number": (ports({}), SLOW, {"ports": ()}),
    "one port twice": (ports(*[{"name": "http", "containerPort": 80}] * 2), QUICK, {}),
    "a label's key that is none": (pod(metadata={"labels": {"-app": "web"}}), SLOW, {"labels": ()}),
    "a label's key that is empty": (pod(metadata={"labels": {"": "web"}}), SLOW, {"labels": ()}),
    "a label's key with an upper case prefix": (
        pod(metadata={"labels": {"Example.com/app": "web"}}),
        SLOW,
        {"labels": ()},
    ),
    "a label's key that is a number": (pod(metadata={"labels": {5: "web"}}), SLOW, {"labels": ()}),
    "a label's value with a line break": (
        pod(metadata={"labels": {"app": "web\n"}}),
        SLOW,
        {"labels": (("app", "?"),)},
    ),
    "a label's value that is a number": (pod(metadata={"labels": {"app": 5}}), SLOW, {"labels": (("app", "?"),)}),
    "a label's value null": (pod(metadata={"labels": {"app": None}}), SLOW, {"labels": (("app", ""),)}),
    "labels out of order": (
        pod(metadata={"labels": {"b": "1", "a": "2"}}),
        QUICK,
        {"labels": (("a", "2"), ("b", "1"))},
    ),
    "ownerReferences without controller": (
        owned({"kind": "ReplicaSet", "name": "rs"}),
        QUICK,
        {"workload_kind": "Pod", "workload_name": "web"},
    ),
    "ownerReferences with controller null": (
        owned({"kind": "ReplicaSet", "name": "rs", "controller": None}),
        QUICK,
        {"workload_kind": "Pod", "workload_name": "web"},
    ),
    "two controllers": (
        owned({"kind": "Job", "name": "j", "controller": True}, {"kind": "X", "name": "y", "controller": True}),
        QUICK,
        {"workload_kind": "Job", "workload_name": "j"},
    ),
    "a controller without a name": (
        owned({"kind": "Job", "controller": True}),
        QUICK,
        {"workload_kind": "Job", "workload_name": "web"},
    ),
    "an owner that is null": (owned(None), SLOW, {"workload_kind": "Pod"}),  # type: ignore[arg-type]
    "an init container with restartPolicy Always": (sidecar(restartPolicy="Always"), QUICK, {}),
    "an init container that ends": (sidecar(), QUICK, {"ports": ()}),
    "an init container with restartPolicy null": (sidecar(restartPolicy=None), QUICK, {"ports": ()}),
    "a container that is null": (pod(spec={"containers": [None]}), SLOW, {"ports": ()}),
    "containers that are a mapping": (pod(spec={"containers": {}}), SLOW, {"ports": ()}),
    "no namespace": ({"metadata": {"name": "web"}, "spec": {}, "status": {}}, SLOW, {"namespace": "default"}),
    "an empty namespace": (pod(metadata={"namespace": ""}), REFUSED, {}),
    "a name with a line break": (pod(metadata={"name": "web\n"}), REFUSED, {}),
    "a name too long": (pod(metadata={"name": "a" * 254}), REFUSED, {}),
    "a name that is a number": (pod(metadata={"name": 5}), REFUSED, {}),
    "no status": ({"metadata": {"name": "web", "namespace": "shop"}, "spec": {}}, SLOW, {"phase": "Pending"}),
    "status null": (
        {"metadata": {"name": "web", "namespace": "shop"}, "spec": {}, "status": None},
        SLOW,
        {"phase": "Pending"},
    ),
    "an empty phase": (pod(status={"phase": ""}), QUICK, {"phase": ""}),
    "nothing at all": ({}, REFUSED, {}),
}


@pytest.mark.parametrize(("document", "how", "fields"), TRICKY.values(), ids=TRICKY)
def test_a_tricky_document(document: Document, how: str, fields: dict[str, object]) -> None:
    quick, slow = agree(document), careful(document)
    assert how == (QUICK if quick is not None else SLOW if slow is not None else REFUSED)
    read = decode_pod(document) if how != REFUSED else None
    assert {name: getattr(read, name) for name in fields} == fields


def test_ports_are_those_of_containers_and_then_of_sidecars() -> None:
    spec = {
        "initContainers": [{"restartPolicy": "Always", "ports": [{"name": "dns", "containerPort": 53}]}],
        "containers": [{"ports": [{"name": name, "containerPort": 80}]} for name in ("b", "a")],
    }
    read = agree(pod(spec=spec))
    assert read is not None
    assert [port.name for port in read.ports] == ["b", "a", "dns"]


def test_pods_with_the_same_labels_share_them_in_memory() -> None:
    first, second = (decode_pod_fast(pod(metadata={"name": name, "labels": {"app": "web"}})) for name in ("one", "two"))
    assert first is not None
    assert second is not None
    assert first.labels is second.labels
