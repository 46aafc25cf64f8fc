"""A notice about an object, and the object's path at the API server."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.model.gvk import BY_KIND
from nfagent.model.objects import ObjectRef

NoticeScope: TypeAlias = Literal["cluster", "node"]
EventType: TypeAlias = Literal["Warning", "Normal"]

MAX_MESSAGE_BYTES = 1024
"""Bytes of an Event's message: the limit of events.k8s.io/v1, under which the same Events can be read and written."""

_MORE = "…"


def api_version(ref: ObjectRef) -> str:
    """Return the apiVersion of an object of a kind that nfagent reads."""
    return BY_KIND[ref.kind].api_version


def object_path(ref: ObjectRef) -> str:
    """Return the path of an object of a kind that nfagent reads."""
    return BY_KIND[ref.kind].object_path(ref)


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A fault or a fact about an object, published as an Event while it is active.

    about:      the object; its uid is read before the Event is written
    reason:     Event reason: CamelCase, for programs
    message:    for people: what is wrong, and what to write instead
    event_type: Event type
    scope:      cluster: the leader publishes it; node: every agent publishes it, about its own Node
    once:       published when it becomes active, and not repeated
    finding:    tells several findings of one reason about one object apart; '' where there is one
    """

    about: ObjectRef
    reason: str
    message: str
    event_type: EventType = "Warning"
    scope: NoticeScope = "cluster"
    once: bool = False
    finding: str = ""

    @property
    def key(self) -> EventKey:
        """Return the key of its Events: of several notices of one key, the newest counts."""
        return (self.about, self.event_type, self.reason, self.finding)


EventKey: TypeAlias = tuple[ObjectRef, EventType, str, str]


class ObjectMeta(msgspec.Struct, frozen=True):
    """Metadata of an object: metadata.uid, resourceVersion and generation."""

    uid: str = ""
    resource_version: str = ""
    generation: int = 0


def readable(message: str) -> str:
    """Return a message on one printable line of at most MAX_MESSAGE_BYTES of UTF-8, cut between characters."""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(message.split()))
    whole = line.encode("utf-8", "replace")
    if len(whole) <= MAX_MESSAGE_BYTES:
        return whole.decode()
    return whole[: MAX_MESSAGE_BYTES - len(_MORE.encode())].decode("utf-8", "ignore") + _MORE
