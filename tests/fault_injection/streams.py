"""Numbered UDP packets every millisecond, and which of them were let through or dropped wrongly.

    with Streams(topology, flows) as streams:
        streams.change_begins()          # from here on until `change_ends` both verdicts are right for what changes
        ...
        streams.change_ends()
        streams.stop()
    assert streams.wrong() == []

Packets are counted by the kernel on the receiver's interface, after all rules on their path. Each names its connection:
ports don't, as clients in two namespaces may have the same. A packet on a connection without an answer is new to
conntrack, however many came before: each passes all rules. A live connection was answered.
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
from typing import Self

import msgspec

from nfagent.errors import KernelError
from nfagent.lab.probes.packet_counter import PacketCounter
from nfagent.lab.topology import netns
from tests.fault_injection import sender
from tests.fault_injection.packet_verdicts import (
    Change,
    Verdict,
    WrongPackets,
    describe,
    last_of_old,
    longest_gap,
    wrong_packets,
)

_SETTLED_SECONDS = 0.05
_ANSWER_SECONDS = 20.0
_FIRST_PACKETS = 100
_DRAIN_SECONDS = 0.1
_COUNT = struct.Struct("=Q")


class PlannedFlow(msgspec.Struct, frozen=True, kw_only=True):
    """Packets from a client to a server's port; client and server are network namespaces, address the server's.

    live:        the server answers once, so that conntrack has an established connection before the try begins
    client_port: 0 for one that no other connection of the process has
    """

    client: str
    server: str
    address: str
    port: int
    verdict: Verdict
    live: bool = False
    client_port: int = 0

    def __str__(self) -> str:
        """Return it as `closing live 8003`."""
        return f"{self.verdict} {'live' if self.live else 'new'} to port {self.port}"


class _Stream:
    """One flow: the times of its packets, and the numbers of those that arrived."""

    _ports = itertools.cycle(range(20_000, 30_000))
    """Of clients: another for each, as each has a conntrack entry of its own."""

    def __init__(self, flow: PlannedFlow, times: mmap.mmap, index: int) -> None:
        self.flow = flow
        self._times, self._index, self._at = times, index, index * sender.BLOCK
        self._server = netns.inside(flow.server, lambda: _bound(flow.port))
        self._client = netns.inside(flow.client, lambda: _bound(flow.client_port or next(self._ports)))
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
        greeting = sender.content(self._index, 0)
        self._client.settimeout(_ANSWER_SECONDS)
        self._server.settimeout(_ANSWER_SECONDS)
        self._client.send(greeting)
        _, caller = self._server.recvfrom(len(greeting))
        self._server.sendto(greeting, caller)
        self._client.recv(len(greeting))

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
        """Return the numbers of this flow's packets that arrived."""
        found = (sender.flow_and_number(content) for _, content in self._counter.arrivals() if content >= 0)
        return frozenset(number for flow, number in found if flow == self._index and number > 0)

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
        self._begun = self._ended = self._stopped = float("inf")
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
        try:
            self._await_first_packets()
        except KernelError:
            self.stop()
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop sending, and close the sockets."""
        self.stop()
        self._close()

    def _await_first_packets(self) -> None:
        end = time.monotonic() + _ANSWER_SECONDS
        while any(stream.sent < _FIRST_PACKETS for stream in self._streams):
            if time.monotonic() > end:
                raise KernelError(f"the sender of packets hasn't begun after {_ANSWER_SECONDS:g} s")
            time.sleep(_DRAIN_SECONDS)

    def stop(self) -> None:
        """Stop sending, and wait for what is on its way."""
        if not self._stop.is_set():
            self._stop.set()
            self._stopped = time.monotonic()
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
    def sender_pid(self) -> int:
        """The id of the process that sends; 0 before."""
        return self._sender.pid if self._sender is not None else 0

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

    def longest_gap(self) -> float:
        """Return the most seconds without a packet of a flow, after `stop`."""
        return max((longest_gap(stream.sent_at, self._stopped) for stream in self._streams), default=0.0)

    def in_force_at(self) -> float:
        """Return when the last packet with the old verdict was sent, after `stop`; 0.0 where there was none."""
        found = (last_of_old(one.flow.verdict, one.sent_at, one.arrived()) for one in self._streams)
        return max(found, default=0.0)

    def wrong(self) -> list[str]:
        """Return a line for each flow with packets that met the wrong verdict, after `stop`.

        Raises KernelError where packets weren't counted, or not sent until the end: those are unknown, not right.
        """
        self._require_sender()
        change = self._change
        found = ((stream, describe(self._wrong(stream), stream.sent_at, change)) for stream in self._streams)
        return [f"{stream.flow}: {words}" for stream, words in found if words]

    @property
    def wrong_packets(self) -> int:
        """How many packets met the wrong verdict, after `stop`."""
        return sum(self._wrong(stream).count for stream in self._streams)

    @property
    def _change(self) -> Change:
        return Change(begun=self._begun, ended=self._ended)

    def _wrong(self, stream: _Stream) -> WrongPackets:
        return wrong_packets(stream.flow.verdict, stream.sent_at, stream.arrived(), self._change)

    def _require_sender(self) -> None:
        if self._sender is not None and self._sender.returncode != 0:
            raise KernelError(f"the sender of packets ended early, with {self._sender.returncode}")

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
