"""Decoding of fields; each error names object, field and value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nfagent.decode.fields import DocumentField
from nfagent.errors import ObjectError


def field(value: object) -> DocumentField:
    return DocumentField("Pod shop/web", "spec.thing", value)


READ: list[tuple[Callable[[DocumentField], Any], object, object, str]] = [
    (DocumentField.string, None, "", "a missing string is empty"),
    (DocumentField.boolean, None, False, "a missing boolean is false"),
    (DocumentField.mapping, None, {}, "a missing mapping is empty"),
    (DocumentField.protocol, None, "tcp", "[10] a missing protocol is TCP"),
    (DocumentField.protocol, "SCTP", "sctp", "a protocol in nft's spelling"),
    (DocumentField.port_number, 65535, 65535, "the last port"),
    (DocumentField.port_name, "a-1", "a-1", "a port's name with a hyphen"),
    (DocumentField.dns_label, "a" * 63, "a" * 63, "the longest label"),
    (DocumentField.dns_subdomain, "a.b-c", "a.b-c", "a subdomain"),
    (DocumentField.label_key, "example.com/Tier_1", "example.com/Tier_1", "a label key with a prefix"),
    (DocumentField.label_value, "", "", "an empty label value"),
    (DocumentField.label_value, None, "", "a null label value is empty"),
    (DocumentField.labels, {"b": "2", "a": "1"}, (("a", "1"), ("b", "2")), "labels are sorted"),
    (DocumentField.address, "2001:DB8::1", "2001:db8::1", "an address in canonical form"),
]


@pytest.mark.parametrize(("read", "value", "expected"), [case[:3] for case in READ], ids=[case[3] for case in READ])
def test_reads(read: Callable[[DocumentField], Any], value: object, expected: object) -> None:
    assert read(field(value)) == expected


REFUSED: list[tuple[Callable[[DocumentField], Any], object, str]] = [
    (DocumentField.string, 5, "is not a string"),
    (DocumentField.boolean, "true", "is not a boolean"),
    (DocumentField.boolean, 1, "is not a boolean"),
    (DocumentField.integer, True, "is not a whole number"),
    (DocumentField.integer, None, "is not a whole number"),
    (DocumentField.integer, "80", "is not a whole number"),
    (DocumentField.integer, 80.0, "is not a whole number"),
    (DocumentField.mapping, "x", "is not a mapping"),
    (lambda at: list(at.items()), "x", "is not a list"),
    (DocumentField.port_number, 0, "is not a port number"),
    (DocumentField.port_number, 65536, "is not a port number"),
    (DocumentField.port_name, "a" * 16, "is not a port name"),
    (DocumentField.port_name, "80", "is not a port name"),
    (DocumentField.port_name, "a--b", "is not a port name"),
    (DocumentField.protocol, "tcp", "is not a protocol"),
    (DocumentField.protocol, "ICMP", "is not a protocol"),
    (DocumentField.cidr, "10.0.0.0/40", "is not a CIDR"),
    (DocumentField.address, "10.0.0", "is not an IP address"),
    (DocumentField.dns_label, "a.b", "is not a valid name"),
    (DocumentField.dns_label, "a" * 64, "is not a valid name"),
    (DocumentField.dns_label, "", "is not a valid name"),
    (DocumentField.dns_label, "a\n", "is not a valid name"),
    (DocumentField.dns_subdomain, "Web", "is not a valid name"),
    (DocumentField.dns_subdomain, "a..b", "is not a valid name"),
    (DocumentField.dns_subdomain, "a" * 254, "is not a valid name"),
    (DocumentField.label_key, "/x", "is not a label key"),
    (DocumentField.label_key, "a/", "is not a label key"),
    (DocumentField.label_key, "a" * 64, "is not a label key"),
    (DocumentField.label_value, "-x", "is not a label value"),
    (DocumentField.label_value, "a" * 64, "is not a label value"),
    (DocumentField.labels, {"app": 1}, "is not a string"),
    (DocumentField.labels, {1: "app"}, "is not a string"),
]


@pytest.mark.parametrize(("read", "value", "reason"), REFUSED, ids=[f"{v!r:.20} {reason}" for _, v, reason in REFUSED])
def test_refuses_with_object_field_and_value(read: Callable[[DocumentField], Any], value: object, reason: str) -> None:
    with pytest.raises(ObjectError) as caught:
        read(field(value))
    problem = caught.value.problem
    assert problem.object == "Pod shop/web"
    assert problem.field.startswith("spec.thing")
    assert problem.reason.startswith(reason)
    assert "; " in problem.reason, "what to write instead"
    if isinstance(value, str | int) and not isinstance(value, bool):
        assert problem.value == str(value)


def test_a_number_too_long_to_be_written_is_refused_all_the_same() -> None:
    with pytest.raises(ObjectError):
        field(1 << 20000).port_number()


def test_a_path_grows_by_key_and_place() -> None:
    top = DocumentField("Pod shop/web", "", {"spec": {"containers": [{}, {"ports": 5}]}})
    second = list((top / "spec" / "containers").items())[1]
    with pytest.raises(ObjectError, match=r"Pod shop/web: spec\.containers\[1\]\.ports '5': is not a list"):
        list((second / "ports").items())
