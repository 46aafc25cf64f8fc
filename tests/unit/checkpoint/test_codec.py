"""The checkpoint format, also as another version of nfagent may have written it."""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec
import pytest

from nfagent.checkpoint.codec import (
    CheckpointedObject,
    CheckpointHeader,
    decode_header,
    decode_record,
    encode_header,
    encode_record,
    is_kept,
)
from nfagent.decode.networkpolicy import decode_network_policy
from nfagent.errors import DecodeError
from nfagent.model.admin_policy import TierPolicy
from nfagent.model.egress_nat import NetworkGatewayGroup
from nfagent.model.gvk import Item
from nfagent.model.objects import Namespace, Node, ObjectRef, Pod
from nfagent.model.selectors import Requirement, Selector
from nfagent.model.services import Service

POLICY = decode_network_policy(
    {
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "db"}},
            "ingress": [
                {"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "2001:db8::/32"}}], "ports": [{"port": 80}]}
            ],
        },
    }
)
EDGES = NetworkGatewayGroup(
    "kube-system", "gw", ("192.0.2.10",), Selector((Requirement("egress", "In", ("gateway",)),))
)
LINE = encode_record(POLICY.ref, CheckpointedObject(POLICY, "f.yaml"))


def line(payload: dict[str, Any]) -> bytes:
    text = json.dumps(payload).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def record(**changed: object) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(LINE[9:])
    return written | changed


def item(**changed: object) -> dict[str, Any]:
    return record(item=record()["item"] | changed)


AUDITED = [
    msgspec.structs.replace(POLICY, audit=True),
    TierPolicy(kind="AdminNetworkPolicy", name="guard", tier="admin", audit=True),
    Namespace("shop", (), audits_policies=True),
]


@pytest.mark.parametrize("audited", AUDITED, ids=["NetworkPolicy", "policy of a tier", "Namespace"])
def test_audit_mode_is_kept_and_an_object_of_an_earlier_version_is_enforced(audited: Item) -> None:
    written = encode_record(audited.ref, CheckpointedObject(audited))
    assert decode_record(written) == (audited.ref, CheckpointedObject(audited))
    field = "audits_policies" if audited.ref.kind == "Namespace" else "audit"
    without = json.loads(written[9:])
    del without["item"][field]
    enforced: Any = msgspec.structs.replace(audited, **{field: False})
    assert decode_record(line(without)) == (audited.ref, CheckpointedObject(enforced))


@pytest.mark.parametrize(
    ("item", "kept"),
    [
        pytest.param(POLICY, True, id="a policy"),
        pytest.param(Namespace("shop", ()), True, id="a Namespace"),
        pytest.param(Node("b"), True, id="any Node"),
        pytest.param(Pod("shop", "db", node="a"), True, id="a Pod of this node"),
        pytest.param(Pod("shop", "db", node="b"), False, id="a Pod of another node"),
        pytest.param(Service(namespace="shop", name="db"), False, id="a Service"),
    ],
)
def test_every_object_is_kept_that_can_be_the_cause_of_a_rule(item: Item, *, kept: bool) -> None:
    assert is_kept(item, "a") is kept


def test_a_field_that_an_older_version_did_not_write_has_its_default() -> None:
    written = item()
    del written["item"]["egress"], written["item"]["problem"]
    assert decode_record(line(written)) == (POLICY.ref, CheckpointedObject(POLICY, "f.yaml"))


@pytest.mark.parametrize(
    ("item", "field", "older"),
    [
        pytest.param(Node("b", ready=False), "ready", Node("b"), id="a Node is Ready"),
        pytest.param(EDGES, "nodes", msgspec.structs.replace(EDGES, nodes=Selector()), id="a group selects every Node"),
    ],
)
def test_who_holds_floating_addresses_is_kept_and_has_a_default(
    item: Node | NetworkGatewayGroup, field: str, older: Item
) -> None:
    kept = encode_record(item.ref, CheckpointedObject(item))
    assert decode_record(kept) == (item.ref, CheckpointedObject(item))
    written: dict[str, Any] = json.loads(kept[9:])
    del written["item"][field]
    assert decode_record(line(written)) == (item.ref, CheckpointedObject(older))


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(item(sources=["10.0.0.0/8"]), id="an unknown field"),
        pytest.param(item(isolates=["ingress", "sideways"]), id="an unknown value"),
        pytest.param(item(pods=5), id="another type"),
        pytest.param(item(ingress=[{"peers": [{"fqdn": "example.com"}], "ports": []}]), id="an unknown type of peer"),
        pytest.param(item(ingress=[{"peers": [{}], "ports": []}]), id="a peer without a type"),
        pytest.param(item(ingress=[{"peers": {}, "ports": []}]), id="no list of peers"),
        pytest.param(item(name="other"), id="an object with another name"),
        pytest.param(record(kind="Quux"), id="another kind"),
        pytest.param(record(item=[]), id="no object"),
        pytest.param({"kind": "NetworkPolicy"}, id="no name"),
    ],
)
def test_an_object_with_an_unknown_field_is_an_error(written: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        decode_record(line(written))


def test_a_removed_object_is_a_line() -> None:
    assert decode_record(encode_record(POLICY.ref, None)) == (ObjectRef("NetworkPolicy", "shop", "db"), None)


def test_another_format_is_an_error_that_names_both() -> None:
    header = CheckpointHeader("a", "manifests /m")
    assert decode_header(encode_header(header)) == header
    with pytest.raises(DecodeError, match="it has format 9, and this version of nfagent reads format 1"):
        decode_header(encode_header(CheckpointHeader("a", "manifests /m", 9)))
    with pytest.raises(DecodeError, match="damaged"):
        decode_header(encode_header(header)[:-5])


LOGGING = [
    msgspec.structs.replace(POLICY, logs_allows=True),
    Namespace("shop", (("kubernetes.io/metadata.name", "shop"),), logs_denies=True),
]


@pytest.mark.parametrize("annotated", LOGGING, ids=["policy", "Namespace"])
def test_what_annotations_say_about_logging_is_kept(annotated: Item) -> None:
    kept = CheckpointedObject(annotated)
    assert decode_record(encode_record(annotated.ref, kept)) == (annotated.ref, kept)


@pytest.mark.parametrize("annotated", LOGGING, ids=["policy", "Namespace"])
def test_an_object_of_a_version_without_these_fields_is_not_annotated(annotated: Item) -> None:
    written = json.loads(encode_record(annotated.ref, CheckpointedObject(annotated))[9:])
    del written["item"]["logs_allows" if annotated.ref.kind == "NetworkPolicy" else "logs_denies"]
    _, kept = decode_record(line(written))
    assert kept is not None
    assert not getattr(kept.item, "logs_allows", False)
    assert not getattr(kept.item, "logs_denies", False)
