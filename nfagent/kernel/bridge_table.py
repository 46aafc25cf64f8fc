"""Keeps the bridge table (`nftables/bridge_table.py`) in the kernel: writes it at the start and after a change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from nfagent.errors import HostError, KernelError, UnlistableError, WireError
from nfagent.kernel.table_queries import generation
from nfagent.netlink.nft_messages import NFPROTO_BRIDGE
from nfagent.nftables.bridge_table import (
    BRIDGE_FAMILY,
    BRIDGE_TABLE,
    FRAMES,
    REMOVAL,
    REPLACEMENT,
    BridgeTableListing,
    parse_bridge_table,
)
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.transaction import Transaction

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_TRIES = 3
NOT_FILTERED = "tagged and encapsulated frames (VLAN, QinQ, PPPoE, MPLS) between Pods on a bridge are not filtered"


class KernelTables(Protocol):
    """Lists and changes table nfagent of a family, in this thread."""

    def list_now(self, family: str) -> str | None:
        """Return the JSON listing of the table, None without it. Raises UnlistableError, KernelError, HostError."""
        ...

    def commit_now(self, transaction: Transaction, *, family: int) -> None:
        """Commit a transaction on the table. Raises KernelError, HostError."""
        ...


class TableClient(Protocol):
    """Gives access to the kernel's tables in a thread."""

    async def with_table(self, call: Callable[[KernelTables], _T]) -> _T:
        """Call a function in the thread of large commits; small ones go on meanwhile. Return its result."""
        ...


class Repairs(Protocol):
    """Records the repairs of all tables, and spaces them: controllers.drift_backoff."""

    def repaired(self, now: float, *, program: str = "", unit: str = "", exposed: float = 0.0) -> bool:
        """Record a repair; return whether it is the one that makes the tables contested."""
        ...

    def repaired_after(self, at: float) -> bool:
        """Return whether there was a repair after a time."""
        ...

    def next_repair(self, now: float) -> float:
        """Return the monotonic time of the next repair."""
        ...

    def contest(self, now: float) -> object | None:
        """Return the contest, as text by `str`; None without one."""
        ...


class BridgeTableState(msgspec.Struct, frozen=True):
    """The last known state of the bridge table.

    state:   'dropped', 'passed' as configured, or 'unknown' with its problem
    dropped: frames counted since the table was written
    """

    state: Literal["dropped", "passed", "unknown"]
    dropped: int = 0
    problem: str = ""


class BridgeTableReconciler:
    """Keeps the table that drops frames which no rule can filter; removes it where the settings let them pass."""

    def __init__(self, client: TableClient, repairs: Repairs, *, dropping: bool) -> None:
        """Store the arguments; `run` and `refresh` access the kernel."""
        self._client = client
        self._repairs = repairs
        self._dropping = dropping
        self._accepted: Ruleset = FRAMES  # as this nft lists the table
        self._dirty = self._rewritten = self._looked = False
        self._dirty_at = self._repaired_at = 0.0
        self._changer = self._changer_unit = ""
        self._changed = asyncio.Event()
        self._state = BridgeTableState("unknown", problem="not read yet")

    def mark_changed(self, by: str = "", unit: str = "") -> None:
        """Mark the table as changed by another program; it is compared after the next `compare_if_changed`.

        by, unit: as for Reconciler.mark_changed
        """
        if not self._dirty:
            self._dirty_at = time.monotonic()
        self._dirty = True
        if by and not self._changer:
            self._changer, self._changer_unit = by, unit

    @property
    def is_marked(self) -> bool:
        """Return whether a change by another program was reported and not compared yet."""
        return self._dirty

    def compare_if_changed(self) -> None:
        """Start the comparison of a changed table: table inet nfagent, which takes precedence, is in sync."""
        if self._dirty:
            self._changed.set()

    async def run(self, seconds: float = 60.0) -> None:
        """Compare now, after `mark_changed` and `compare_if_changed`, and every so many seconds, until cancelled."""
        while True:
            self._changed.clear()
            began = time.monotonic()
            await self.refresh()
            # A program that changes tables without end makes this take a tenth of the time at most.
            ended = time.monotonic()
            await asyncio.sleep(max((ended - began) * 9, self._repairs.next_repair(ended) - ended))
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def refresh(self) -> None:
        """Compare the table and write it where it differs. A refusal by the kernel is logged once."""
        before = self._state.problem
        exposed_since, self._dirty = self._dirty_at if self._dirty else time.monotonic(), False
        changer, unit = self._changer, self._changer_unit
        self._changer = self._changer_unit = ""
        try:
            self._looked = True
            self._state = await self._client.with_table(self._refresh_now)
            if self._rewritten:
                self._note_repair(changer, unit, exposed_since)
        except (KernelError, HostError, WireError) as error:
            self._state = BridgeTableState("unknown", problem=str(error))
            if str(error) != before:
                log.warning("%s: %s; retrying", NOT_FILTERED, error)

    @property
    def problem(self) -> str:
        """Why frames aren't dropped that should be; '' without a problem, and before the first look."""
        return self._state.problem if self._looked else ""

    def status(self) -> dict[str, Any]:
        """Return the last known state, for `dump state`."""
        return {"table": BRIDGE_TABLE, **msgspec.to_builtins(self._state)}

    def _note_repair(self, changer: str, unit: str, exposed_since: float) -> None:
        now = time.monotonic()
        level = logging.WARNING if self._repairs.contest(now) is None else logging.DEBUG
        log.log(level, "table %s changed by %s; wrote it again", BRIDGE_TABLE, changer or "another program")
        if self._repairs.repaired_after(max(exposed_since, self._repaired_at)):
            return  # one change of both tables, as a flush is: counted with table inet
        self._repaired_at = now
        if self._repairs.repaired(now, program=changer, unit=unit, exposed=now - exposed_since):
            log.warning("%s; from now on repairs are spaced", self._repairs.contest(now))

    def _refresh_now(self, tables: KernelTables) -> BridgeTableState:
        self._rewritten = False
        if not self._dropping:
            if remove_bridge_table(tables):
                log.info("removed table %s: bridges.unjudged_frames is 'passed'", BRIDGE_TABLE)
            return BridgeTableState("passed")
        try:
            found = read_bridge_table(tables)
        except UnlistableError as error:
            log.warning("%s; the table is written anew", error)
            found = None
        if found is None or found.ruleset not in (FRAMES, self._accepted):
            found = self._write_now(tables)
            self._rewritten = self._state.state == "dropped"
        return BridgeTableState("dropped", found.dropped or 0)

    def _write_now(self, tables: KernelTables) -> BridgeTableListing:
        for _ in range(_TRIES):
            before = generation()
            tables.commit_now(REPLACEMENT, family=NFPROTO_BRIDGE)
            found = read_bridge_table(tables)
            if found is not None and found.ruleset == FRAMES:
                return found
            if found is not None and generation() == before + 1:
                # No other program has committed: this is how this nft lists what was written.
                self._accepted = found.ruleset
                return found
        raise KernelError(f"another program keeps changing table {BRIDGE_TABLE}")


def remove_bridge_table(tables: KernelTables) -> bool:
    """Delete the table; return whether it existed. Raises KernelError, HostError."""
    try:
        found = tables.list_now(BRIDGE_FAMILY) is not None
    except UnlistableError:
        found = True
    if found:
        tables.commit_now(REMOVAL, family=NFPROTO_BRIDGE)
    return found


def read_bridge_table(tables: KernelTables) -> BridgeTableListing | None:
    """Return the table, None without it; an unreadable listing is empty.

    Raises UnlistableError, KernelError, HostError.
    """
    text = tables.list_now(BRIDGE_FAMILY)
    try:
        return None if text is None else parse_bridge_table(text)
    except WireError:
        return BridgeTableListing(Ruleset())
