"""Decoding of self-reviews and of the server's version."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.errors import DecodeError
from nfagent.kube.rbac import Permission
from nfagent.kube.self_review import User, access_review, decode_access_review, decode_user, decode_version


@pytest.mark.parametrize(
    ("username", "words", "account", "node"),
    [
        pytest.param("jane", "User jane", None, "", id="a user"),
        pytest.param("system:anonymous", "User system:anonymous", None, "", id="an anonymous user"),
        pytest.param("system:serviceaccount:a:b", "ServiceAccount a/b", ("a", "b"), "", id="a service account"),
        pytest.param("system:node:n1", "Node n1", None, "n1", id="a kubelet"),
    ],
)
def test_a_user_is(username: str, words: str, account: tuple[str, str] | None, node: str) -> None:
    user = User(username)
    assert (str(user), user.service_account, user.node) == (words, account, node)


@pytest.mark.parametrize(
    ("permission", "attributes"),
    [
        pytest.param(
            Permission("", "pods", "list"), {"resource": "pods", "verb": "list"}, id="a core resource in all namespaces"
        ),
        pytest.param(
            Permission("g.io", "things/status", "patch"),
            {"group": "g.io", "resource": "things", "subresource": "status", "verb": "patch"},
            id="a subresource",
        ),
        pytest.param(
            Permission("", "configmaps", "get", "kube-system", "x"),
            {"resource": "configmaps", "verb": "get", "namespace": "kube-system", "name": "x"},
            id="one object",
        ),
    ],
)
def test_a_permission_is_reviewed_by_its_resource_attributes(
    permission: Permission, attributes: dict[str, str]
) -> None:
    assert access_review(permission)["spec"] == {"resourceAttributes": attributes}


@pytest.mark.parametrize(
    ("major", "minor", "git", "found"),
    [
        ("1", "34", "v1.34.2", (34, "v1.34.2")),
        ("1", "27+", "v1.27.3-gke.100", (27, "v1.27.3-gke.100")),
        ("1", "9", "", (9, "v1.9")),
    ],
    ids=["plain", "a vendor's", "without a name"],
)
def test_a_version_is_read(major: str, minor: str, git: str, found: tuple[int, str]) -> None:
    version = decode_version(json.dumps({"major": major, "minor": minor, "gitVersion": git}).encode())
    assert (version.minor, version.name) == found


@pytest.mark.parametrize(("major", "minor"), [("2", "0"), ("1", ""), ("1", "x"), ("1", "9" * 5000)])
def test_a_version_that_is_not_kubernetes_1_is_an_error(major: str, minor: str) -> None:
    with pytest.raises(DecodeError, match="not a version of Kubernetes"):
        decode_version(json.dumps({"major": major, "minor": minor}).encode())


@pytest.mark.parametrize("decode", [decode_access_review, decode_user, decode_version])
@given(body=st.binary() | st.builds(lambda value: json.dumps(value).encode(), st.dictionaries(st.text(), st.text())))
def test_a_body_is_decoded_or_reported(decode: Callable[[bytes], object], body: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(body)
