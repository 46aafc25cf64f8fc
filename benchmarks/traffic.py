"""Traffic between network namespaces, by a small C program: where Python would be what is measured.

Both ends run on one core, so a packet's whole way is paid for there: rates compare what it costs, and other work of
the machine moves them less than it moves two ends that wait for each other.

with Traffic() as traffic, traffic.serving(server_netns, "10.244.1.11"):
with traffic.client(client_netns, "10.244.1.11") as client:
print(client.stream(0.5), "Gbit/s", client.connections(0.5), "connections a second")
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from nfagent.errors import KernelError, MachineError

PORT = 5201
"""Short connections and datagrams; streams go to the next port."""

SOURCE = Path(__file__).with_name("traffic.c")
PROGRAM = "traffic"
PARALLEL = 8
_PATIENCE = 20.0


class Traffic:
    """The program, compiled for as long as the block lasts."""

    def __init__(self) -> None:
        """Plan it."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        """Compile it. Raises MachineError without a compiler, KernelError with its complaint."""
        if shutil.which("gcc") is None:
            raise MachineError("the rows about packets need a C compiler: apt-get install gcc libc6-dev")
        self._folder = tempfile.TemporaryDirectory(prefix="nfagent-traffic-")
        command = ["gcc", "-O2", "-Wall", "-Werror", "-o", str(Path(self._folder.name) / PROGRAM), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - ours
        if done.returncode:
            self._folder.cleanup()
            raise KernelError(f"gcc can't compile {SOURCE}: {done.stderr.strip()[:2000]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it."""
        if self._folder is not None:
            self._folder.cleanup()

    @contextmanager
    def serving(self, netns: str, address: str) -> Iterator[None]:
        """Serve on an address of a network namespace inside the block. Raises KernelError."""
        with self._running(netns, "serve", address) as process:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise KernelError(f"no server on {address} in {netns}: {_complaint(process)}")
            yield

    @contextmanager
    def client(self, netns: str, address: str) -> Iterator[Client]:
        """Start a client of such a server, which waits for what it is to send. Raises KernelError."""
        with self._running(netns, "client", address) as process:
            yield Client(process, f"{netns} to {address}")

    @contextmanager
    def _running(self, netns: str, role: str, address: str) -> Iterator[subprocess.Popen[str]]:
        if self._folder is None:
            raise KernelError("the traffic program isn't compiled: use it in a `with` block")
        command = ["ip", "netns", "exec", netns, str(Path(self._folder.name) / PROGRAM), role, address, str(PORT)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:  # noqa: S603 - ours
            try:
                os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
                yield process
            finally:
                # It ends when its standard input does, also when this process is killed.
                if process.stdin:
                    process.stdin.close()
                try:
                    process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()


class Client:
    """A client that runs: it sends when it is told to, and waits meanwhile."""

    def __init__(self, process: subprocess.Popen[str], words: str) -> None:
        """Speak to the process; words say between whom, for errors."""
        if process.stdin is None or process.stdout is None:
            raise KernelError("a traffic client needs pipes")
        self._process = process
        self._input, self.output = process.stdin, process.stdout
        self._words = words

    def stream(self, seconds: float) -> float:
        """Send on one TCP connection, the same each time; give the throughput in Gbit/s. Raises KernelError."""
        self._tell(f"stream {round(seconds * 1000)}")
        return self._rate() * 8 / 1e9

    def connections(self, seconds: float) -> float:
        """Connect, a byte each way, close, eight at a time; give connections a second. Raises KernelError."""
        self._tell(f"connect {round(seconds * 1000)} {PARALLEL}")
        return self._rate()

    def send_datagrams(self, seconds: float, a_second: int) -> None:
        """Start to send UDP at an even rate, and return at once: `answer` tells how many, `output` when it can."""
        self._tell(f"datagrams {round(seconds * 1000)} {a_second}")

    def answer(self) -> tuple[int, int]:
        """Wait for what a command came to: a count, and nanoseconds. Raises KernelError."""
        words = ""
        if select.select([self.output], [], [], _PATIENCE)[0]:
            words = self.output.readline()
        if not words:
            self._process.kill()
            raise KernelError(f"traffic from {self._words} got stuck: {_complaint(self._process) or 'is it denied?'}")
        count, nanoseconds = map(int, words.split())
        return count, nanoseconds

    def _tell(self, command: str) -> None:
        try:
            self._input.write(f"{command}\n")
            self._input.flush()
        except BrokenPipeError:
            raise KernelError(f"traffic from {self._words} has ended: {_complaint(self._process)}") from None

    def _rate(self) -> float:
        count, nanoseconds = self.answer()
        return count / nanoseconds * 1e9


def _complaint(process: subprocess.Popen[str]) -> str:
    return process.stderr.read().strip() if process.stderr else ""
