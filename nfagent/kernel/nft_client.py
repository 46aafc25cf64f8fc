"""Reads and changes table inet nfagent: commits by our own netlink batches, listings by libnftables.

A transaction is one batch, which the kernel applies as a whole or not at all (`nft_socket.py`). What no packet can
reach yet is committed before it: new interval sets, and most of a table that is written from nothing
(`nftables.commit_parts`). The network namespace is that of the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import TypeVar

from nfagent.errors import KernelError, UnlistableError, WireError
from nfagent.kernel.counter_deletions import CounterDeletions
from nfagent.kernel.nft_listing import NftListing, reject_owner
from nfagent.kernel.nft_monitor import NftMonitor
from nfagent.kernel.nft_socket import NftSocket
from nfagent.kernel.packet_counters import read_named_values
from nfagent.kernel.table_queries import generation, own_table
from nfagent.netlink.nft_events import TABLE_OWNER, TABLE_PERSIST
from nfagent.netlink.nft_messages import NFPROTO_INET
from nfagent.nftables.commit_parts import commits
from nfagent.nftables.diff import diff
from nfagent.nftables.listing_variants import (
    ListingVariants,
    NamedObject,
    changed_objects,
    describe_objects,
    differing_objects,
    same_objects,
    with_listed_objects,
)
from nfagent.nftables.objects import ABSENT, TABLE_FLAGS, TABLE_PERSISTS, Ruleset
from nfagent.nftables.parse import CounterValue
from nfagent.nftables.retired_counters import CommitPlan
from nfagent.nftables.set_sizes import resize_commands, with_desired_sizes
from nfagent.nftables.transaction import AddTable, Delete, Transaction, size_of
from nfagent.nftables.unknown_objects import is_clean
from nfagent.system.gc_tuning import malloc_trim
from nfagent.system.threads import started_executor
from nfagent.system.worker_thread import run_to_end

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_AT_ONCE = 1_024
"""The size of the largest transaction that is encoded and committed on the event loop.

Measured at this size on a busy machine, median: elements of a set 3 ms, of a verdict map 5 to 10 ms, 128 rules 2 ms.
At twice the size: 8, 17 and 7 ms, 28 ms at worst. A policy that isolates 100 Pods of the node has size 600.
"""
_VARIANT_TRIES = 3
"""Other programs may commit meanwhile; the result counts only where none did."""

_PERSISTENT = Ruleset(foreign=frozenset((TABLE_FLAGS, TABLE_PERSISTS)))


class NftClient:
    """Reads and changes the table; small changes on the event loop, what takes longer in one worker thread.

    Implements controllers.reconciler.RulesetKernel and controllers.conntrack_revoker.RecheckKernel.
    """

    def __init__(self, socket: NftSocket | None = None, *, monitor: NftMonitor | None = None) -> None:
        """Load libnftables and open the socket.

        socket:  commits; a new one by default; closed by `close`
        monitor: muted for large commits, and told the port ids of the new socket
        Raises HostError where libnftables is missing or can't access nf_tables.
        """
        self._listing = NftListing()
        self._monitor = monitor
        self._socket = socket or NftSocket(ports=None if monitor is None else monitor.own_ports)
        self._turn = asyncio.Lock()
        self._thread = started_executor(1, "nftables")
        self._variants = ListingVariants()
        # The last comparison found foreign objects; the kernel refused to remove only them.
        self._removing = self._anew = False
        self._grown = False  # whether larger sets of flows were requested
        self._deletions: CounterDeletions | None = None
        # The table was listed for a comparison whose transaction isn't committed yet.
        self._comparing = False

    def defer_deletions(self, deletions: CounterDeletions) -> None:
        """Have the deletions of counters in transactions of `apply` wait."""
        self._deletions = deletions

    async def read(self) -> Ruleset:
        """Return the ruleset in the table. Raises KernelError, HostError."""
        return await self._in_thread(self.read_now)

    async def difference(self, wanted: Ruleset, *, anew: bool = False) -> Transaction:
        """Read the table and return the transaction that makes it equal to `wanted`. Raises KernelError, HostError.

        anew: read nothing, and return a transaction that deletes the table, if there is one, and writes it: no commit
              of another program in between makes the kernel refuse it

        Listing and comparing a large table takes seconds, in the worker thread. Until the transaction is committed, or
        refused, no counters without use are deleted: it was made for a table that has them.
        """
        async with self._turn:
            self._comparing = True
        transaction: Transaction = ()
        try:
            transaction = await self._in_thread(self._replacement_now if anew else self._difference_now, wanted)
        finally:
            self._comparing = bool(transaction)
        return transaction

    async def apply(self, transaction: Transaction) -> None:
        """Commit a transaction. Raises KernelError, HostError; WireError for a command that can't be encoded.

        After an error nothing of it is in force; what no packet reaches may have been written (`commit_parts`).
        """
        deletions = self._deletions
        if deletions is not None:
            await deletions.before(transaction)
        async with self._turn:
            plan = CommitPlan(transaction) if deletions is None else await self._planned(deletions, transaction)
            try:
                await self._commit(plan.at_once)
            except (KernelError, WireError):
                self._anew = self._removing
                raise
            finally:
                self._comparing = False
            self._anew = self._removing = False
            if deletions is not None:
                deletions.committed(plan)

    async def commit_latest(self, transaction: Callable[[], Transaction]) -> None:
        """Commit what a function returns while no other transaction is being committed; no deletion waits.

        The function isn't called while the table is compared: the caller tries again later. Raises what `apply` does.
        """
        async with self._turn:
            if not self._comparing:
                await self._commit(transaction())

    async def accept_variants(self, wanted: Ruleset, repair: Transaction) -> tuple[str, ...]:
        """Return objects that this nft lists differently than `repair` wrote them, and accept these listings.

        Raises KernelError, HostError.
        """
        return await self._in_thread(self._listed_otherwise_now, wanted, changed_objects(repair))

    def as_written(self, listed: Ruleset, wanted: Ruleset) -> Ruleset:
        """Return a listing without accepted listing variants, sizes of sets of flows, and counters to be deleted."""
        written = self._variants.as_written(with_desired_sizes(listed, wanted), wanted)
        return written if self._deletions is None else self._deletions.as_deleted(written, wanted)

    async def counters(self) -> dict[str, CounterValue]:
        """Return the values of named counters. Raises KernelError, HostError."""
        return await self._in_thread(self.counters_now)

    async def with_table(self, call: Callable[[NftClient], _T]) -> _T:
        """Call a function with this client in the worker thread."""
        return await self._in_thread(call, self)

    def check_now(self, text: str) -> None:
        """Check nft text by a dry run of libnftables. Raises KernelError, HostError."""
        self._listing.check(text)

    def close(self) -> None:
        """End the worker thread and close the sockets."""
        self._thread.shutdown(wait=True)
        self._socket.close()
        self._listing.close()

    def read_now(self, known: Ruleset = ABSENT) -> Ruleset:
        """Read the table in this thread; objects equal to one of `known` are returned as that one."""
        return self._listing.ruleset(known)

    def list_now(self, family: str) -> str | None:
        """Return the JSON listing of table nfagent of a family, None without it. Raises KernelError, HostError."""
        return self._listing.table(family)

    def commit_now(self, transaction: Transaction, *, family: int = NFPROTO_INET) -> None:
        """Commit in this thread, as one batch. Raises what `apply` does."""
        self._socket.commit(transaction, family=family)

    def counters_now(self) -> dict[str, CounterValue]:
        """Read counters in this thread."""
        return read_named_values()

    async def _planned(self, deletions: CounterDeletions, transaction: Transaction) -> CommitPlan:
        if size_of(transaction) <= _AT_ONCE:
            return deletions.plan(transaction)
        return await self._in_thread(deletions.plan, transaction)

    async def _commit(self, transaction: Transaction) -> None:
        for part in commits(transaction):
            if size_of(part) <= _AT_ONCE:
                self._socket.commit(part)
            else:
                await run_to_end(self._thread, self._commit_large, part)

    def _commit_large(self, part: Transaction) -> None:
        try:
            with nullcontext() if self._monitor is None else self._monitor.muted():
                self._socket.commit(part)
        finally:
            malloc_trim()

    async def _in_thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.wrap_future(self._thread.submit(call, *arguments))

    def _replacement_now(self, wanted: Ruleset) -> Transaction:
        """Return the table written anew; `AddTable` first, as one that is absent can't be deleted."""
        table = own_table()
        reject_owner(0 if table is None else table.flags)
        self._removing = False
        return (AddTable(), Delete("table"), *diff(ABSENT, wanted))

    def _difference_now(self, wanted: Ruleset) -> Transaction:
        table = own_table()
        if table is None:
            # Nothing to read, no memory to trim: packets pass unfiltered until the table is written.
            self._removing = False
            return diff(ABSENT, wanted)
        if table.flags & (TABLE_OWNER | TABLE_PERSIST) == TABLE_PERSIST:
            # Not read: nft 1.0.6 doesn't know this flag and lists another. The table is replaced in one transaction.
            return diff(_PERSISTENT, wanted)
        try:
            cleared = self._clear_flags_now(table.flags)
            try:
                read = self.read_now(wanted)
            except UnlistableError as error:
                log.warning("%s; the table is written anew", error)
                return self._replacement_now(wanted)
            self._grow_now(read, wanted)
            found = self.as_written(read, wanted)
            if self._deletions is not None:
                self._deletions.compared(wanted)
            self._removing = found.exists and not is_clean(found, wanted)
            return cleared + diff(found, wanted, anew=self._anew)
        finally:
            # The listing is as large as the table, and no longer needed.
            malloc_trim()

    def _listed_otherwise_now(self, wanted: Ruleset, names: frozenset[NamedObject]) -> tuple[str, ...]:
        """Write differing objects again; those that stay different, without another program's commit, are variants."""
        try:
            for _ in range(_VARIANT_TRIES):
                began = generation()
                first = self.as_written(self.read_now(wanted), wanted)
                names = differing_objects(first, wanted, names)
                if not names:
                    return ()
                self.commit_now(diff(with_listed_objects(first, wanted, names), wanted))
                second = self.as_written(self.read_now(wanted), wanted)
                if generation() == began + 1 and same_objects(first, second, names):
                    self._variants.accept(second, wanted, names)
                    return tuple(f"{name} (nft {self._listing.version})" for name in describe_objects(names))
            return ()
        finally:
            malloc_trim()

    def _clear_flags_now(self, flags: int) -> Transaction:
        """Clear flags such as `dormant`; return the command that did, so that connections are re-checked.

        To be done before the table is listed: nft 1.0.6 may truncate the JSON listing of a table with flags.
        """
        reject_owner(flags)
        if not flags:
            return ()
        self.commit_now((AddTable(),))
        return (AddTable(),)

    def _grow_now(self, listed: Ruleset, wanted: Ruleset) -> None:
        """Resize sets of flows that are too small, once; a kernel that refuses keeps their size."""
        commands = () if self._grown else resize_commands(listed, wanted)
        self._grown = True
        if commands:
            with suppress(KernelError):
                self.commit_now(commands)
