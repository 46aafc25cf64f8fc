"""What the agent needs of where objects come from."""

from __future__ import annotations

from typing import Any, Protocol

from nfagent.errors import ValidationIssue


class ObjectSource(Protocol):
    """Where objects come from."""

    @property
    def problems(self) -> tuple[ValidationIssue, ...]:
        """What is wrong with objects now."""
        ...

    def news(self) -> tuple[list[ValidationIssue], list[ValidationIssue]]:
        """Give the problems that came and those that went since the last time."""
        ...

    async def start(self) -> None:
        """Make ready. Raises NfagentError for what stands in the way of a start."""
        ...

    async def run(self) -> None:
        """Follow until cancelled."""
        ...

    async def reload(self) -> None:
        """Read everything again, and return when that is taken in."""
        ...

    async def read_services(self) -> str:
        """Have the Services that `explain` looks at; give what is in the way."""
        ...

    async def close(self) -> None:
        """End whatever is open."""
        ...

    def status(self) -> dict[str, Any]:
        """Tell how it stands."""
        ...
