"""Traffic between network namespaces, by a small C program: Python's own time would distort the figures.

Both ends run on one core, and rates are per CPU second of them and that core's softirq thread: this includes a packet's
whole path, and excludes other load of the machine. On an idle core these are rates by the clock.

Example:
    with Traffic() as traffic, traffic.pair(client_netns, server_netns, "10.244.1.11") as client:
        print(client.stream(0.5), client.connections(0.5))

"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from nfagent.errors import KernelError
from nfagent.lab.machine.patience import patient
from nfagent.lab.machine.requirements import compiled

PORT = 5201
"""Port of short connections and datagrams; streams use the next one."""

SOURCE = Path(__file__).with_name("traffic_rates.c")
PARALLEL = 8
_PATIENCE = patient(20.0)


class Traffic:
    """The compiled program; a context manager that removes it."""

    def __init__(self) -> None:
        """Compile nothing yet."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        """Compile it. Raises HostError without a compiler, KernelError with its message."""
        self._folder = tempfile.TemporaryDirectory(prefix="nfagent-traffic-")
        try:
            compiled(SOURCE, Path(self._folder.name))
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it."""
        if self._folder is not None:
            self._folder.cleanup()

    @contextmanager
    def pair(self, netns: str, server_netns: str, address: str) -> Iterator[Client]:
        """Start a server on an address of a network namespace, and a client of it. Raises KernelError."""
        with self._running(server_netns, "serve", address) as server:
            if server.stdout is None or server.stdout.readline() != "ready\n":
                raise KernelError(f"no server on {address} in {server_netns}: {_complaint(server)}")
            with self._running(netns, "client", address) as process:
                yield Client(process, f"{netns} to {address}", (server.pid,))

    @contextmanager
    def client(self, netns: str, address: str) -> Iterator[Client]:
        """Start a client without a server: it can send datagrams. Raises KernelError."""
        with self._running(netns, "client", address) as process:
            yield Client(process, f"{netns} to {address}")

    @contextmanager
    def _running(self, netns: str, role: str, address: str) -> Iterator[subprocess.Popen[str]]:
        if self._folder is None:
            raise KernelError("the traffic program isn't compiled: use it in a `with` block")
        command = ["ip", "netns", "exec", netns, str(Path(self._folder.name) / SOURCE.stem), role, address, str(PORT)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                os.sched_setaffinity(process.pid, {_core()})
                yield process
            finally:
                # It ends when its standard input is closed, also when this process is killed.
                if process.stdin:
                    process.stdin.close()
                try:
                    process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()


class Client:
    """A running client: it sends on command."""

    def __init__(self, process: subprocess.Popen[str], words: str, others: tuple[int, ...] = ()) -> None:
        """Keep the process; words: its ends, for errors; others: processes whose CPU time is added."""
        if process.stdin is None or process.stdout is None:
            raise KernelError("a traffic client needs pipes")
        self._process = process
        self._input, self.output = process.stdin, process.stdout
        self._words = words
        self._counted = (process.pid, *others, *_softirq_threads())

    def stream(self, seconds: float) -> float:
        """Send on one TCP connection until all has been read; return Gbit per CPU second. Raises KernelError."""
        return self._rate(f"stream {round(seconds * 1000)}") * 8 / 1e9

    def connections(self, seconds: float) -> float:
        """Connect, a byte each way, close, eight at a time; return connections per CPU second. Raises KernelError."""
        return self._rate(f"connect {round(seconds * 1000)} {PARALLEL}")

    def stream_bits(self, seconds: float) -> float:
        """Send on one TCP connection until all has been read; return bits per second. Raises KernelError."""
        self._tell(f"stream {round(seconds * 1000)}")
        count, nanoseconds = self.answer()
        return count * 8 / nanoseconds * 1e9

    def connection_rate(self, seconds: float) -> float:
        """Connect as `connections` does; return connections per second. Raises KernelError."""
        self._tell(f"connect {round(seconds * 1000)} {PARALLEL}")
        count, nanoseconds = self.answer()
        return count / nanoseconds * 1e9

    def packet_cpu_ns(self, seconds: float, a_second: int) -> float:
        """Send UDP at an even rate; return the CPU time of a packet, in ns, from sender to receiver.

        Raises KernelError.
        """
        before = self._used_ns()
        self.send_datagrams(seconds, a_second)
        count, _nanoseconds = self.answer(seconds)
        return (self._used_ns() - before) / max(count, 1)

    def send_datagrams(self, seconds: float, a_second: int, *, scatter: bool = False) -> None:
        """Start to send UDP at an even rate, and return at once: `answer` returns the count.

        scatter: each to a random port
        """
        self._tell(f"{'scatter' if scatter else 'datagrams'} {round(seconds * 1000)} {a_second}")

    def answer(self, seconds: float = 0.0) -> tuple[int, int]:
        """Wait for the result of a command that takes so long: a count, and nanoseconds. Raises KernelError."""
        words = ""
        if select.select([self.output], [], [], seconds + _PATIENCE)[0]:
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

    def _rate(self, command: str) -> float:
        before = self._used_ns()
        self._tell(command)
        count, _nanoseconds = self.answer()
        return count / (self._used_ns() - before) * 1e9

    def _used_ns(self) -> int:
        # Exact while they sleep, as before a command and after its result.
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0]) for pid in self._counted)


def _core() -> int:
    return max(os.sched_getaffinity(0))


def _softirq_threads() -> list[int]:
    """Return the kernel thread that processes packets of the core under load."""
    wanted = f"ksoftirqd/{_core()}"
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        # A process may end while processes are listed.
        with suppress(OSError):
            if path.read_text("utf-8").strip() == wanted:
                found.append(int(path.parent.name))
    return found


def _complaint(process: subprocess.Popen[str]) -> str:
    return process.stderr.read().strip() if process.stderr else ""
