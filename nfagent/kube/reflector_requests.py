"""Values of the reflector: its requests, the failures of responses, and the changes of objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol, TypeAlias

import msgspec

from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef

Key: TypeAlias = tuple[str, str]
"""Namespace and name."""


class LastGoodVersions(Protocol):
    """The last good versions of objects, from the previous run of the agent. Empty once every resource was listed."""

    def of_object(self, ref: ObjectRef) -> Item | None:
        """Return the last good version of an object."""
        ...

    def knows(self, kind: str) -> bool:
        """Return whether it has an object of a kind."""
        ...

    def of_kind(self, kind: str) -> Iterator[Item]:
        """Iterate over the last good versions of a kind's objects."""
        ...


class ReflectorRequest(msgspec.Struct, frozen=True):
    """A request: GET path?query. A watch responds with lines until it ends, a list with one object."""

    path: str
    query: dict[str, str]
    watch: bool


class WatchFailure(msgspec.Struct, frozen=True):
    """Why a request failed.

    kind: 'again' no error, send the next request at once; 'expired' the version is compacted, list again;
          'missing' the kind isn't served; 'busy' the server asks to wait; 'refused' another error status;
          'broken' the body can't be decoded; 'lost' the connection was lost
    """

    kind: Literal["again", "expired", "missing", "busy", "refused", "broken", "lost"]
    reason: str
    retry_after: float | None = None


ADVICE = {
    401: "; the credentials are not accepted: check that they are for this cluster and have not expired",
    403: "; apply deploy/rbac.yaml, and check that the agent's credentials belong to a subject of it",
}
"""What to do about an error status."""
