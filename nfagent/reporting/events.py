"""Statements as Events of the core API (v1 Event), for POST and merge patch.

Why not events.k8s.io/v1: there an Event's count is kept in `series`, which can be set by an update only, and its note
can't be changed. Both APIs store the same objects, and `kubectl describe` and `kubectl get events` read these fields.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from nfagent.model.objects import ObjectRef
from nfagent.reporting.notice import ExistingEvent, Notice, api_version, readable

COMPONENT = "nfagent"
_LONGEST_NAME = 253
_DIGEST_BYTES = 8


def event_name(statement: Notice, known: ExistingEvent) -> str:
    """Name the Event of a statement: every agent gives it the same name, so the next one goes on with it.

    Objects of one name that came one after the other are told apart; so is news by the generation that it is about:
    what is switched on, off and on again is news each time.
    """
    told = [*msgspec.structs.astuple(statement.about), statement.weight, statement.reason, statement.message]
    told += [known.uid, str(known.generation) if statement.once else ""]
    digest = hashlib.blake2b("\0".join(told).encode("utf-8", "replace"), digest_size=_DIGEST_BYTES).hexdigest()
    kept = statement.about.name[: _LONGEST_NAME - len(digest) - 1].rstrip(".-")
    return f"{kept}.{digest}"


def event_namespace(about: ObjectRef) -> str:
    """Give the namespace of an object's Events; those of cluster-scoped objects go to `default`."""
    return about.namespace or "default"


def events_path(about: ObjectRef) -> str:
    """Give the path of the collection that an object's Events are in."""
    return f"/api/v1/namespaces/{event_namespace(about)}/events"


def new_event(statement: Notice, known: ExistingEvent, *, node: str, now: str) -> dict[str, Any]:
    """Give the body of a statement's Event when it is said first.

    node: whose agent says it
    now:  RFC 3339, seconds
    """
    about = statement.about
    involved = {
        "apiVersion": api_version(about),
        "kind": about.kind,
        "namespace": about.namespace,
        "name": about.name,
        "uid": known.uid,
        "resourceVersion": known.version,
    }
    # Whichever agent is elected says the same about the cluster; about a node, it matters whose word it is.
    source = {"component": COMPONENT, "host": node} if statement.scope == "node" else {"component": COMPONENT}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(statement, known), "namespace": event_namespace(about)},
        "involvedObject": {key: value for key, value in involved.items() if value},
        "type": statement.weight,
        "reason": statement.reason,
        "message": readable(statement.message),
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": source,
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
    }


def repeated(now: str, count: int | None) -> dict[str, Any]:
    """Give the merge patch that says a statement again; count: None where another agent said it last."""
    return {"lastTimestamp": now} if count is None else {"lastTimestamp": now, "count": count}


def node_known(node: str) -> ExistingEvent:
    """Give a Node's uid as Events have it: its name, as kubelet writes it and `kubectl describe node` asks for it."""
    return ExistingEvent(uid=node)
