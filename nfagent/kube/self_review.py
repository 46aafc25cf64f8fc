"""What an API server says of us and of itself: who we are, what we may, which version it is.

Source: authentication.k8s.io/v1 SelfSubjectReview (1.28), authorization.k8s.io/v1 SelfSubjectAccessReview, /version.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from nfagent.errors import DecodeError
from nfagent.kube.rbac import Permission

WHO_PATH = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
WHO_BODY = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
MAY_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
VERSION_PATH = "/version"

_T = TypeVar("_T")
_MINOR = re.compile(r"\d+")
_SERVICE_ACCOUNT = "system:serviceaccount:"
_NODE = "system:node:"


class User(msgspec.Struct, frozen=True):
    """Whom an API server takes us for: authentication.k8s.io/v1 UserInfo."""

    username: str
    groups: tuple[str, ...] = ()

    @property
    def service_account(self) -> tuple[str, str] | None:
        """Namespace and name of the service account that it is."""
        if not self.username.startswith(_SERVICE_ACCOUNT):
            return None
        namespace, _, name = self.username.removeprefix(_SERVICE_ACCOUNT).partition(":")
        return namespace, name

    @property
    def node(self) -> str:
        """The node whose kubelet it is; '' for others."""
        return self.username.removeprefix(_NODE) if self.username.startswith(_NODE) else ""

    def __str__(self) -> str:
        """Read as `User jane`, `ServiceAccount nfagent/nfagent` or `Node node-a`."""
        if self.service_account is not None:
            return f"ServiceAccount {'/'.join(self.service_account)}"
        return f"Node {self.node}" if self.node else f"User {self.username}"


class Version(msgspec.Struct, frozen=True):
    """An API server's version: its minor one, of Kubernetes 1, and its whole name."""

    minor: int
    name: str


class _Who(msgspec.Struct):
    class Status(msgspec.Struct):
        userInfo: User  # noqa: N815 - the API's name

    status: Status


class _May(msgspec.Struct):
    class Status(msgspec.Struct):
        allowed: bool

    status: Status


class _Said(msgspec.Struct):
    major: str
    minor: str
    gitVersion: str = ""  # noqa: N815 - the API's name


def access_review(permission: Permission) -> dict[str, Any]:
    """Give the body that asks whether we have a permission."""
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


def decode_access(body: bytes) -> bool:
    """Read whether a permission is ours. Raises DecodeError."""
    return _decoded(body, _May).status.allowed


def decode_user(body: bytes) -> User:
    """Read who we are. Raises DecodeError."""
    return _decoded(body, _Who).status.userInfo


def decode_version(body: bytes) -> Version:
    """Read the server's version; some write a minor one as `34+`. Raises DecodeError."""
    said = _decoded(body, _Said)
    minor = _MINOR.match(said.minor)
    if said.major != "1" or minor is None:
        raise DecodeError(f"the API server's version {said.major}.{said.minor} is none of Kubernetes")
    return Version(int(minor[0]), said.gitVersion or f"v1.{minor[0]}")


def _decoded(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"the API server's answer can't be read: {error}") from None
