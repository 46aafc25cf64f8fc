"""The reader of stdout: where it leaves, a command that waits for something to write ends at once."""

from __future__ import annotations

import os
import select
import stat
import sys
import threading

from nfagent.cli import INTERRUPTED


def end_with_reader() -> None:
    """Let the process end once the reader of stdout, a pipe, has gone; elsewhere the next write tells.

    Without it `nfagent logs -f | head -1` would wait for a record that has no reader.
    """
    try:
        out = sys.stdout.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(out).st_mode)
    except (OSError, ValueError):
        return
    if is_pipe:
        threading.Thread(target=_end_without_reader, args=(out,), daemon=True, name="reader of stdout").start()


def _end_without_reader(out: int) -> None:
    watched = select.poll()
    watched.register(out, 0)  # POLLERR is told in any case
    if any(events & select.POLLERR for _, events in watched.poll()):
        os._exit(INTERRUPTED)
