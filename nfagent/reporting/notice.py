"""A statement about an object, and where the API server has that object."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from nfagent.model.gvk import BY_KIND
from nfagent.model.objects import ObjectRef

NoticeScope: TypeAlias = Literal["cluster", "node"]
EventType: TypeAlias = Literal["Warning", "Normal"]

LONGEST_MESSAGE = 1024
"""Bytes of an Event's message: what events.k8s.io/v1 takes, under which the same Events can be read and written."""

_MORE = "…"


def api_version(ref: ObjectRef) -> str:
    """Give the apiVersion under which an object of a kind that nfagent reads is read."""
    return BY_KIND[ref.kind].api_version


def object_path(ref: ObjectRef) -> str:
    """Give the path of an object of a kind that nfagent reads."""
    return BY_KIND[ref.kind].object_path(ref)


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say about an object, as long as it holds.

    about:   the object; its uid is learned when the statement is sent
    reason:  CamelCase, for machines; a statement is one of a topic: object, weight and reason
    message: for people: what is wrong, and what to write instead
    scope:   cluster: the elected agent says it; node: every agent says it, about its own Node
    once:    news, not a condition: said when it comes, and not again while it holds
    """

    about: ObjectRef
    reason: str
    message: str
    weight: EventType = "Warning"
    scope: NoticeScope = "cluster"
    once: bool = False

    @property
    def topic(self) -> EventKey:
        """Name what it is about: of one topic, the newest statement is the one that counts."""
        return (self.about, self.weight, self.reason)


EventKey: TypeAlias = tuple[ObjectRef, EventType, str]


class ExistingEvent(msgspec.Struct, frozen=True):
    """What the API server says of an object besides its content: metadata.uid, resourceVersion and generation."""

    uid: str = ""
    version: str = ""
    generation: int = 0


def readable(message: str) -> str:
    """Put a message on one line that a terminal can show, within the limit: UTF-8, cut between characters."""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(message.split()))
    whole = line.encode("utf-8", "replace")
    if len(whole) <= LONGEST_MESSAGE:
        return whole.decode()
    return whole[: LONGEST_MESSAGE - len(_MORE.encode())].decode("utf-8", "ignore") + _MORE
