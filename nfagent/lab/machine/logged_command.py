"""Runs a command until it exits: each line of its output goes to a log and to a callback.

The command has a session of its own, so Ctrl-C reaches it only through this process, with which it ends also after
SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from nfagent.system.interrupts import deferred_interrupts


def run_logged(
    command: Sequence[str],
    log: TextIO,
    on_line: Callable[[str], None],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    end_signals: Sequence[signal.Signals],
    end_seconds: float,
) -> int:
    """Run a command and return its exit code; end it and its children where an exception interrupts this.

    on_line:     called with each line of its standard output and standard error
    end_signals: how it is ended: the next one is sent where it still runs `end_seconds` after the previous one
    """
    with deferred_interrupts():
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        for line in process.stdout or ():
            log.write(line)
            log.flush()
            on_line(line)
        return process.wait()
    except BaseException:
        _end(process, end_signals, end_seconds)
        raise
    finally:
        if process.stdout:
            process.stdout.close()


def _end(process: subprocess.Popen[str], signals: Sequence[signal.Signals], seconds: float) -> None:
    for number in signals:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
