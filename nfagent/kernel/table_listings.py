"""Listings of the kernel's table for the unix socket, each with a thread and a client of its own.

So commits never wait for a listing, which takes seconds for a large table. One listing runs at a time; requests that
arrive meanwhile share the next one: a hundred concurrent requests cause two listings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.packet_counters import read_named_values
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.parse import CounterValue
from nfagent.system.gc_tuning import malloc_trim

_T = TypeVar("_T")


class SharedListing(Generic[_T]):
    """A call that runs once at a time; concurrent requests share its result."""

    def __init__(self, ask: Callable[[], Awaitable[_T]]) -> None:
        """Store the call."""
        self._ask = ask
        self._now: asyncio.Task[_T] | None = None
        self._next: asyncio.Task[_T] | None = None

    async def read(self) -> _T:
        """Return the result of a call that starts after this request. Raises what the call raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._now))
            self._next.add_done_callback(self._forget)
        # A cancelled request doesn't cancel the call for the others.
        return await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[_T] | None) -> _T:
        if before is not None:
            await asyncio.wait([before])
        self._now, self._next = self._next, None
        return await self._ask()

    def _forget(self, done: asyncio.Task[_T]) -> None:
        """Keep no result, which may be as large as the table."""
        if self._now is done:
            self._now = None


class TableListings:
    """Shared listings of the table in the network namespace of the process."""

    def __init__(
        self,
        read: Callable[[], Ruleset] | None = None,
        counters: Callable[[], dict[str, CounterValue]] | None = None,
        shell_commands: Callable[[Ruleset, Ruleset], list[str]] | None = None,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Read by these calls, each in a thread; by default from nf_tables.

        prepare: called on the event loop before each of them
        shell_commands: returns commands that make the first ruleset the second, where these aren't nft's
        """
        self.shell_commands = shell_commands

        async def ask(call: Callable[[], _T]) -> _T:
            prepare()
            return await asyncio.to_thread(call)

        self._ruleset = SharedListing(lambda: ask(read or _read))
        self._counters = SharedListing(lambda: ask(counters or read_named_values))

    async def ruleset(self) -> Ruleset:
        """Return the ruleset of the table, read after this call. Raises KernelError, HostError."""
        return await self._ruleset.read()

    async def counters(self) -> dict[str, CounterValue]:
        """Return the values of named counters, read after this call. Raises KernelError, HostError."""
        return await self._counters.read()


def _read() -> Ruleset:
    kernel = NftClient()
    try:
        return kernel.read_now()
    finally:
        kernel.close()
        malloc_trim()
