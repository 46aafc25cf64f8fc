"""Keeps the bridge table (`nftables/bridge_table.py`) in the kernel: at the start, and when it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import msgspec

from nfagent.errors import HostError, KernelError, WireError
from nfagent.kernel.table_queries import generation
from nfagent.nftables.bridge_table import BRIDGE_TABLE, EXPECTED, REMOVAL, TABLE_TEXT, BridgeTableListing, parse_frames

log = logging.getLogger(__name__)
_T = TypeVar("_T")
Run: TypeAlias = Callable[[str], str]
"""Has libnftables run commands, and gives its answer."""
_ABSENT_MESSAGE = "No such file or directory"
_TRIES = 3
PASSING = "frames that Pods on a bridge send with VLAN tags, PPPoE and the like pass the rules by"


class TextCommands(Protocol):
    """What runs commands on the kernel's tables."""

    async def by_text(self, call: Callable[[Run], _T]) -> _T:
        """Let a call run commands while no transaction is under way."""
        ...


class BridgeTableState(msgspec.Struct, frozen=True):
    """How it stands.

    state:   'dropped', 'passed' as the settings say, or 'unknown', with its problem
    dropped: frames counted since the table was made
    """

    state: Literal["dropped", "passed", "unknown"]
    dropped: int = 0
    problem: str = ""


class BridgeTableReconciler:
    """Keeps frames that can't be judged dropped, or their table away where the settings let them pass."""

    def __init__(self, commands: TextCommands, *, dropping: bool) -> None:
        """Do nothing yet."""
        self._commands = commands
        self._dropping = dropping
        self._worded: tuple[bytes, ...] = EXPECTED
        self._suspected = False
        self._changed = asyncio.Event()
        self._state = BridgeTableState("unknown", problem="not looked at yet")

    def changed(self) -> None:
        """Say that somebody may have changed the table; it is looked at after the next `proceed`."""
        self._suspected = True

    def proceed(self) -> None:
        """Say that the rules, which come first, are right again."""
        if self._suspected:
            self._changed.set()

    async def run(self, seconds: float = 60.0) -> None:
        """Look now, whenever `changed` and then `proceed` say so, and every so many seconds, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            self._changed.clear()
            self._suspected = False
            began = clock()
            await self.look()
            # Who changes tables without end has this looked at for a tenth of the time.
            await asyncio.sleep((clock() - began) * 9)
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Make the table what it must be. A kernel that refuses is a line in the log, once."""
        before = self._state.problem
        try:
            self._state = await self._commands.by_text(self._look_now)
        except (KernelError, HostError, WireError) as error:
            self._state = BridgeTableState("unknown", problem=str(error))
            if str(error) != before:
                log.warning("%s: %s", PASSING, error)

    def status(self) -> dict[str, Any]:
        """Give what `look` found last, for `dump state`."""
        return {"table": BRIDGE_TABLE, **msgspec.to_builtins(self._state)}

    def _look_now(self, run: Run) -> BridgeTableState:
        if not self._dropping:
            if remove_frames(run):
                log.info("removed table %s: the settings let such frames pass", BRIDGE_TABLE)
            return BridgeTableState("passed")
        found = read_frames(run)
        if found is None or found.objects not in (EXPECTED, self._worded):
            if self._state.state == "dropped":
                log.warning("table %s was changed by somebody else; it is made anew", BRIDGE_TABLE)
            found = self._write_now(run)
        return BridgeTableState("dropped", found.dropped or 0)

    def _write_now(self, run: Run) -> BridgeTableListing:
        for _ in range(_TRIES):
            before = generation()
            run(TABLE_TEXT)
            found = read_frames(run)
            if found is not None and found.objects == EXPECTED:
                return found
            if found is not None and generation() == before + 1:
                # Nobody else has committed: these are this nft's words for what was written.
                self._worded = found.objects
                return found
        raise KernelError(f"somebody else changes table {BRIDGE_TABLE} again and again; it is tried again")


def remove_frames(run: Run) -> bool:
    """Delete the table; tell whether there was one. Raises KernelError, MachineError."""
    found = read_frames(run)
    if found is not None:
        run(REMOVAL)
    return found is not None


def read_frames(run: Run) -> BridgeTableListing | None:
    """Read the table; None where there is none. What can't be read isn't ours. Raises KernelError, MachineError."""
    try:
        text = run(f"list table {BRIDGE_TABLE}")
    except KernelError as error:
        if _ABSENT_MESSAGE in str(error):
            return None
        raise
    try:
        return parse_frames(text)
    except WireError:
        return BridgeTableListing(())
