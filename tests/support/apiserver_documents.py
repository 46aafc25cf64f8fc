"""List pages and watch events of an API server, in shorthand; a sink that records a reflector's changes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

from nfagent.decode.retained_fields import with_last_good
from nfagent.kube.reflector_requests import Key
from nfagent.model.gvk import Item, ObjectChange
from nfagent.model.objects import ObjectRef, Pod

Document = dict[str, Any]


def pod(name: str, version: int = 1, address: str = "10.64.0.1", **labels: str) -> Document:
    """Return a Pod of namespace `shop` on node `a`, without kind, as in a list."""
    return {
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": str(version), "labels": labels},
        "spec": {"nodeName": "a", "containers": [{"name": "main"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    }


def broken_pod(name: str, version: int = 1) -> Document:
    """Return a Pod with an invalid address."""
    return pod(name, version, address="10.64.0.300")


def page(*objects: object, version: str = "10", rest: str = "") -> bytes:
    """Encode a page of a list; `rest` is its continue token."""
    metadata = {"resourceVersion": version, **({"continue": rest} if rest else {})}
    return json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": list(objects)}).encode()


def event(word: str, found: object) -> bytes:
    """Encode a watch event."""
    return json.dumps({"type": word, "object": found}).encode() + b"\n"


def added(*objects: object) -> bytes:
    """Encode an ADDED event for each object."""
    return b"".join(event("ADDED", found) for found in objects)


def bookmark(version: str) -> bytes:
    """Encode a bookmark: all events up to this version were sent."""
    return event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": version}})


def end_mark(version: str) -> bytes:
    """Encode the bookmark that ends the initial events."""
    marked = {"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}}
    return event("BOOKMARK", {"kind": "Pod", "metadata": marked})


def status(code: int, reason: str = "", message: str = "", retry_after: float | None = None) -> Document:
    """Return a Status (meta.k8s.io/v1)."""
    details = {} if retry_after is None else {"details": {"retryAfterSeconds": retry_after}}
    return {"kind": "Status", "code": code, "reason": reason, "message": message, "metadata": {}, **details}


def encoded(document: object) -> bytes:
    """Encode a document as the body of a response."""
    return json.dumps(document).encode()


def error(code: int, reason: str = "", message: str = "", retry_after: float | None = None) -> bytes:
    """Encode an ERROR event."""
    return event("ERROR", status(code, reason, message, retry_after))


def _kept(item: Item, before: Item | None) -> Item:
    """Return an object as the cluster state keeps it: unreadable fields of a Pod keep their last valid value."""
    return with_last_good(item, before) if isinstance(item, Pod) and isinstance(before, Pod) else item


class RecordingSink:
    """Applies changes, and records them.

    items: the current objects
    given: every change, in order
    """

    def __init__(self) -> None:
        self.items: dict[ObjectRef, Item] = {}
        self.given: list[ObjectChange] = []

    def take(self, changes: Iterable[ObjectChange]) -> None:
        for change in changes:
            self.given.append(change)
            if isinstance(change, ObjectRef):
                self.items.pop(change, None)
            else:
                self.items[change.ref] = _kept(change, self.items.get(change.ref))

    def keys(self, kind: str) -> Collection[Key]:
        return {(ref.namespace, ref.name) for ref in self.items if ref.kind == kind}

    @property
    def names(self) -> str:
        """The names of the current objects, sorted."""
        return " ".join(sorted(ref.name for ref in self.items))

    @property
    def gone(self) -> str:
        """The names of the deleted objects, in the order of events."""
        return " ".join(change.name for change in self.given if isinstance(change, ObjectRef))
