"""Finds the first packet with a changed verdict, by a small C program: Python's own time would distort the figure.

    with Prober(client_netns, server_netns, "10.244.1.10") as prober:
        prober.watch(blocked=True)          # returns when packets pass, and are observed
        written = change_the_policy()       # time.monotonic() at the change
        first = prober.first()
        print((first.fresh - written) * 1e3, "ms to the first packet that was blocked")

`watch_source` does the same for the source address with which packets arrive after translation. The program runs at a
real-time priority, some microseconds at a time.
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from nfagent.errors import KernelError
from nfagent.lab.machine.requirements import compiled

SOURCE = Path(__file__).with_name("prober.c")
INTERVAL_US = 200
"""Between two packets of a connection."""

SILENT = 150
"""Packets in a row that don't arrive, until packets count as blocked: 30 ms."""

_PORT = 5353
_PATIENCE_MS = 10_000
_END_SECONDS = 5.0
_NS = 1e9


class NoVerdictError(KernelError):
    """No packet met the expected verdict in time."""


class First(msgspec.Struct, frozen=True):
    """The first packet with the new verdict. Times are seconds, `fresh` and `live` by time.monotonic().

    fresh: of a connection that conntrack considers new
    live:  of one that was established before; where packets are to pass, the same as `fresh`
    gap:   since the last packet with the previous verdict: the accuracy of `fresh`
    """

    fresh: float
    live: float
    gap: float


class Prober:
    """A sender and its receiver, which send during watches only; a context manager that ends them."""

    def __init__(self, client: str, server: str, address: str, silent: int = SILENT) -> None:
        """Keep the network namespaces of two Pods, and the server's IPv4 address.

        silent: packets in a row that don't arrive, until packets count as blocked
        """
        self._arguments = [client, server, address, str(_PORT), str(INTERVAL_US), str(silent)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Compile and start it. Raises HostError without a compiler, KernelError with its message."""
        with tempfile.TemporaryDirectory(prefix="nfagent-prober-") as folder:
            program = str(compiled(SOURCE, Path(folder)))
            self._process = subprocess.Popen(
                [program, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Unbuffered: select wouldn't report a line that Python had read ahead.
                bufsize=0,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, by closing its standard input."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running().pid

    def watch(self, *, blocked: bool) -> None:
        """Send until packets are blocked, or pass; return when they meet the other verdict.

        Raises KernelError where they don't within ten seconds.
        """
        self._tell(f"{'blocked' if blocked else 'passed'} {_PATIENCE_MS}")
        if self._line() != "ready":
            raise KernelError(f"packets {'are blocked' if blocked else 'pass'} before the change that is to do it")

    def watch_source(self, address: str) -> None:
        """Send until packets arrive from a source address; return when they arrive from another one.

        Raises KernelError where they don't within ten seconds.
        """
        self._tell(f"seen {_PATIENCE_MS} {address}")
        if self._line() != "ready":
            raise KernelError(f"packets arrive from {address} before the change that is to do it")

    def first(self) -> First:
        """Wait for the new verdict, and stop sending. Raises NoVerdictError where none came within ten seconds."""
        fresh, live, gap = (int(word) / _NS for word in self._line().split())
        if not fresh:
            raise NoVerdictError(f"no packet met the new verdict within {_PATIENCE_MS / 1e3:.0f} s")
        return First(fresh, live, gap)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise KernelError("the prober isn't running: use it in a `with` block")
        return self._process

    def _tell(self, command: str) -> None:
        process = self._running()
        if process.stdin is not None:
            # Where it has ended, reading the next line reports its message.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{command}\n".encode())

    def _line(self) -> str:
        process = self._running()
        line = ""
        if process.stdout is not None and select.select([process.stdout], [], [], 2 * _PATIENCE_MS / 1e3)[0]:
            line = process.stdout.readline().decode().strip()
        if not line:
            process.kill()
            complaint = process.stderr.read().decode().strip() if process.stderr else ""
            raise KernelError(f"the prober has ended: {complaint or 'it said nothing'}")
        return line
