"""The live table of `nfagent top`, on a terminal. Only this module imports rich, which takes 0.1 s.

A thread asks the agent, so that a key is answered at once; the terminal is as it was before on every way out.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nfagent.cli import INTERRUPTED
from nfagent.cli.count_sampler import CountSampler
from nfagent.cli.packet_rates import SORT_KEYS, CountRow, CountSample, SortKey, ordered, row_cells, uncounted
from nfagent.cli.tables import coloured
from nfagent.model.printable import printable
from nfagent.system.interrupts import interrupting

_KEYS: dict[str, SortKey] = {key[0]: key for key in SORT_KEYS}
_LEAVE = {"q", "Q", "\x1b"}
_WIDE, _NARROW = 78, 56
_FIXED_LINES = 5
"""Lines beside the rows: title, remark, two headers, keys."""
_LEAST_ROWS = 1


class TopScreen:
    """What is on the screen: the last sample, how it is sorted, and what became of the agent since."""

    def __init__(self, by: SortKey) -> None:
        """Start without a sample."""
        self.by = by
        self.sample: CountSample | None = None
        self._trouble = ""
        self._trouble_since = 0.0

    def take(self, found: CountSample | str, now: float) -> None:
        """Take a sample, or why there is none: the last one stays then."""
        if isinstance(found, str):
            self._trouble_since = self._trouble_since if self._trouble else now
            self._trouble = found
        else:
            self.sample, self._trouble = found, ""

    def render(self, width: int, height: int, now: float) -> RenderableType:
        """Return the screen for a size of the terminal."""
        parts: list[RenderableType] = [self._title(), self._remark(now)]
        if self.sample is not None:
            room = max(2 * _LEAST_ROWS, height - _FIXED_LINES)
            pods, policies = self.sample.pods, self.sample.policies
            for_policies = min(len(policies), max(room // 2, room - len(pods)))
            parts.append(_table("POD", ordered(pods, self.by), width, max(_LEAST_ROWS, room - for_policies)))
            parts.append(_table("POLICY", ordered(policies, self.by), width, max(_LEAST_ROWS, for_policies)))
        parts.append(
            Text(f"q leaves; sorted by {self.by}: d denied, a allowed, n name", overflow="ellipsis", no_wrap=True)
        )
        return Group(*parts)

    def _title(self) -> Text:
        sample = self.sample
        words = "nfagent top" if sample is None else f"nfagent {sample.version}, node {sample.node}"
        span = f", rates of {sample.seconds:.1f} s" if sample is not None and sample.seconds else ""
        return Text(printable(f"{words}{span}"), style="bold", overflow="ellipsis", no_wrap=True)

    def _remark(self, now: float) -> Text:
        if self._trouble:
            words = f"for {now - self._trouble_since:.0f} s: {self._trouble}"
        elif self.sample is None:
            words = "the agent is asked"
        else:
            words = self.sample.problem or uncounted(self.sample)
        return Text(printable(words), style="yellow", overflow="ellipsis", no_wrap=True)


def _table(title: str, rows: list[CountRow], width: int, most: int) -> Table:
    """Return a table of the first rows; in a narrow terminal without the totals."""
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True, header_style="bold")
    shown = [0, 1, 2, 3, 4, 5, 6] if width >= _WIDE else [0, 1, 2, 3, 4, 5] if width >= _NARROW else [0, 1, 3, 5]
    names = ["", "DIR", "ALLOWED", "/S", "DENIED", "/S", "AUDITED"]
    if width < _NARROW:
        names[3], names[5] = "ALLOW/S", "DENY/S"
    more = f" ({most} of {len(rows)})" if len(rows) > most else ""
    table.add_column(f"{title}{more}", ratio=1, no_wrap=True, overflow="ellipsis")
    for column in shown[1:]:
        table.add_column(names[column], justify="left" if column == 1 else "right", no_wrap=True)
    for row in rows[:most]:
        cells = list(row_cells(row))
        style = "red" if row.denied_rate else ""
        table.add_row(*(Text(printable(cells[column]), style=style if column else "") for column in shown))
    return table


def show_live(sampler: CountSampler, samples: int | None, by: SortKey) -> int:
    """Show the table until a key or a signal ends it; return the exit code."""
    screen = TopScreen(by)
    came: list[CountSample | str] = []
    ready, wake = os.pipe()
    os.set_blocking(wake, False)

    def ask() -> None:
        for found in sampler.samples(samples):
            came.append(found)
            os.write(wake, b".")
        os.write(wake, b"e")

    code = INTERRUPTED
    console = Console(no_color=not coloured(), highlight=False)
    with ExitStack() as stack:
        stack.enter_context(interrupting())
        # An OSError: the terminal is gone. No user is there to be told.
        stack.enter_context(suppress(OSError, termios.error))
        stack.enter_context(_keys())
        live = stack.enter_context(Live(console=console, screen=True, auto_refresh=False))
        threading.Thread(target=ask, daemon=True).start()
        code = _run(screen, console, live, came, ready)
    return code  # noqa: RET504 - the stack may end what would set it


def _run(screen: TopScreen, console: Console, live: Live, came: list[CountSample | str], ready: int) -> int:
    while True:
        size = console.size
        live.update(screen.render(size.width, size.height, time.monotonic()), refresh=True)
        # A second at most: the size may have changed, and the time of what is wrong goes on.
        readable = select.select([sys.stdin, ready], [], [], 1.0)[0]
        ended = ready in readable and b"e" in os.read(ready, 4096)
        while came:
            screen.take(came.pop(0), time.monotonic())
        if sys.stdin in readable:
            typed = os.read(sys.stdin.fileno(), 64).decode(errors="replace")
            if not typed:
                return INTERRUPTED  # the terminal is gone
            if typed[0] in _LEAVE and typed[:2] != "\x1b[":
                return 0
            screen.by = _KEYS.get(typed[0].lower(), screen.by)
        if ended:
            live.update(screen.render(size.width, size.height, time.monotonic()), refresh=True)
            return 0


@contextmanager
def _keys() -> Iterator[None]:
    """Have keys arrive at once and unseen, until the end."""
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield
    finally:
        with suppress(termios.error, OSError):
            termios.tcsetattr(number, termios.TCSADRAIN, before)
