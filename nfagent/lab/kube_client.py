"""What tests and benchmarks say to an API server: kubectl-like calls, synchronous.

    client.put({"apiVersion": "v1", "kind": "Pod", ...})     # with its status, its Namespace made where it's missing
    client.put_all(documents)                                # the same for thousands, over a few connections
    client.delete(document)
    client.ask("GET", "/api/v1/pods").status                 # anything else

No controller, scheduler or kubelet runs beside the server: what they would do for Namespaces and Pods is done here.
"""

from __future__ import annotations

import copy
import http.client
import time
from collections.abc import Callable, Iterable

from nfagent.errors import ClusterError
from nfagent.lab.https import HttpReply
from nfagent.lab.resources import MERGE, POLL_SECONDS, WAIT_SECONDS, Document, ResourceClient, each

__all__ = ["Document", "LabApiClient"]

_APPLY = "application/apply-patch+yaml"
_FIELD_MANAGER = "lab"
# What others need before they can be made.
_FIRST = ("Namespace", "CustomResourceDefinition")
# A Pod can't be without an image; nobody pulls it.
_CONTAINER = {"name": "c", "image": "registry.invalid/none"}


class LabApiClient(ResourceClient):
    """One user of one API server, who speaks of documents."""

    def get(self, document: Document) -> Document | None:
        """Read the object that a document names; None where there is none. Raises ClusterError."""
        reply = self.ask("GET", self.path(document))
        return None if reply.status == http.client.NOT_FOUND else reply.document(f"get {_name(document)}")

    def list(self, api_version: str, kind: str, namespace: str = "") -> list[Document]:
        """Read all objects of a kind, in a Namespace or in all. Raises ClusterError."""
        path = self.resource({"apiVersion": api_version, "kind": kind}).path(namespace)
        items: list[Document] = self.insist("GET", path).document(f"list {kind}")["items"]
        return items

    def create(self, document: Document) -> Document:
        """Create an object as it is written. Raises ClusterError, also for one that is there."""
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
        """Write the status that a document has, over the fields that it names. Raises ClusterError."""
        status = dict(document["status"])
        if document["kind"] == "Pod" and status.get("podIPs"):
            # Where both are there, the single one counts: an earlier one would win over what is written.
            status["podIP"] = status["podIPs"][0]["ip"]
        path = f"{self.path(document)}/status"
        return self.ask("PATCH", path, {"status": status}, content_type=MERGE).document(f"status of {_name(document)}")

    def put(self, document: Document) -> None:
        """Have the object be as a document says, status included, as kubelet and controllers would have made it.

        A Namespace that is missing is made; a Pod's container gets an image; a Pod with a spec that can't be changed
        in place is made anew; a definition's kind is served when this returns. Raises ClusterError.
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
        """Put many, over a few connections: Namespaces and definitions first, the rest in any order.

        Raises the first ClusterError.
        """
        rest = list(documents)
        for kind in _FIRST:
            each([document for document in rest if document["kind"] == kind], self.put, parallel)
        each([document for document in rest if document["kind"] not in _FIRST], self.put, parallel)

    def delete(self, document: Document, *, grace_seconds: int = 0) -> None:
        """Delete an object, and return when it is gone; with a grace, when the server has noted it.

        A Namespace goes with all that is in it, and finalizers are taken away: nobody is there to act on them.
        One that is gone already is no error. Raises ClusterError.
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
        """Return the object that a document names when a condition holds of it, None where there is none.

        Raises ClusterError, with the object as it was last, when the time is up.
        """
        end = time.monotonic() + seconds
        while not condition(found := self.get(document)):
            if time.monotonic() > end:
                raise ClusterError(f"{_name(document)}: not as wanted after {seconds:.0f} s: {found}")
            time.sleep(POLL_SECONDS)
        return found

    def service_account_token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """Have a token made for a service account that exists (TokenRequest). Raises ClusterError."""
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
        return self.insist("PATCH", self.path(document), document, query=query, content_type=_APPLY)

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
