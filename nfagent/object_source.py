"""The protocols between the agent and a source of Kubernetes objects: an API server or a folder of manifests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from nfagent.errors import ValidationIssue
from nfagent.model.gvk import ObjectChange


class EventSink(Protocol):
    """Receives the changes of a source's objects."""

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:
        """Apply changes in their order; the source continues when it returns.

        received: monotonic seconds at which the source was told of the changes; None for now
        """
        ...

    def on_synced(self) -> None:
        """Note that everything was read; called once."""
        ...


class ObjectSource(Protocol):
    """A source of Kubernetes objects, which feeds an EventSink."""

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """Return what is wrong with objects now."""
        ...

    @property
    def trouble(self) -> str:
        """Return why the source can't be followed now, for STATUS; '' where it can, or says so as a problem."""
        ...

    def news(self) -> tuple[list[ValidationIssue], list[ValidationIssue]]:
        """Return the problems that appeared and those that were resolved since the last call."""
        ...

    async def start(self) -> None:
        """Prepare to run. Raises NfagentError where the source can't start."""
        ...

    async def run(self) -> None:
        """Watch for changes until cancelled."""
        ...

    async def reload(self) -> None:
        """Read everything again, and return when it is applied."""
        ...

    async def read_services(self) -> str:
        """Read the Services that `explain` needs; return why they can't be read, or ''."""
        ...

    async def close(self) -> None:
        """Close files and connections."""
        ...

    def status(self) -> dict[str, Any]:
        """Return the source's part of AgentStatus: `files` or `apiserver`."""
        ...
