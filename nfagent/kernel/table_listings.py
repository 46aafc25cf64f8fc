"""What people ask of the kernel's table: each listing has a thread and a libnftables context of its own.

Commits so never wait for a listing, which takes seconds where the table is large. There is one at a time, and whoever
asks meanwhile shares the next one: a hundred questions at once are two listings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from nfagent.kernel.nft_client import NftClient
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.parse import CounterValue
from nfagent.system.gc_tuning import give_back

_T = TypeVar("_T")


class SharedListing(Generic[_T]):
    """A question that is asked once at a time, for all who wait for its answer."""

    def __init__(self, ask: Callable[[], Awaitable[_T]]) -> None:
        """Keep how it is asked."""
        self._ask = ask
        self._now: asyncio.Task[_T] | None = None
        self._next: asyncio.Task[_T] | None = None

    async def answer(self) -> _T:
        """Give an answer to a question that was asked after this call. Raises what asking raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._now))
        # Who waits and gives up takes nothing from the others.
        return await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[_T] | None) -> _T:
        if before is not None:
            await asyncio.wait([before])
        self._now, self._next = self._next, None
        return await self._ask()


class TableListings:
    """The table of the network namespace that the process is in."""

    def __init__(
        self,
        read: Callable[[], Ruleset] | None = None,
        counters: Callable[[], dict[str, CounterValue]] | None = None,
    ) -> None:
        """Read by these calls, each in a thread; by libnftables where none are given."""
        self._ruleset = SharedListing(lambda: asyncio.to_thread(read or _read))
        self._counters = SharedListing(lambda: asyncio.to_thread(counters or _counters))

    async def ruleset(self) -> Ruleset:
        """Give what the table holds, or held since this was called. Raises KernelError, MachineError."""
        return await self._ruleset.answer()

    async def counters(self) -> dict[str, CounterValue]:
        """Give the named counters' values. Raises KernelError, MachineError."""
        return await self._counters.answer()


def _read() -> Ruleset:
    kernel = NftClient()
    try:
        return kernel.read_now()
    finally:
        kernel.close()
        give_back()


def _counters() -> dict[str, CounterValue]:
    kernel = NftClient()
    try:
        return kernel.counters_now()
    finally:
        kernel.close()
