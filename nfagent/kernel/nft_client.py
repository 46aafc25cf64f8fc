"""The kernel's nftables through libnftables: one context, one table, one call at a time.

Transactions go as nft text, all or nothing; listings come as JSON. Only `inet nfagent` is named here
(`kernel/bridge_table.py` names `bridge nfagent`), in the network namespace that the process runs in.
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
from nfagent.kernel.nft_library import require_netlink, reserving
from nfagent.kernel.nft_monitor import NftMonitor, flags_of_table, generation, table_flags
from nfagent.kernel.set_elements import NEEDS_ROOT, SetElementSocket, UnsentError
from nfagent.netlink.nft_elements import is_elements_only
from nfagent.netlink.nft_events import TABLE_OWNER, TABLE_PERSIST
from nfagent.nftables.diff import diff
from nfagent.nftables.listing_variants import ListingVariant, NamedObject, alike, differing, in_words, only, written
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
from nfagent.nftables.set_sizes import growing, sized
from nfagent.nftables.transaction import (
    AddTable,
    ChangeElements,
    ChangeMapElements,
    Transaction,
    phases,
    transaction_text,
)
from nfagent.nftables.unknown_objects import is_clean
from nfagent.system.descriptors import DescriptorReserve
from nfagent.system.gc_tuning import give_back

_T = TypeVar("_T")
_ABSENT_MESSAGE = "No such file or directory"
_DENIED_MESSAGE = "Operation not permitted"
_AT_ONCE = 256
"""Elements that are committed on the event loop: a millisecond of the kernel's work at most."""
_VERSION = re.compile(r'"version": ?"([^"]*)"')
_OWNED = (
    f"table {TABLE_FAMILY} {TABLE} belongs to another process (flags owner), which alone may change it; "
    f"end that process: `nft list table {TABLE_FAMILY} {TABLE}` names it"
)
_WORDING_TRIES = 3
"""Others commit to their tables meanwhile, and nothing is certain then."""
_SHORT_TEXT = 16 * 1024
_SHORT_COMMANDS = 256
_QUICK_SECONDS = 0.003
"""Short text goes on the event loop while the last one took less: handing it to the thread would cost as much again."""

_PERSISTENT = Ruleset(foreign=frozenset((TABLE_FLAGS, TABLE_PERSISTS)))

INSTALL_HINT = "apt-get install python3-nftables nftables"


class NftClient:
    """Reads and changes the table, in the one worker thread, or on the event loop while nothing is handed to that.

    Satisfies reconcile.Kernel.
    """

    def __init__(
        self,
        elements: SetElementSocket | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        drift: NftMonitor | None = None,
    ) -> None:
        """Load libnftables; `elements`, made where none is given, is closed with it; `monotonic` times commits.

        drift: is told which commits are ours
        Raises MachineError where libnftables is missing, or can't speak to this kernel.
        """
        try:
            import nftables  # noqa: PLC0415 - the Debian package may be missing, which is an answer of its own
        except ImportError:
            raise HostError(f"python3-nftables is missing; run: {INSTALL_HINT}") from None
        self._reserve = DescriptorReserve()
        self._open: Callable[[], Any] = reserving(nftables.Nftables, self._reserve)
        self._drift = drift
        self._context: Any = None
        try:
            self._context = self._opened()
        except KernelError as error:
            self._reserve.close()
            raise HostError(str(error)) from None
        except OSError as error:
            self._reserve.close()
            raise HostError(f"libnftables can't be loaded ({error}); run: {INSTALL_HINT}") from None
        self._elements = elements or SetElementSocket(reopened=self._leave_out_own)
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nftables")
        # What the thread is at, or will be; who was waiting for it may have given up meanwhile.
        self._handed: set[Future[Any]] = set()
        self._monotonic = monotonic
        self._last_seconds = math.inf  # of the last short text's commit
        self._version = ""  # of the library, as it says in its listings
        self._wording = ListingVariant()
        # The last comparison found something foreign; and the kernel refused to have only that removed.
        self._removing = self._anew = False
        self._grown = False  # sets of flows that an earlier start made smaller

    async def read(self) -> Ruleset:
        """Give what the table holds. Raises KernelError."""
        return await self._in_thread(self.read_now)

    async def difference(self, wanted: Ruleset) -> Transaction:
        """Give what would make the table equal to `wanted`. Raises KernelError.

        A large table takes seconds to list and compare: that is the thread's work, not the event loop's.
        """
        return await self._in_thread(self._difference_now, wanted)

    async def apply(self, transaction: Transaction) -> None:
        """Commit a transaction, in phases where packets can't tell. Raises KernelError: then read what there is.

        A few elements go at once, on the event loop, and so do a few commands while libnftables is quick about them:
        that takes less than handing them to the thread. Where there is no room for a batch of elements, libnftables
        takes it: its socket grows with what it has to send.
        """
        async with self._turn:
            try:
                for phase in phases(transaction):
                    await self._commit(phase)
            except KernelError:
                self._anew = self._removing
                raise
            self._anew = self._removing = False

    async def listed_otherwise(self, wanted: Ruleset, repair: Transaction) -> tuple[str, ...]:
        """Name what this nft lists otherwise than `repair` has just written it. Raises KernelError, MachineError."""
        return await self._in_thread(self._listed_otherwise_now, wanted, written(repair))

    def as_written(self, listed: Ruleset, wanted: Ruleset) -> Ruleset:
        """Give a listing without what only nft's wording makes different, or how large sets of flows are."""
        return self._wording.as_written(sized(listed, wanted), wanted)

    async def counters(self) -> dict[str, CounterValue]:
        """Give the named counters' values. Raises KernelError."""
        return await self._in_thread(self.counters_now)

    async def by_text(self, call: Callable[[Callable[[str], str]], _T]) -> _T:
        """Let a call run commands by libnftables, in the thread, while no transaction is under way."""
        async with self._turn:
            return await self._in_thread(self.by_text_now, call)

    def by_text_now(self, call: Callable[[Callable[[str], str]], _T]) -> _T:
        """Let a call run commands in this thread."""
        return call(self._run)

    def try_now(self, text: str) -> None:
        """Have the kernel check commands, and take none of them. Raises KernelError, MachineError."""
        self._context.set_dry_run(True)
        try:
            self._run(text)
        finally:
            self._context.set_dry_run(False)

    def close(self) -> None:
        """End the worker thread."""
        self._thread.shutdown(wait=True)
        self._elements.close()
        self._reserve.close()

    def read_now(self, known: Ruleset = ABSENT) -> Ruleset:
        """Read in this thread; what is equal to something of `known` is given as that."""
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
        elif self._last_seconds < _QUICK_SECONDS and not self._handed:
            self._timed(text)  # the thread has nothing to do, and gets nothing before this returns
        else:
            await self._in_thread(self._timed, text)

    def _commit_large(self, commit: Callable[[Transaction], None], phase: Transaction) -> None:
        try:
            with nullcontext() if self._drift is None else self._drift.unheard():
                commit(phase)
        finally:
            # Of a large policy that comes or goes, libnftables takes as much memory as a listing of it.
            if len(phase) > _SHORT_COMMANDS:
                give_back()

    def _timed(self, text: str) -> None:
        started = self._monotonic()
        try:
            self._run(text)
        finally:
            self._last_seconds = self._monotonic() - started

    async def _in_thread(self, call: Callable[..., _T], *arguments: object) -> _T:
        handed = self._thread.submit(call, *arguments)
        self._handed.add(handed)
        # Called when the call has returned, or will never begin; not when its waiter gives up.
        handed.add_done_callback(self._handed.discard)
        return await asyncio.wrap_future(handed)

    def _difference_now(self, wanted: Ruleset) -> Transaction:
        flags = flags_of_table()
        if flags is None:
            # Nothing to read, nor to give back: packets pass until the table is there again.
            self._removing = False
            return diff(ABSENT, wanted)
        if flags & (TABLE_OWNER | TABLE_PERSIST) == TABLE_PERSIST:
            # Unread: nft 1.0.6 can't name this flag, and lists something else. All of it goes at one moment.
            return diff(_PERSISTENT, wanted)
        try:
            woken = self._wake_now(flags)
            read = self.read_now(wanted)
            self._grow_now(read, wanted)
            found = self.as_written(read, wanted)
            self._removing = found.exists and not is_clean(found, wanted)
            return woken + diff(found, wanted, anew=self._anew)
        finally:
            # What was read is as large as the table, and nobody needs it any more.
            give_back()

    def _listed_otherwise_now(self, wanted: Ruleset, names: frozenset[NamedObject]) -> tuple[str, ...]:
        """Write once more what is listed otherwise: nobody else's doing where it stays, and nobody else committed."""
        try:
            for _ in range(_WORDING_TRIES):
                began = generation()
                first = self.as_written(self.read_now(wanted), wanted)
                names = differing(first, wanted, names)
                if not names:
                    return ()
                self.apply_now(diff(only(first, wanted, names), wanted))
                second = self.as_written(self.read_now(wanted), wanted)
                if generation() == began + 1 and alike(first, second, names):
                    self._wording.note(second, wanted, names)
                    return tuple(f"{words} (nft {self._version})" for words in in_words(names))
            return ()
        finally:
            give_back()

    def _wake_now(self, flags: int) -> Transaction:
        """Take flags such as `dormant` from the table; give the command that does, as packets have passed meanwhile.

        This can't wait for the comparison: nft 1.0.6 may cut a listing as JSON short where a table has flags.
        """
        if flags & TABLE_OWNER:
            raise HostError(_OWNED)
        if not flags:
            return ()
        self.apply_now((AddTable(),))
        return (AddTable(),)

    def _grow_now(self, listed: Ruleset, wanted: Ruleset) -> None:
        """Ask once for sets of flows that are as large as they shall be; a kernel that can't leaves them."""
        commands = () if self._grown else growing(listed, wanted)
        self._grown = True
        if commands:
            with suppress(KernelError):
                self.apply_now(commands)

    def _opened(self) -> Any:  # noqa: ANN401 - the library is untyped
        require_netlink()
        context = self._open()
        context.set_json_output(True)
        if self._drift is not None:
            # The library's socket gets its port id with its first request. This one asks for tables and flowtables;
            # `list tables` would ask for every set's elements too (nft 1.0.6), and keep them.
            context.cmd("list flowtables")
            self._leave_out_own()
        return context

    def _leave_out_own(self) -> None:
        if self._drift is not None:
            self._drift.leave_out_own()

    def _forget(self) -> None:
        """Have libnftables forget a listing: it keeps a kilobyte an element until it sees another one."""
        self._context = None  # first, so that the next one's memory isn't put behind what goes
        with suppress(KernelError, HostError, OSError):  # whoever needs it next tries again, and says so
            self._context = self._opened()
        give_back()

    def _list(self, command: str) -> str | None:
        try:
            return self._run(command)
        except KernelError as error:
            if _ABSENT_MESSAGE in str(error):
                return None
            raise
        finally:
            self._forget()

    def _run(self, command: str) -> str:
        if self._context is None:
            try:
                self._context = self._opened()
            except OSError as reason:
                raise KernelError(f"libnftables can't be opened again: {reason}") from None
        status, output, error = self._context.cmd(command)
        if status != 0:
            if _DENIED_MESSAGE in error:
                raise HostError(NEEDS_ROOT)
            raise KernelError(_first_line(error))
        return str(output)


def _is_short(phase: Transaction) -> bool:
    """Tell whether writing a phase as text is quick, so that its length can be looked at."""
    elements = sum(
        len(command.elements) for command in phase if isinstance(command, ChangeElements | ChangeMapElements)
    )
    return len(phase) <= _SHORT_COMMANDS and elements <= _AT_ONCE


def _first_line(error: str) -> str:
    """Keep libnftables' first complaint, and the command that it is about, on one line."""
    lines = [line.strip() for line in error.strip().splitlines() if line.strip(" ^~")]
    return " | ".join(lines[:2])[:500] or "libnftables failed without saying why"


def owner_of_table() -> str:
    """Say that the table belongs to another process, which alone may change it; '' where it doesn't."""
    return _OWNED if table_flags() & TABLE_OWNER else ""


def _with_flags(listed: Ruleset) -> Ruleset:
    """Add to a listing which flag it is that only goes with the table: nft 1.0.6 doesn't know its name."""
    if TABLE_FLAGS not in listed.foreign or not table_flags() & TABLE_PERSIST:
        return listed
    return msgspec.structs.replace(listed, foreign=listed.foreign | {TABLE_PERSISTS})


def _listed(parse: Callable[[str], _T], text: str) -> _T:
    """Read a listing; one that can't be read may be of a table with flags, which nft 1.0.6 cuts short."""
    try:
        return _decoded(parse, text)
    except KernelError:
        flags = table_flags()
        if not flags:
            raise
        told = _OWNED if flags & TABLE_OWNER else f"{FLAGGED} ({UNFLAGGED}), and this nft can't list it"
        raise KernelError(told) from None


def _decoded(parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except WireError as error:
        raise KernelError(str(error)) from None
    except msgspec.DecodeError as error:
        raise KernelError(f"libnftables answered something that is no JSON: {error}") from None
