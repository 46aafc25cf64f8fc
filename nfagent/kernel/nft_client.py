"""Reads and changes table inet nfagent: by libnftables, and for set elements by netlink.

libnftables takes transactions as nft text, atomically, and returns listings as JSON; there is one context and one call
at a time. The network namespace is that of the process. (`kernel/bridge_table.py` has the table bridge nfagent.)
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

import msgspec

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.nft_library import require_netlink, with_reserve
from nfagent.kernel.nft_monitor import NftMonitor
from nfagent.kernel.nft_socket import NftSocket, UnsentError
from nfagent.kernel.sockets import AS_ROOT, NEEDS_ROOT
from nfagent.kernel.table_queries import flags_of_table, generation, table_flags
from nfagent.netlink.nft_elements import is_elements_only
from nfagent.netlink.nft_events import TABLE_OWNER, TABLE_PERSIST
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
from nfagent.nftables.objects import (
    ABSENT,
    FLAGGED,
    TABLE,
    TABLE_FAMILY,
    TABLE_FLAGS,
    TABLE_PERSISTS,
    UNFLAGGED,
    Ruleset,
)
from nfagent.nftables.parse import CounterValue, parse_counters, parse_listing
from nfagent.nftables.set_sizes import resize_commands, with_desired_sizes
from nfagent.nftables.transaction import (
    AddTable,
    ChangeElements,
    ChangeMapElements,
    Transaction,
    split_for_commit,
    transaction_text,
)
from nfagent.nftables.unknown_objects import is_clean
from nfagent.system.descriptors import DescriptorReserve
from nfagent.system.gc_tuning import malloc_trim

_T = TypeVar("_T")
_ABSENT_MESSAGE = "No such file or directory"
_DENIED_MESSAGE = "Operation not permitted"
_AT_ONCE = 256
"""Elements that are committed on the event loop: a millisecond of kernel time at most."""
_VERSION = re.compile(r'"version": ?"([^"]*)"')
_OWNED = f"table {TABLE_FAMILY} {TABLE} belongs to another process (flags owner), which alone may change it"
_OWNER_HINT = f"end that process: `nft list table {TABLE_FAMILY} {TABLE}` names it"
_VARIANT_TRIES = 3
"""Other programs may commit meanwhile; the result counts only where none did."""
_SHORT_TEXT = 16 * 1024
_SHORT_COMMANDS = 256
_QUICK_SECONDS = 0.003
"""Short text is committed on the event loop while the last one took less: a thread switch would take as long."""

_PERSISTENT = Ruleset(foreign=frozenset((TABLE_FLAGS, TABLE_PERSISTS)))

INSTALL_HINT = "apt-get install python3-nftables nftables"


class NftClient:
    """Reads and changes the table, in one worker thread, or on the event loop while that thread is idle.

    Implements controllers.reconciler.RulesetKernel and controllers.conntrack_revoker.RecheckKernel.
    """

    def __init__(
        self,
        elements: NftSocket | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        monitor: NftMonitor | None = None,
    ) -> None:
        """Load libnftables.

        elements: the socket for set elements, a new one by default; closed by `close`
        monotonic: the clock that times commits
        monitor: muted for large commits, and told to keep port ids before a socket is closed
        Raises HostError where libnftables is missing or can't access nf_tables.
        """
        try:
            import nftables  # noqa: PLC0415 - the Debian package may be missing, which is an answer of its own
        except ImportError:
            raise HostError("python3-nftables is missing", hint=INSTALL_HINT) from None
        self._reserve = DescriptorReserve()
        self._open: Callable[[], Any] = with_reserve(nftables.Nftables, self._reserve)
        self._monitor = monitor
        self._context: Any = None
        try:
            self._context = self._opened()
        except KernelError as error:
            self._reserve.close()
            raise HostError(error.reason, hint=error.hint) from None
        except OSError as error:
            self._reserve.close()
            raise HostError(f"cannot load libnftables ({error})", hint=INSTALL_HINT) from None
        self._elements = elements or NftSocket()
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nftables")
        # Calls that the thread runs or has queued, those included whose caller was cancelled.
        self._submitted: set[Future[Any]] = set()
        self._monotonic = monotonic
        self._last_seconds = math.inf  # duration of the last short text's commit
        self._version = ""  # of libnftables, as its listings state it
        self._variants = ListingVariants()
        # The last comparison found foreign objects; the kernel refused to remove only them.
        self._removing = self._anew = False
        self._grown = False  # whether larger sets of flows were requested

    async def read(self) -> Ruleset:
        """Return the ruleset in the table. Raises KernelError, HostError."""
        return await self._in_thread(self.read_now)

    async def difference(self, wanted: Ruleset) -> Transaction:
        """Read the table and return the transaction that makes it equal to `wanted`. Raises KernelError, HostError.

        Listing and comparing a large table takes seconds, in the worker thread.
        """
        return await self._in_thread(self._difference_now, wanted)

    async def apply(self, transaction: Transaction) -> None:
        """Commit a transaction, in several phases where packets see no difference. Raises KernelError, HostError.

        After an error the contents of the table are unknown. Few elements are committed on the event loop, and few
        commands too while libnftables is fast: that costs less than a thread switch. A batch of elements that exceeds
        the send buffer is committed by libnftables, whose socket buffer grows.
        """
        async with self._turn:
            try:
                for phase in split_for_commit(transaction):
                    await self._commit(phase)
            except KernelError:
                self._anew = self._removing
                raise
            self._anew = self._removing = False

    async def accept_variants(self, wanted: Ruleset, repair: Transaction) -> tuple[str, ...]:
        """Return objects that this nft lists differently than `repair` wrote them, and accept these listings.

        Raises KernelError, HostError.
        """
        return await self._in_thread(self._listed_otherwise_now, wanted, changed_objects(repair))

    def as_written(self, listed: Ruleset, wanted: Ruleset) -> Ruleset:
        """Return a listing without accepted listing variants and without the sizes of sets of flows."""
        return self._variants.as_written(with_desired_sizes(listed, wanted), wanted)

    async def counters(self) -> dict[str, CounterValue]:
        """Return the values of named counters. Raises KernelError, HostError."""
        return await self._in_thread(self.counters_now)

    async def run_commands(self, call: Callable[[Callable[[str], str]], _T]) -> _T:
        """Call a function that runs commands by libnftables, in the worker thread, between transactions."""
        async with self._turn:
            return await self._in_thread(self.run_commands_now, call)

    def run_commands_now(self, call: Callable[[Callable[[str], str]], _T]) -> _T:
        """Call a function that runs commands by libnftables, in this thread."""
        return call(self._run)

    def check_now(self, text: str) -> None:
        """Check commands by a dry run of libnftables. Raises KernelError, HostError."""
        self._context.set_dry_run(True)
        try:
            self._run(text)
        finally:
            self._context.set_dry_run(False)

    def close(self) -> None:
        """End the worker thread and close the sockets."""
        self._thread.shutdown(wait=True)
        self._elements.close()
        self._reserve.close()

    def read_now(self, known: Ruleset = ABSENT) -> Ruleset:
        """Read the table in this thread; objects equal to one of `known` are returned as that one."""
        text = self._list(f"list table {TABLE_FAMILY} {TABLE}")
        if text is not None and (found := _VERSION.search(text, 0, 200)) is not None:
            self._version = found[1]
        return ABSENT if text is None else _with_flags(_listed(partial(parse_listing, known=known), text))

    def apply_now(self, transaction: Transaction) -> None:
        """Commit in this thread."""
        self._run(transaction_text(transaction))

    def counters_now(self) -> dict[str, CounterValue]:
        """Read counters in this thread."""
        text = self._list(f"list counters table {TABLE_FAMILY} {TABLE}")
        return {} if text is None else _listed(lambda listing: parse_counters(msgspec.json.decode(listing)), text)

    async def _commit(self, phase: Transaction) -> None:
        if not is_elements_only(phase):
            await self._commit_structure(phase)
            return
        try:
            if sum(len(command.elements) for command in phase) <= _AT_ONCE:
                self._elements.commit(phase)
            else:
                await self._in_thread(self._commit_large, self._elements.commit, phase)
        except UnsentError:
            await self._in_thread(self._commit_large, self.apply_now, phase)

    async def _commit_structure(self, phase: Transaction) -> None:
        text = transaction_text(phase) if _is_short(phase) else None
        if text is None or len(text) > _SHORT_TEXT:
            await self._in_thread(self._commit_large, self.apply_now, phase)
        elif self._last_seconds < _QUICK_SECONDS and not self._submitted:
            self._timed(text)  # the thread is idle, and gets no call before this returns
        else:
            await self._in_thread(self._timed, text)

    def _commit_large(self, commit: Callable[[Transaction], None], phase: Transaction) -> None:
        try:
            with nullcontext() if self._monitor is None else self._monitor.muted():
                commit(phase)
        finally:
            # For a large transaction, libnftables allocates as much memory as for a listing of it.
            if len(phase) > _SHORT_COMMANDS:
                malloc_trim()

    def _timed(self, text: str) -> None:
        started = self._monotonic()
        try:
            self._run(text)
        finally:
            self._last_seconds = self._monotonic() - started

    async def _in_thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        submitted = self._thread.submit(call, *arguments)
        self._submitted.add(submitted)
        # Runs when the call has returned or was dropped, not when its caller was cancelled.
        submitted.add_done_callback(self._submitted.discard)
        return await asyncio.wrap_future(submitted)

    def _difference_now(self, wanted: Ruleset) -> Transaction:
        flags = flags_of_table()
        if flags is None:
            # Nothing to read, no memory to trim: packets pass unfiltered until the table is written.
            self._removing = False
            return diff(ABSENT, wanted)
        if flags & (TABLE_OWNER | TABLE_PERSIST) == TABLE_PERSIST:
            # Not read: nft 1.0.6 doesn't know this flag and lists another. The table is replaced in one transaction.
            return diff(_PERSISTENT, wanted)
        try:
            cleared = self._clear_flags_now(flags)
            read = self.read_now(wanted)
            self._grow_now(read, wanted)
            found = self.as_written(read, wanted)
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
                self.apply_now(diff(with_listed_objects(first, wanted, names), wanted))
                second = self.as_written(self.read_now(wanted), wanted)
                if generation() == began + 1 and same_objects(first, second, names):
                    self._variants.accept(second, wanted, names)
                    return tuple(f"{name} (nft {self._version})" for name in describe_objects(names))
            return ()
        finally:
            malloc_trim()

    def _clear_flags_now(self, flags: int) -> Transaction:
        """Clear flags such as `dormant`; return the command that did, so that connections are re-checked.

        To be done before the table is listed: nft 1.0.6 may truncate the JSON listing of a table with flags.
        """
        if flags & TABLE_OWNER:
            raise HostError(_OWNED, hint=_OWNER_HINT)
        if not flags:
            return ()
        self.apply_now((AddTable(),))
        return (AddTable(),)

    def _grow_now(self, listed: Ruleset, wanted: Ruleset) -> None:
        """Resize sets of flows that are too small, once; a kernel that refuses keeps their size."""
        commands = () if self._grown else resize_commands(listed, wanted)
        self._grown = True
        if commands:
            with suppress(KernelError):
                self.apply_now(commands)

    def _opened(self) -> Any:  # noqa: ANN401 - the library is untyped
        require_netlink()
        context = self._open()
        context.set_json_output(True)
        return context

    def _replace_context(self) -> None:
        """Replace the context: libnftables caches a listing, a kilobyte per element, until the next one."""
        if self._monitor is not None:
            self._monitor.own_ports.keep()  # a notification of this socket's last commit may still be unread
        self._context = None  # first: malloc can then reuse its memory for the next one
        with suppress(KernelError, HostError, OSError):  # the next call tries again, and raises
            self._context = self._opened()
        malloc_trim()

    def _list(self, command: str) -> str | None:
        try:
            return self._run(command)
        except KernelError as error:
            if _ABSENT_MESSAGE in str(error):
                return None
            raise
        finally:
            self._replace_context()

    def _run(self, command: str) -> str:
        if self._context is None:
            try:
                self._context = self._opened()
            except OSError as reason:
                raise KernelError(f"cannot open libnftables again: {reason}") from None
        status, output, error = self._context.cmd(command)
        if status != 0:
            if _DENIED_MESSAGE in error:
                raise HostError(NEEDS_ROOT, hint=AS_ROOT)
            raise KernelError(_first_line(error))
        return str(output)


def _is_short(phase: Transaction) -> bool:
    """Return whether a phase is small enough to render it as text on the event loop."""
    elements = sum(
        len(command.elements) for command in phase if isinstance(command, ChangeElements | ChangeMapElements)
    )
    return len(phase) <= _SHORT_COMMANDS and elements <= _AT_ONCE


def _first_line(error: str) -> str:
    """Return libnftables' first error, and the command that it is about, as one line."""
    lines = [line.strip() for line in error.strip().splitlines() if line.strip(" ^~")]
    return " | ".join(lines[:2])[:500] or "libnftables failed without a message"


def check_owner() -> None:
    """Raise HostError where the table belongs to another process, which alone may change it."""
    if table_flags() & TABLE_OWNER:
        raise HostError(_OWNED, hint=_OWNER_HINT)


def _with_flags(listed: Ruleset) -> Ruleset:
    """Add the flag `persist` to a listing; only deleting the table clears it, and nft 1.0.6 doesn't know its name."""
    if TABLE_FLAGS not in listed.foreign or not table_flags() & TABLE_PERSIST:
        return listed
    return msgspec.structs.replace(listed, foreign=listed.foreign | {TABLE_PERSISTS})


def _listed(parse: Callable[[str], _T], text: str) -> _T:
    """Parse a listing. Raises KernelError, for flags too: nft 1.0.6 truncates the listing of a table with flags."""
    try:
        return _decoded(parse, text)
    except KernelError:
        flags = table_flags()
        if not flags:
            raise
        if flags & TABLE_OWNER:
            raise KernelError(_OWNED, hint=_OWNER_HINT) from None
        raise KernelError(f"{FLAGGED}, and this nft can't list it", hint=UNFLAGGED) from None


def _decoded(parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except WireError as error:
        raise KernelError(str(error)) from None
    except msgspec.DecodeError as error:
        raise KernelError(f"the output of libnftables is not JSON: {error}") from None
