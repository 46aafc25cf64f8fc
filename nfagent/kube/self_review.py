"""Self-reviews at the API server: the user of the credentials, its permissions; also the server's version.

Source: authentication.k8s.io/v1 SelfSubjectReview (1.28), authorization.k8s.io/v1 SelfSubjectAccessReview, /version.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from nfagent.errors import DecodeError
from nfagent.kube.rbac import Permission

SELF_REVIEW_PATH = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
SELF_REVIEW_BODY = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
ACCESS_REVIEW_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
VERSION_PATH = "/version"

_T = TypeVar("_T")
_MINOR = re.compile(r"\d{1,4}(?!\d)", re.ASCII)
_SERVICE_ACCOUNT = "system:serviceaccount:"
_NODE = "system:node:"


class User(msgspec.Struct, frozen=True):
    """The user that the API server authenticates: authentication.k8s.io/v1 UserInfo."""

    username: str
    groups: tuple[str, ...] = ()

    @property
    def service_account(self) -> tuple[str, str] | None:
        """Namespace and name of its service account; None for another user."""
        if not self.username.startswith(_SERVICE_ACCOUNT):
            return None
        namespace, _, name = self.username.removeprefix(_SERVICE_ACCOUNT).partition(":")
        return namespace, name

    @property
    def node(self) -> str:
        """The Node whose kubelet it is; '' for another user."""
        return self.username.removeprefix(_NODE) if self.username.startswith(_NODE) else ""

    def __str__(self) -> str:
        """Return `User jane`, `ServiceAccount nfagent/nfagent` or `Node node-a`."""
        if self.service_account is not None:
            return f"ServiceAccount {'/'.join(self.service_account)}"
        return f"Node {self.node}" if self.node else f"User {self.username}"


class Version(msgspec.Struct, frozen=True):
    """An API server's version: the minor version of Kubernetes 1, and `gitVersion`."""

    minor: int
    name: str


class _SelfReview(msgspec.Struct):
    class Status(msgspec.Struct):
        userInfo: User  # noqa: N815 - the API's name

    status: Status


class _AccessReview(msgspec.Struct):
    class Status(msgspec.Struct):
        allowed: bool

    status: Status


class _Version(msgspec.Struct):
    major: str
    minor: str
    gitVersion: str = ""  # noqa: N815 - the API's name


def access_review(permission: Permission) -> dict[str, Any]:
    """Return the SelfSubjectAccessReview of a permission."""
    resource, _, subresource = permission.resource.partition("/")
    attributes = {
        "group": permission.group,
        "resource": resource,
        "subresource": subresource,
        "verb": permission.verb,
        "namespace": permission.namespace,
        "name": permission.name,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }


def decode_access_review(body: bytes) -> bool:
    """Decode a SelfSubjectAccessReview: return whether the permission is granted. Raises DecodeError."""
    return _decoded(body, _AccessReview).status.allowed


def decode_user(body: bytes) -> User:
    """Decode a SelfSubjectReview. Raises DecodeError."""
    return _decoded(body, _SelfReview).status.userInfo


def decode_version(body: bytes) -> Version:
    """Decode /version; some servers write the minor version as `34+`. Raises DecodeError."""
    found = _decoded(body, _Version)
    minor = _MINOR.match(found.minor)
    if found.major != "1" or minor is None:
        raise DecodeError(
            f"version {found.major[:9]}.{found.minor[:9]} of the API server is not a version of Kubernetes"
        )
    return Version(int(minor[0]), found.gitVersion or f"v1.{minor[0]}")


def _decoded(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"response of the API server can't be decoded: {error}") from None
