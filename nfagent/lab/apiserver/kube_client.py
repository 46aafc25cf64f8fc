"""A synchronous API client for tests and benchmarks, with kubectl-like calls.

    client.put({"apiVersion": "v1", "kind": "Pod", ...})     # with its status; creates a missing Namespace
    client.put_all(documents)                                # the same for thousands, over a few connections
    client.delete(document)
    client.ask("GET", "/api/v1/pods").status                 # any other request

No controller, scheduler or kubelet runs with the server: the client does their part for Namespaces and Pods.
"""

from __future__ import annotations

import copy
import http.client
import time
from collections.abc import Callable, Iterable

from nfagent.errors import ClusterError
from nfagent.lab.apiserver.https import HttpReply
from nfagent.lab.apiserver.resources import MERGE, POLL_SECONDS, WAIT_SECONDS, Document, ResourceClient, each

__all__ = ["Document", "LabApiClient"]

_APPLY = "application/apply-patch+yaml"
_FIELD_MANAGER = "lab"
# Kinds that other objects depend on.
_FIRST = ("Namespace", "CustomResourceDefinition")
# A Pod needs a container with an image; without a kubelet it is never pulled.
_CONTAINER = {"name": "c", "image": "registry.invalid/none"}


class LabApiClient(ResourceClient):
    """A client of one API server with one user's credentials; its arguments are documents."""

    def get(self, document: Document) -> Document | None:
        """Read the object that a document names; None where there is none. Raises ClusterError."""
        reply = self.ask("GET", self.path(document))
        return None if reply.status == http.client.NOT_FOUND else reply.document(f"get {_name(document)}")

    def list(self, api_version: str, kind: str, namespace: str = "") -> list[Document]:
        """Read all objects of a kind, in a Namespace or in all. Raises ClusterError."""
        path = self.resource({"apiVersion": api_version, "kind": kind}).path(namespace)
        items: list[Document] = self.ask_retrying("GET", path).document(f"list {kind}")["items"]
        return items

    def create(self, document: Document) -> Document:
        """Create an object. Raises ClusterError, also where it exists."""
        path = self.resource(document).path(document["metadata"].get("namespace", "default"))
        return self.ask("POST", path, document).document(f"create {_name(document)}")

    def apply(self, document: Document) -> Document:
        """Apply as `kubectl apply --server-side --force-conflicts` does. Raises ClusterError."""
        return self._apply(document).document(f"apply {_name(document)}")

    def patch(self, document: Document, change: Document) -> Document:
        """Change the object that a document names by a merge patch (RFC 7386). Raises ClusterError."""
        reply = self.ask("PATCH", self.path(document), change, content_type=MERGE)
        return reply.document(f"patch {_name(document)}")

    def patch_status(self, document: Document) -> Document:
        """Merge a document's status into the object's status. Raises ClusterError."""
        status = dict(document["status"])
        if document["kind"] == "Pod" and status.get("podIPs"):
            # Of podIP and podIPs, the server takes podIP: an earlier one would win over the new podIPs.
            status["podIP"] = status["podIPs"][0]["ip"]
        path = f"{self.path(document)}/status"
        return self.ask("PATCH", path, {"status": status}, content_type=MERGE).document(f"status of {_name(document)}")

    def put(self, document: Document) -> None:
        """Create or change an object with its status, as kubelet and controllers would.

        Creates a missing Namespace, sets an image for a Pod's containers, and replaces a Pod whose spec can't be
        changed in place. The kind of a CustomResourceDefinition is served on return. Raises ClusterError.
        """
        resource, wanted = self.resource(document), _complete(document)
        status = wanted.pop("status", None) if resource.has_status else None
        reply = self._apply(wanted)
        if reply.status == http.client.NOT_FOUND and resource.namespaced:
            name = document["metadata"].get("namespace", "default")
            self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            reply = self._apply(wanted)
        if reply.status == http.client.UNPROCESSABLE_ENTITY and document["kind"] == "Pod":
            self.delete(document)
            reply = self._apply(wanted)
        reply.document(f"apply {_name(document)}")
        if status:
            self.patch_status(document)
        if document["kind"] == "CustomResourceDefinition":
            self._await_served(document)

    def put_all(self, documents: Iterable[Document], parallel: int = 4) -> None:
        """Put many objects over a few connections: Namespaces and definitions first, the rest in any order.

        Raises the first ClusterError.
        """
        rest = list(documents)
        for kind in _FIRST:
            each([document for document in rest if document["kind"] == kind], self.put, parallel)
        each([document for document in rest if document["kind"] not in _FIRST], self.put, parallel)

    def delete(self, document: Document, *, grace_seconds: int = 0) -> None:
        """Delete an object, and return when it is gone; with a grace period, when it is marked for deletion.

        Deletes a Namespace with all its objects, and removes finalizers, because no controller acts on them.
        An object that doesn't exist is no error. Raises ClusterError.
        """
        path = self.path(document)
        if document["kind"] == "Namespace":
            name = document["metadata"]["name"]
            self.remove(inside for inside in self.inventory() if f"/namespaces/{name}/" in inside)
        if grace_seconds:
            self._ask_to_delete(path, grace_seconds)
        else:
            self._remove(path)

    def wait(
        self, document: Document, condition: Callable[[Document | None], bool], seconds: float = WAIT_SECONDS
    ) -> Document | None:
        """Wait until the object that a document names meets a condition; return it, None where there is none.

        Raises ClusterError, with the object as read last, after `seconds`.
        """
        end = time.monotonic() + seconds
        while not condition(found := self.get(document)):
            if time.monotonic() > end:
                raise ClusterError(f"{_name(document)}: condition not met after {seconds:.0f} s: {found}")
            time.sleep(POLL_SECONDS)
        return found

    def service_account_token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """Return a new token for an existing service account (TokenRequest). Raises ClusterError."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        reply = self.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", body)
        token: str = reply.document(f"token of {namespace}/{name}")["status"]["token"]
        return token

    def _apply(self, document: Document) -> HttpReply:
        query = {"fieldManager": _FIELD_MANAGER, "force": "true"}
        return self.ask_retrying("PATCH", self.path(document), document, query=query, content_type=_APPLY)

    def _await_served(self, definition: Document) -> None:
        def is_established(found: Document | None) -> bool:
            conditions = (found or {}).get("status", {}).get("conditions") or ()
            return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

        self.wait(definition, is_established)
        spec = definition["spec"]
        wanted = {(spec["group"], version["name"], spec["names"]["kind"]) for version in spec["versions"]}
        end = time.monotonic() + WAIT_SECONDS
        while not wanted <= {(served.group, served.version, served.kind) for served in self.resources()}:
            if time.monotonic() > end:
                raise ClusterError(f"{_name(definition)}: not served after {WAIT_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)


def _complete(document: Document) -> Document:
    wanted = copy.deepcopy(document)
    if wanted["kind"] == "Pod":
        containers = wanted.setdefault("spec", {}).get("containers") or [{}]
        wanted["spec"]["containers"] = [_CONTAINER | container for container in containers]
    return wanted


def _name(document: Document) -> str:
    meta = document["metadata"]
    inside = f"{meta['namespace']}/" if "namespace" in meta else ""
    return f"{document['kind']} {inside}{meta['name']}"
