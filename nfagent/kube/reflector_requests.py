"""What a reflector asks of an API server, why an answer leads nowhere, and what an answer changes: values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol, TypeAlias

import msgspec

from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef

Key: TypeAlias = tuple[str, str]
"""Namespace and name."""

ObjectChange: TypeAlias = Item | ObjectRef
"""An object to put, or the name of one that is gone."""


class LastGoodVersions(Protocol):
    """What an agent of before read last. After everything was read once it has nothing any more."""

    def of_object(self, ref: ObjectRef) -> Item | None:
        """Return the last good version of an object."""
        ...

    def knows(self, kind: str) -> bool:
        """Return whether an object of a kind was in force."""
        ...

    def of_kind(self, kind: str) -> Iterator[Item]:
        """Return the last good version of every object of a kind."""
        ...


class ReflectorRequest(msgspec.Struct, frozen=True):
    """What to ask: GET path?query. A watch's answer comes in lines, as long as it goes; a list's is one object."""

    path: str
    query: dict[str, str]
    watch: bool


class WatchFailure(msgspec.Struct, frozen=True):
    """Why an answer led nowhere.

    kind: 'again' nothing is wrong, ask on at once; 'expired' what was asked for is forgotten, ask anew;
          'missing' the kind isn't served; 'busy' the server asks to wait; 'refused' it refuses; 'broken' it sent
          what can't be read; 'lost' the connection broke
    """

    kind: Literal["again", "expired", "missing", "busy", "refused", "broken", "lost"]
    reason: str
    retry_after: float | None = None


ADVICE = {
    401: "; the credentials aren't accepted: see that they are this cluster's and haven't expired",
    403: "; apply deploy/rbac.yaml, and see that the agent's credentials are of a subject that it names",
}
"""What people can do about a refusal."""
