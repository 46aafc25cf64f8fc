"""Encodes notices as Events of the core API (v1 Event), for POST and merge patch.

Why not events.k8s.io/v1: there an Event's count is kept in `series`, which only an update can set, and its note can't
be changed. Both APIs store the same objects, and `kubectl describe` and `kubectl get events` read these fields.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from nfagent.model.objects import ObjectRef
from nfagent.reporting.notice import Notice, ObjectMeta, api_version, readable

COMPONENT = "nfagent"
_MAX_NAME = 253
_DIGEST_BYTES = 8


def event_name(notice: Notice, meta: ObjectMeta) -> str:
    """Return the name of a notice's Event: the same from every agent, so that the next leader updates the same Event.

    The digest includes the object's uid: an object that was deleted and created again gets Events of its own. For a
    notice that is published once it includes the generation: a switch turned on, off and on is published each time.
    """
    parts = [*msgspec.structs.astuple(notice.about), notice.event_type, notice.reason, notice.message]
    parts += [meta.uid, str(meta.generation) if notice.once else ""]
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=_DIGEST_BYTES).hexdigest()
    kept = notice.about.name[: _MAX_NAME - len(digest) - 1].rstrip(".-")
    return f"{kept}.{digest}"


def event_namespace(about: ObjectRef) -> str:
    """Return the namespace of an object's Events; those of cluster-scoped objects are in `default`."""
    return about.namespace or "default"


def events_path(about: ObjectRef) -> str:
    """Return the path of the collection of an object's Events."""
    return f"/api/v1/namespaces/{event_namespace(about)}/events"


def new_event(notice: Notice, meta: ObjectMeta, *, node: str, now: str) -> dict[str, Any]:
    """Return the body of a notice's Event at its first publication.

    node: the node of the agent that writes it
    now:  RFC 3339, seconds
    """
    about = notice.about
    involved = {
        "apiVersion": api_version(about),
        "kind": about.kind,
        "namespace": about.namespace,
        "name": about.name,
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
    }
    # Every leader writes the same Event about the cluster; an Event about a node names the agent's host.
    source = {"component": COMPONENT, "host": node} if notice.scope == "node" else {"component": COMPONENT}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(notice, meta), "namespace": event_namespace(about)},
        "involvedObject": {key: value for key, value in involved.items() if value},
        "type": notice.event_type,
        "reason": notice.reason,
        "message": readable(notice.message),
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": source,
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
    }


def repeat_patch(now: str, count: int | None) -> dict[str, Any]:
    """Return the merge patch of a repetition; count: None where another agent published it last."""
    return {"lastTimestamp": now} if count is None else {"lastTimestamp": now, "count": count}


def node_object_meta(node: str) -> ObjectMeta:
    """Return a Node's metadata as in its Events: its name as uid, as kubelet writes and `kubectl describe` expects."""
    return ObjectMeta(uid=node)
