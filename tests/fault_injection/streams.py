"""Numbered UDP packets every millisecond, and which of them were let through or dropped wrongly.

    with Streams(topology, flows) as streams:
        streams.change_begins()          # from here on until `change_ends` both verdicts are right for what changes
        ...
        streams.change_ends()
        streams.stop()
    assert streams.wrong() == []

Packets are counted by the kernel on the receiver's interface, after all rules on their path. A packet on a connection
without an answer is new to conntrack, however many came before: each passes all rules. A live connection was answered.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec

from nfagent.errors import KernelError
from nfagent.lab.probes.packet_counter import PacketCounter
from nfagent.lab.topology import netns
from tests.fault_injection import sender

Verdict: TypeAlias = Literal["allowed", "forbidden", "closing", "opening"]
"""closing: allowed before the change and forbidden after it. opening: the reverse"""

_SETTLED_SECONDS = 0.05
_ANSWER_SECONDS = 20.0
_FIRST_PACKETS = 100
_DRAIN_SECONDS = 0.1
_NUMBER = struct.Struct("!I")
_COUNT = struct.Struct("=Q")


class PlannedFlow(msgspec.Struct, frozen=True, kw_only=True):
    """Packets from a client to a server's port; client and server are network namespaces, address the server's.

    live: the server answers once, so that conntrack has an established connection before the try begins
    """

    client: str
    server: str
    address: str
    port: int
    verdict: Verdict
    live: bool = False

    def __str__(self) -> str:
        """Return it as `closing live 8003`."""
        return f"{self.verdict} {'live' if self.live else 'new'} to port {self.port}"


class _Stream:
    """One flow: the times of its packets, and the numbers of those that arrived."""

    _ports = itertools.cycle(range(20_000, 30_000))
    """Of clients: another for each, as they identify a flow's packets at the server, and its conntrack entry."""

    def __init__(self, flow: PlannedFlow, times: mmap.mmap, index: int) -> None:
        self.flow = flow
        self._times, self._at = times, index * sender.BLOCK
        self._server = netns.inside(flow.server, lambda: _bound(flow.port))
        self._client = netns.inside(flow.client, lambda: _bound(next(self._ports)))
        self._client.connect((flow.address, flow.port))
        self._counter = PacketCounter(flow.server, 4, "udp", self._client.getsockname()[1])
        if flow.live:
            try:
                self._greet()
            except OSError:
                self.close()
                raise

    def _greet(self) -> None:
        # Numbers of packets start at 1: this one isn't counted.
        self._client.settimeout(_ANSWER_SECONDS)
        self._server.settimeout(_ANSWER_SECONDS)
        self._client.send(_NUMBER.pack(0))
        _, caller = self._server.recvfrom(_NUMBER.size)
        self._server.sendto(_NUMBER.pack(0), caller)
        self._client.recv(_NUMBER.size)

    @property
    def descriptor(self) -> int:
        """The socket to send on."""
        return self._client.fileno()

    @property
    def sent(self) -> int:
        """How many packets were sent."""
        return int(_COUNT.unpack_from(self._times, self._at)[0])

    @property
    def sent_at(self) -> tuple[float, ...]:
        """When each was sent."""
        return struct.unpack_from(f"={self.sent}d", self._times, self._at + _COUNT.size)

    def drain(self) -> None:
        self._counter.read_pending()

    def arrived(self) -> frozenset[int]:
        """Return the numbers of the packets that arrived."""
        return frozenset(number for _, number in self._counter.arrivals() if number > 0)

    def close(self) -> None:
        self._counter.close()
        self._client.close()
        self._server.close()


class Streams:
    """All flows of a try, on which a process sends in turn; a context manager that ends them."""

    def __init__(self, flows: tuple[PlannedFlow, ...]) -> None:
        """Open the flows. Raises OSError where a live one gets no answer."""
        self._streams: list[_Stream] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drain, name="numbered packets", daemon=True)
        self._memory = os.memfd_create("numbered packets")
        os.truncate(self._memory, max(1, len(flows)) * sender.BLOCK)
        self._times = mmap.mmap(self._memory, 0)
        self._sender: subprocess.Popen[bytes] | None = None
        self._begun = self._ended = float("inf")
        try:
            for index, flow in enumerate(flows):
                self._streams.append(_Stream(flow, self._times, index))
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        """Start sending."""
        descriptors = [stream.descriptor for stream in self._streams]
        times = f"/proc/self/fd/{self._memory}"
        # At real-time priority from its start on: on a busy machine the start alone would take seconds.
        command = ["chrt", "--fifo", "1", sys.executable, "-I", sender.__file__, times, *map(str, descriptors)]
        self._sender = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[*descriptors, self._memory])
        self._thread.start()
        end = time.monotonic() + _ANSWER_SECONDS
        while any(stream.sent < _FIRST_PACKETS for stream in self._streams):
            if time.monotonic() > end:
                raise KernelError(f"the sender of packets hasn't begun after {_ANSWER_SECONDS:g} s")
            time.sleep(_DRAIN_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop sending, and close the sockets."""
        self.stop()
        self._close()

    def stop(self) -> None:
        """Stop sending, and wait for what is on its way."""
        if not self._stop.is_set():
            self._stop.set()
            if self._sender is not None:
                self._sender.communicate()
            self._thread.join()
            time.sleep(_SETTLED_SECONDS)

    def change_begins(self) -> None:
        """From now on both verdicts are right for what closes and opens."""
        self._begun = time.monotonic()

    def change_ends(self) -> None:
        """From now on only the new verdicts are right."""
        self._ended = time.monotonic()

    @property
    def ended_at(self) -> float:
        """When only the new verdicts became right, by time.monotonic()."""
        return self._ended

    @property
    def packets(self) -> int:
        """How many packets were sent."""
        return sum(stream.sent for stream in self._streams)

    @property
    def spacing(self) -> float:
        """The median of the seconds between two packets of a flow."""
        sent = self._streams[0].sent_at
        gaps = sorted(after - before for before, after in itertools.pairwise(sent))
        return gaps[len(gaps) // 2] if gaps else 0.0

    def in_force_at(self) -> float:
        """Return when the last packet with the old verdict was sent, after `stop`; 0.0 where there was none."""
        return max((self._old_verdict_at(stream) for stream in self._streams), default=0.0)

    def _old_verdict_at(self, stream: _Stream) -> float:
        arrived, verdict = stream.arrived(), stream.flow.verdict
        if verdict not in {"closing", "opening"}:
            return 0.0
        old = (at for n, at in enumerate(stream.sent_at, 1) if (n in arrived) == (verdict == "closing"))
        return max(old, default=0.0)

    def wrong(self) -> list[str]:
        """Return a line for each flow with packets that met the wrong verdict, after `stop`. Raises KernelError."""
        return [line for stream in self._streams if (line := self._wrong(stream))]

    @property
    def wrong_packets(self) -> int:
        """How many packets met the wrong verdict, after `stop`."""
        return sum(len(numbers) for stream in self._streams for numbers in self._wrong_numbers(stream))

    def _wrong_numbers(self, stream: _Stream) -> tuple[list[int], list[int]]:
        """Return the numbers that passed though forbidden, and those that are missing though allowed."""
        arrived = stream.arrived()
        passed, missing = [], []
        for number, at in enumerate(stream.sent_at, 1):
            right = self._right(stream.flow.verdict, at)
            if right is True and number not in arrived:
                missing.append(number)
            elif right is False and number in arrived:
                passed.append(number)
        return passed, missing

    def _right(self, verdict: Verdict, at: float) -> bool | None:
        """Return whether a packet of that time must pass; None where both is right."""
        if verdict in {"allowed", "forbidden"}:
            return verdict == "allowed"
        if at < self._begun - _SETTLED_SECONDS:
            return verdict == "closing"
        return verdict == "opening" if at > self._ended else None

    def _wrong(self, stream: _Stream) -> str:
        passed, missing = self._wrong_numbers(stream)
        parts = []
        for numbers, what in ((passed, "passed"), (missing, "missing")):
            if numbers:
                sent = stream.sent_at
                first, last = (sent[number - 1] - self._begun for number in (numbers[0], numbers[-1]))
                parts.append(f"{len(numbers)} {what}, sent {first:+.3f} to {last:+.3f} s from the change")
        return f"{stream.flow}: {'; '.join(parts)}" if parts else ""

    def _drain(self) -> None:
        # Of this thread: a packet socket that is read too late overflows.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        while not self._stop.wait(_DRAIN_SECONDS):
            for stream in self._streams:
                stream.drain()

    def _close(self) -> None:
        for stream in self._streams:
            stream.close()
        self._times.close()
        os.close(self._memory)


def _bound(port: int) -> socket.socket:
    """Open a UDP socket of this network namespace on a port; what it receives is never read but once."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(("0.0.0.0", port))  # noqa: S104 - in a namespace of the lab
    except OSError as error:
        opened.close()
        raise KernelError(f"port {port}: {error}") from error
    return opened
