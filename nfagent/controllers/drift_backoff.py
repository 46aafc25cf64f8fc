"""Spaces the repairs of a table that another program changes again and again, and names that program.

The first repairs follow their change at once. Then repairs are spaced: the spacing doubles with each repair, up to a
tenth of a second, and counts from the repair before. So a program that changes the table less than ten times a second
is still repaired at once: a longer spacing would leave the table open for most of the time, and save little. Repairs
of large tables are spaced by what they cost (`reconciler`: 5 % of the time). Without repairs, the spacing ends.

The table is *contested* while it was repaired five times within two minutes.

Pure: the caller passes monotonic times, in seconds.
"""

from __future__ import annotations

from collections import deque

import msgspec

from nfagent.model.plurals import counted

WINDOW_SECONDS = 120.0
"""Repairs of the last two minutes count."""
CONTESTED_REPAIRS = 5
"""So many repairs of the window make the table contested."""
REPAIRS_AT_ONCE = 10
"""So many repairs of the window follow their changes without spacing."""
FIRST_SPACING = 0.0125
MAX_SPACING = 0.1
"""The spacing of repairs in seconds, after the first one that is spaced, and at most."""

_REMEMBERED = REPAIRS_AT_ONCE + 3
"""Repairs after which the spacing doesn't grow any more."""


class TableContest(msgspec.Struct, frozen=True, kw_only=True):
    """A program that keeps changing the table, and the repairs so far.

    program: the last one that was heard of, as 'nft (process 4711)'; '' for an unknown one
    unit:    its systemd unit or cgroup, as far as one was found while it ran; '' otherwise
    repairs: number of repairs since the contest began
    seconds: from the first of these repairs to the last
    exposed_seconds: of these, how long the table was known to be changed and not repaired yet
    spacing: least time between two repairs now, in seconds
    """

    program: str
    unit: str
    repairs: int
    seconds: float
    exposed_seconds: float
    spacing: float

    @property
    def who(self) -> str:
        """Return the program with its unit: 'nft (process 4711) of nftables.service'."""
        who = self.program or "another program"
        return f"{who} of {self.unit}" if self.unit else who

    @property
    def who_in_short(self) -> str:
        """Return the same without the process, which differs with each run of a program."""
        who = _name(self.program) or "another program"
        return f"{who} of {self.unit}" if self.unit else who

    def __str__(self) -> str:
        """Return who contests the table, and how often it was repaired."""
        share = min(1.0, self.exposed_seconds / self.seconds) if self.seconds else 0.0
        return (
            f"{self.who} keeps changing nfagent's rules: {counted(self.repairs, 'repair')} in {self.seconds:.0f} s, "
            f"open for {share:.0%} of the time"
        )


class DriftTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What metrics tell of changes by other programs.

    contested:       whether a program keeps changing the table
    contests:        number of contests since the start
    exposed_seconds: how long the table was known to be changed and not repaired yet, since the start
    """

    contested: bool = False
    contests: int = 0
    exposed_seconds: float = 0.0


def spacing_after(repairs: int) -> float:
    """Return the least seconds between two repairs, after so many of them in the window."""
    spaced = min(repairs, _REMEMBERED) - REPAIRS_AT_ONCE
    return 0.0 if spaced < 0 else min(MAX_SPACING, FIRST_SPACING * 2.0**spaced)


def _name(program: str) -> str:
    """Return a program without its process, which differs with each run."""
    return program.partition(" (process ")[0]


class DriftBackoff:
    """The repairs of the last two minutes, and the contest that they are part of."""

    def __init__(self) -> None:
        """Start without a repair."""
        self._exposed_seconds = 0.0
        self._contests = 0
        self._repairs: deque[float] = deque(maxlen=_REMEMBERED)
        self._contested = False
        self._ended: TableContest | None = None
        # Of the repairs since the window was last empty:
        self._began = self._last = 0.0
        self._count = 0
        self._exposed = 0.0
        self._program = self._unit = ""

    def repaired(self, now: float, *, program: str = "", unit: str = "", exposed: float = 0.0) -> bool:
        """Record a repair; return whether it is the one that makes the table contested.

        program, unit: as in TableContest; '' keeps what was known: most programs end before their unit can be read
        exposed:       seconds from the notification of the change to the repair
        """
        self._expire(now)
        if not self._repairs:
            self._began, self._count, self._exposed = now - exposed, 0, 0.0
            self._program = self._unit = ""
        self._repairs.append(now)
        self._last = now
        self._count += 1
        self._exposed += exposed
        self._exposed_seconds += exposed
        if program:
            same = _name(program) == _name(self._program)
            self._program, self._unit = program, unit or (self._unit if same else "")
        began = not self._contested and len(self._repairs) >= CONTESTED_REPAIRS
        self._contested = self._contested or began
        self._contests += began
        return began

    def repaired_after(self, at: float) -> bool:
        """Return whether there was a repair after a time."""
        return bool(self._repairs) and self._last > at

    def next_repair(self, now: float) -> float:
        """Return the monotonic time of the next repair, which has passed where it may follow at once."""
        self._expire(now)
        return self._last + spacing_after(len(self._repairs))

    def contest(self, now: float) -> TableContest | None:
        """Return the contest, None while the table isn't contested."""
        self._expire(now)
        return self._found() if self._contested else None

    def totals(self, now: float) -> DriftTotals:
        """Return what happened since the start."""
        self._expire(now)
        return DriftTotals(contested=self._contested, contests=self._contests, exposed_seconds=self._exposed_seconds)

    def ended(self, now: float) -> TableContest | None:
        """Return the contest that has ended since the last call, None without one."""
        self._expire(now)
        ended, self._ended = self._ended, None
        return ended

    def _found(self) -> TableContest:
        return TableContest(
            program=self._program,
            unit=self._unit,
            repairs=self._count,
            seconds=self._last - self._began,
            exposed_seconds=self._exposed,
            spacing=spacing_after(len(self._repairs)),
        )

    def _expire(self, now: float) -> None:
        while self._repairs and self._repairs[0] <= now - WINDOW_SECONDS:
            self._repairs.popleft()
        if self._contested and len(self._repairs) < CONTESTED_REPAIRS:
            self._contested, self._ended = False, self._found()
