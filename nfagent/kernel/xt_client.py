"""Reads and changes nfagent's rules in iptables and ipset.

The desired ruleset is that of nftables; it is lowered to sets and chains (`nfagent.xtables`). A transaction is applied
to the ruleset that is in force, and what its lowering changes is written. The network namespace is that of the process.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.counter_deletions import CounterDeletions
from nfagent.kernel.look_budget import LookBudget
from nfagent.kernel.xt_counters import XtCounters
from nfagent.kernel.xt_foreign_names import ForeignNames
from nfagent.kernel.xt_listing import XtKernel, XtReader
from nfagent.kernel.xt_looks import XtLooks
from nfagent.kernel.xt_writer import XtWriter
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.nftables.parse import CounterValue
from nfagent.nftables.transaction import AddCounter, ChangeElements, Delete, RewriteChain, Transaction
from nfagent.system.threads import started_executor
from nfagent.system.worker_thread import run_to_end
from nfagent.xtables.change_sizes import are_small, is_small
from nfagent.xtables.flow_members import added_flows, changes_flows
from nfagent.xtables.found import found_ruleset
from nfagent.xtables.incremental import IncrementalLowering
from nfagent.xtables.listing import XtListing, does_the_same
from nfagent.xtables.lowering import NameCollisionError
from nfagent.xtables.objects import ChainKey, XtChain, XtRuleset
from nfagent.xtables.options import LoweringOptions, Unavailable

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_TRIES = 20
"""Readings beside a stream of changes, each of which may break one off."""


class _Enforced(msgspec.Struct, frozen=True):
    """What the kernel has: the ruleset with its lowering, and the objects that are there, as they are listed.

    The lowering changes with each transaction, so that a failed one leaves nothing that could be used.
    """

    lowering: IncrementalLowering
    listing: XtListing


class _Compared(msgspec.Struct, frozen=True):
    """What a comparison found.

    repair:       the transaction that makes the kernel's rules the wanted ones
    loses_counts: whether that deletes what has counted
    is_in_use:    whether packets reach any of the rules
    """

    force: _Enforced
    repair: Transaction
    loses_counts: bool
    is_in_use: bool = True


class XtClient:
    """Reads and changes the rules; what runs a program does so in one worker thread.

    Implements controllers.reconciler.RulesetKernel and controllers.conntrack_revoker.RecheckKernel.
    """

    def __init__(
        self,
        kernel: XtKernel,
        known: Callable[[], Ruleset],
        options: LoweringOptions | None = None,
    ) -> None:
        """Store what is read and written by, and options of the lowering.

        known: returns a ruleset whose names and shapes may be in the kernel, for `read` before the first comparison;
               called in the thread of the event loop, where what it reads may change
        """
        self._kernel = kernel
        self._known = known
        self._named = known()
        options = options or LoweringOptions()
        self._options = msgspec.structs.replace(
            options,
            families=kernel.families,
            absent=kernel.absent,
            accounts=options.accounts and kernel.accounts is not None,
        )
        self._reader = XtReader(kernel)
        self._writer = XtWriter(kernel)
        self._foreign = ForeignNames(kernel.programs.variant)
        self._turn = asyncio.Lock()
        self._thread = started_executor(1, "iptables")
        self._force: _Enforced | None = None  # None: unknown, the kernel must be read
        self._loses_counts = False  # whether the next change deletes counters of an earlier agent
        self._latest: Ruleset | None = None  # that was in force, of which the names are known
        self._adding: frozenset[str] = frozenset()  # counters that the last change may have added
        self._version = 0  # of what was written: changes at the begin and at the end of each change
        self._variants: dict[ChainKey, tuple[XtChain, XtChain]] = {}
        self.unavailable: tuple[Unavailable, ...] = ()
        self._deletions: CounterDeletions | None = None
        self.counters = XtCounters(kernel, self._counter_names, self.note_names)
        self._looks = XtLooks(kernel, self._list_in_use)

    def defer_deletions(self, deletions: CounterDeletions) -> None:
        """Have the deletions of counters in transactions of `apply` wait."""
        self._deletions = deletions

    @property
    def left(self) -> tuple[str, ...]:
        """Sets without use that could not be deleted, as rules of other programs refer to them."""
        return self._writer.left

    async def read(self) -> Ruleset:
        """Return the ruleset that the rules and sets in the kernel stand for. Raises KernelError, HostError."""
        self.note_names()
        return await self._in_thread(self.read_now)

    def note_names(self) -> None:
        """Note which names to look for before the first comparison. To be called on the event loop."""
        if self._latest is None:
            self._named = self._known()

    def read_now(self) -> Ruleset:
        """Read in this thread. Raises KernelError, HostError."""
        known = self._names()
        lowered = self._lowering(known).ruleset
        return found_ruleset(self._list(lowered).ruleset, known, lowered, self._options)

    def read_beside_changes(self) -> Ruleset:
        """Read in this thread, which isn't that of the changes. Raises what `read` does.

        A change may destroy a set whose name iptables-save is about to ask for: it is read again then.
        """
        for _ in range(_TRIES):
            version = self._version
            try:
                return self.read_now()
            except KernelError:
                if self._version == version and not self._turn.locked():
                    raise
        return self.read_now()

    async def difference(self, wanted: Ruleset, *, anew: bool = False) -> Transaction:  # noqa: ARG002 - see below
        """Read the kernel and return the transaction that makes it equal to `wanted`. Raises KernelError, HostError.

        anew: makes no difference: each change is made from what was read, whatever it is
        """
        async with self._turn:
            force, self._force = self._force, None
            if self._deletions is not None:
                self._deletions.compared(wanted)
                wanted = self._deletions.with_waiting(wanted)
            self._adding = wanted.counters
            found = await self._in_thread(self._compare_now, wanted, force)
            self._loses_counts = found.loses_counts
            self._force = found.force
            if found.is_in_use:
                self._latest, self._named = found.force.lowering.source, ABSENT
            return found.repair

    async def apply(self, transaction: Transaction) -> None:
        """Change the rules. Raises KernelError, HostError, WireError; SetFullError for a set of flows that is full.

        After an error a part of it may be in force: the next `difference` reads what is.
        """
        deletions = self._deletions
        if deletions is None:
            async with self._turn:
                await self._apply(transaction)
            return
        if self._loses_counts:
            await deletions.before((Delete("table"),))
        async with self._turn:
            plan = deletions.plan(transaction)
            await self._apply(plan.at_once)
            deletions.committed(plan)

    async def commit_latest(self, transaction: Callable[[], Transaction]) -> None:
        """Apply what a function returns while no other transaction is being applied. Raises what `apply` does."""
        async with self._turn:
            if self._force is not None:
                await self._apply(transaction())

    async def accept_variants(self, wanted: Ruleset, repair: Transaction) -> tuple[str, ...]:  # noqa: ARG002 - as NftClient
        """Return the chains that iptables-save prints otherwise than they were written, and accept them as equal.

        What is in force by the last `apply` is written again, which has addresses under re-check that `wanted` lacks.
        Raises KernelError, HostError.
        """
        async with self._turn:
            if self._force is None:
                return ()
            return await self._in_thread(self._listed_otherwise_now, self._force.lowering.ruleset)

    def as_written(self, listed: Ruleset, wanted: Ruleset) -> Ruleset:
        """Return a listing without counters to be deleted; variants are accepted where it is read."""
        return listed if self._deletions is None else self._deletions.as_deleted(listed, wanted)

    async def is_changed(self, *, with_content: bool, budget: LookBudget | None = None) -> bool:
        """Return whether another program has changed our rules or sets, by a cheap reading.

        with_content: rules and members are read too, otherwise only their numbers and sizes
        budget:       what it may cost; None for whatever it takes
        Raises KernelError, HostError.
        """
        force, version = self._force, self._version

        def is_current() -> bool:
            return self._version == version and not self._turn.locked()

        if force is None or not is_current():
            return False
        look = functools.partial(self._looks.is_changed, with_content=with_content)
        try:
            return await asyncio.to_thread(look, force.listing, version, budget or LookBudget(), is_current)
        except (KernelError, HostError):
            if is_current():
                raise
            # A change of our own came meanwhile: iptables-save asked for the name of a set that this one has destroyed.
            return False

    async def with_table(self, call: Callable[[Any], Any]) -> Any:  # noqa: ANN401, ARG002 - as NftClient
        """Raise HostError: the table of the bridges is one of nf_tables."""
        raise HostError("the backend is iptables, and frames are dropped by nf_tables only")

    def counters_now(self) -> dict[str, CounterValue]:
        """Return the values of named counters, of both families together. Raises KernelError, HostError."""
        return self.counters.values()

    def close(self) -> None:
        """End the worker thread and close the sockets."""
        self._thread.shutdown(wait=True)
        self._kernel.close()

    def _counter_names(self) -> frozenset[str]:
        """Return the names of the counters that the kernel may have; may be called in any thread."""
        return self._adding | self._names().counters

    async def _apply(self, transaction: Transaction) -> None:
        self._loses_counts = False
        sets = self._names().sets
        flows = added_flows(transaction, sets, self._options.families)
        rest = tuple(command for command in transaction if not changes_flows(command, sets))
        if rest:
            force, self._force = self._force, None
            if force is None:
                raise KernelError("the rules in iptables aren't known: they are read first")
            self._version += 1
            self._adding = frozenset(command.name for command in rest if isinstance(command, AddCounter))
            try:
                self._force = await self._write(force, rest)
                self._latest, self._named = self._force.lowering.source, ABSENT
            finally:
                self._version += 1
        if flows:
            await self._in_thread(self._writer.add_members, flows)

    async def _write(self, force: _Enforced, transaction: Transaction) -> _Enforced:
        """Write a transaction: in the thread, or at once where it takes no longer than handing it to the thread."""
        if not is_small(transaction, force.lowering.source):
            return await self._in_thread(self._write_now, force, transaction)
        written = self._lower_now(force, transaction)
        steps = self._writer.steps(force.listing, written.listing.ruleset)
        write = functools.partial(self._writer.write, force.listing, written.listing.ruleset, steps)
        if force.listing.stray or not are_small(steps):
            await self._in_thread(write)
        else:
            write()
        return written

    def _write_now(self, force: _Enforced, transaction: Transaction) -> _Enforced:
        written = self._lower_now(force, transaction)
        self._writer.write(force.listing, written.listing.ruleset)
        return written

    def _lower_now(self, force: _Enforced, transaction: Transaction) -> _Enforced:
        """Return what is to be in force after a transaction."""
        try:
            force.lowering.apply(transaction)
        except NameCollisionError as error:
            raise _unwritable(error) from None
        self.unavailable = force.lowering.unavailable
        return _Enforced(force.lowering, XtListing(force.lowering.ruleset))

    def _names(self) -> Ruleset:
        """Return a ruleset whose names and shapes the kernel's may have: the one in force, or the one before."""
        named, latest = self._named, self._latest  # in this order: another thread may be reading
        return named if latest is None else latest

    def _compare_now(self, wanted: Ruleset, force: _Enforced | None) -> _Compared:
        is_known = force is not None and force.lowering.source == wanted
        lowering = force.lowering if force is not None and is_known else self._lowering(wanted)
        self.unavailable = lowering.unavailable
        self._writer.destroy_left()
        lowered = lowering.ruleset
        listing = self._list_in_use(lowered)
        self._foreign.report(listing.ruleset)
        loses_counts = _loses_counts(listing.ruleset, lowered)
        if not listing.ruleset.hooks:
            # No packet reaches any rule: as if there were none.
            nothing = _Enforced(IncrementalLowering(self._options, ABSENT), listing)
            return _Compared(nothing, diff(ABSENT, wanted), loses_counts, is_in_use=False)
        repair = () if listing == XtListing(lowered) else _repair(wanted, lowered, listing)
        return _Compared(_Enforced(lowering, listing), repair, loses_counts)

    def _lowering(self, wanted: Ruleset) -> IncrementalLowering:
        try:
            return IncrementalLowering(self._options, wanted)
        except NameCollisionError as error:
            raise _unwritable(error) from None

    def _list(self, known: XtRuleset) -> XtListing:
        """Return our objects; listing variants that were accepted are returned as they were written."""
        listing = self._reader.read(known)
        for key, (written, as_listed) in tuple(self._variants.items()):  # another thread may accept more
            found = listing.ruleset.chains.get(key)
            if found is not None and found.rules == as_listed.rules and known.chains.get(key) == written:
                listing.ruleset.chains[key] = written
        return listing

    def _list_in_use(self, known: XtRuleset) -> XtListing:
        """Return our objects without the sets that are only there as they can't be deleted."""
        listing = self._list(known)
        for name in set(self._writer.left) - known.sets.keys():
            listing.ruleset.sets.pop(name, None)
        return listing

    def _listed_otherwise_now(self, lowered: XtRuleset) -> tuple[str, ...]:
        """Write what differs again; chains that are listed as before then are variants."""
        first = self._list(lowered)
        names = _differing(first, lowered)
        if not names:
            return ()
        self._writer.write(first, lowered)
        second = self._list(lowered)
        before, after = first.ruleset.chains, second.ruleset.chains
        accepted = [
            key
            for key in names
            if key in after and after[key] == before.get(key) and does_the_same(after[key], lowered.chains[key])
        ]
        for key in accepted:
            self._variants[key] = lowered.chains[key], after[key]
        return tuple(f"chain {key[2]} of table {key[1]}, IPv{key[0]}" for key in accepted)

    async def _in_thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await run_to_end(self._thread, call, *arguments)


def _loses_counts(found: XtRuleset, wanted: XtRuleset) -> bool:
    """Return whether making the wanted rules deletes what has counted."""
    counting = (name for name, item in wanted.sets.items() if item.counters and name in found.sets)
    return bool(found.accounts - wanted.accounts) or any(
        found.sets[name].members - wanted.sets[name].members for name in counting
    )


def _unwritable(error: NameCollisionError) -> WireError:
    return WireError(f"the rules can't be written to iptables: {error}")


def _differing(listing: XtListing, lowered: XtRuleset) -> tuple[ChainKey, ...]:
    found = listing.ruleset.chains
    return tuple(key for key, chain in lowered.chains.items() if found.get(key) != chain)


def _repair(wanted: Ruleset, lowered: XtRuleset, listing: XtListing) -> Transaction:
    """Return commands that name the objects to be written again, and change nothing of the ruleset itself."""
    found = listing.ruleset
    origins = {chain.origin for key, chain in lowered.chains.items() if found.chains.get(key) != chain}
    origins |= {item.origin for name, item in lowered.sets.items() if found.sets.get(name) != item}
    chains = sorted(origins & wanted.chains.keys())
    sets = sorted(origins & wanted.sets.keys())
    if not chains and not sets:
        # Jumps, a verdict map, or objects without use: the base chains stand for all of it.
        chains = sorted(name for name, chain in wanted.chains.items() if chain.hook is not None)
    return (
        *(RewriteChain(name, wanted.chains[name].rules, wanted.chains[name].rules) for name in chains),
        *(ChangeElements("add", name, ()) for name in sets),
    )
