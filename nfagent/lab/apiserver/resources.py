"""An API client by paths: served kinds, the paths of all objects, and deleting them."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

from nfagent.errors import ClusterError
from nfagent.lab.apiserver import discovery
from nfagent.lab.apiserver.discovery import ServedResource
from nfagent.lab.apiserver.https import HttpReply, HttpsClient

Document: TypeAlias = dict[str, Any]
_T = TypeVar("_T")

MERGE = "application/merge-patch+json"
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.02
# The server creates an APIService for each definition, and deletes it itself.
_THE_SERVERS_OWN = ("apiregistration.k8s.io",)
_LIST = "application/json;g=meta.k8s.io;v=v1;as=PartialObjectMetadataList"


class ResourceClient(HttpsClient):
    """A client of one API server with one user's credentials; its arguments are paths."""

    _served: tuple[ServedResource, ...] = ()

    def resources(self) -> tuple[ServedResource, ...]:
        """Return the served kinds (aggregated discovery, apidiscovery.k8s.io/v2). Raises ClusterError."""
        found: list[ServedResource] = []
        for root in discovery.ROOTS:
            found += discovery.resources(
                self.ask("GET", root, accept=discovery.ACCEPT).document(f"discovery of {root}")
            )
        self._served = tuple(found)
        return self._served

    def resource(self, document: Document) -> ServedResource:
        """Return how the kind of a document is served. Raises ClusterError."""
        group, _, version = document["apiVersion"].rpartition("/")
        wanted = (group, version, document["kind"])
        for served in (self._served, self.resources):
            for resource in served() if callable(served) else served:
                if (resource.group, resource.version, resource.kind) == wanted:
                    return resource
        raise ClusterError(f"{document['kind']} of {document['apiVersion']} isn't served: create its definition first")

    def path(self, document: Document) -> str:
        """Return the path of the object that a document names. Raises ClusterError."""
        meta = document["metadata"]
        return self.resource(document).path(meta.get("namespace", "default"), meta["name"])

    def ask_retrying(self, method: str, path: str, body: object = None, **options: Any) -> HttpReply:  # noqa: ANN401 - as ask
        """Send a request as `ask` does, and repeat it on status 429: a new kind's storage may still be starting."""
        end = time.monotonic() + WAIT_SECONDS
        while (reply := self.ask(method, path, body, **options)).status == http.client.TOO_MANY_REQUESTS:
            if time.monotonic() > end:
                break
            time.sleep(POLL_SECONDS)
        return reply

    def inventory(self) -> frozenset[str]:
        """Return the paths of all objects that can be deleted. Raises ClusterError."""
        # One version of each resource: the preferred one, which comes first.
        kinds = {(resource.group, resource.plural): resource for resource in reversed(self.resources())}
        paths = set[str]()
        for resource in kinds.values():
            if resource.verbs >= {"list", "delete"} and resource.group not in _THE_SERVERS_OWN:
                listed = self.ask_retrying("GET", resource.path(), accept=_LIST).document(f"list {resource.plural}")
                metas = (item["metadata"] for item in listed["items"] or ())
                paths |= {resource.path(meta.get("namespace", ""), meta["name"]) for meta in metas}
        return frozenset(paths)

    def remove(self, paths: Iterable[str], parallel: int = 4) -> None:
        """Delete the objects at paths, and return when they are gone. Raises ClusterError."""
        ranked: tuple[list[str], ...] = ([], [], [])
        for path in paths:
            plural = path.split("/")[-2]
            ranked[2 if plural == "namespaces" else 1 if plural == "customresourcedefinitions" else 0].append(path)
        # Objects are deleted before the definition of their kind and before their Namespace.
        for group in ranked:
            each(group, self._remove, parallel)

    def _remove(self, path: str) -> None:
        uid = self._ask_to_delete(path, 0)
        end = time.monotonic() + WAIT_SECONDS
        while self._is_there(path, uid):
            if time.monotonic() > end:
                raise ClusterError(f"{path} still exists {WAIT_SECONDS:.0f} s after it was deleted")
            time.sleep(POLL_SECONDS)
        if path.split("/")[-2] == "customresourcedefinitions":
            self._await_unserved(path.rpartition("/")[2])

    def _await_unserved(self, definition: str) -> None:
        """Wait until discovery is without a definition's kind: the server learns of the deletion a moment later."""
        end = time.monotonic() + WAIT_SECONDS
        while any(f"{served.plural}.{served.group}" == definition for served in self.resources()):
            if time.monotonic() > end:
                raise ClusterError(f"{definition} is still served {WAIT_SECONDS:.0f} s after it was deleted")
            time.sleep(POLL_SECONDS)

    def _is_there(self, path: str, uid: str) -> bool:
        """Return whether the object with this uid is there: a client may have created another of its name at once."""
        reply = self.ask("GET", path)
        if reply.status == http.client.NOT_FOUND:
            return False
        return bool(reply.document(f"get {path}")["metadata"]["uid"] == uid)

    def _ask_to_delete(self, path: str, grace_seconds: int) -> str:
        """Ask to delete an object, and to remove its finalizers; return its uid, '' where there is none."""
        reply = self.ask("DELETE", path, {"gracePeriodSeconds": grace_seconds})
        if reply.status == http.client.NOT_FOUND:
            return ""
        left = reply.document(f"delete {path}")
        if left["kind"] == "Namespace":
            left["spec"]["finalizers"] = []
            self.ask("PUT", f"{path}/finalize", left).document(f"finalize {path}")
        elif left["kind"] != "CustomResourceDefinition" and left["metadata"].get("finalizers"):
            # The server itself acts on the finalizer of a definition.
            self.ask("PATCH", path, {"metadata": {"finalizers": None}}, content_type=MERGE)
        # What is gone at once is answered by a Status about it.
        uid: str = left["details"]["uid"] if left["kind"] == "Status" else left["metadata"]["uid"]
        return uid


def each(things: Sequence[_T], act: Callable[[_T], None], parallel: int) -> None:
    """Call a function for each item, in several threads; raises the first exception."""
    with ThreadPoolExecutor(parallel) as threads:
        for _ in threads.map(act, things):
            pass
