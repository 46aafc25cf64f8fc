"""The NFLOG source with a real kernel: records of log statements arrive complete, and lost ones are counted."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from uuid import uuid4

import pytest
from pyroute2 import netns

from nfagent.errors import HostError
from nfagent.kernel.nflog import NflogSource
from nfagent.netlink.nflog import LoggedPacket
from nfagent.netlink.packet_header import PacketHead, decode_head

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]

GROUP = 77
PORT = 4242
SOURCE_PORT = 40_000
DEADLINE = 60.0
RULES = f"""
table inet logged {{
    chain input {{
        type filter hook input priority filter
        udp dport {PORT} log group {GROUP} prefix "3f:ingress:deny"
    }}
}}
"""
AHEAD = 10_000
"""Packets that the kernel holds for a reader that has no CPU for a second: the sender is never so many ahead of it."""
BATCH = 50
# Arguments: packets, packets a second. Each carries its number. A sink is bound, so that nothing answers. From the
# first AHEAD on, each batch waits for a byte: one of the first was read.
SENDER = f"""
import socket, sys, time
count, rate, batch = int(sys.argv[1]), int(sys.argv[2]), {BATCH}
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind(("127.0.0.1", {PORT}))
source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
source.connect(("127.0.0.1", {PORT}))
start = time.monotonic()
for first in range(0, count, batch):
    if first >= {AHEAD}:
        sys.stdin.buffer.read(1)
    time.sleep(max(0.0, start + first / rate - time.monotonic()))
    for number in range(first, min(first + batch, count)):
        source.send(number.to_bytes(4, "big"))
"""


@pytest.fixture(autouse=True)
def _logging_namespace() -> Iterator[None]:
    """Enter a network namespace whose loopback logs UDP to one port, with this thread and its processes."""
    name = f"nfagent-nflog-{uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        netns.pushns(name)
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
            yield
        finally:
            netns.popns()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


class Collector:
    """Keeps what the source hands on, spending `busy_ns` on each packet as an attribution would."""

    def __init__(self, busy_ns: int = 0) -> None:
        self.packets: list[LoggedPacket] = []
        self.longest_batch = 0
        self._busy_ns = busy_ns
        self._came = asyncio.Event()

    def __call__(self, batch: list[LoggedPacket]) -> None:
        for _ in batch:
            until = time.perf_counter_ns() + self._busy_ns
            while time.perf_counter_ns() < until:
                pass
        self.packets += batch
        self.longest_batch = max(self.longest_batch, len(batch))
        self._came.set()

    async def more(self) -> None:
        """Wait for the next batch, within the deadline."""
        async with asyncio.timeout(DEADLINE):
            await self._came.wait()
        self._came.clear()

    async def until(self, count: int) -> None:
        """Wait for that many packets, or for the deadline: the test then says how many there were."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE):
                while len(self.packets) < count:
                    await self._came.wait()
                    self._came.clear()


@contextmanager
def udp(address: str) -> Iterator[socket.socket]:
    """Return a UDP socket connected from SOURCE_PORT to PORT of a loopback address, with a listening socket."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        closing(socket.socket(family, socket.SOCK_DGRAM)) as sink,
        closing(socket.socket(family, socket.SOCK_DGRAM)) as source,
    ):
        sink.bind((address, PORT))
        source.bind((address, SOURCE_PORT))
        source.connect((address, PORT))
        yield source


def number_in(packet: LoggedPacket) -> int:
    """Read the number that the sender put behind the IPv4 and UDP headers."""
    return int.from_bytes(packet.payload[28:32], "big")


@pytest.mark.parametrize(
    ("address", "family", "ethertype"),
    [pytest.param("127.0.0.1", 4, 0x0800, id="IPv4"), pytest.param("::1", 6, 0x86DD, id="IPv6")],
)
def test_prefix_addresses_ports_and_time_come_through(address: str, family: int, ethertype: int) -> None:
    async def run() -> list[LoggedPacket]:
        source, collector = NflogSource(GROUP), Collector()
        source.open(collector)
        with closing(source), udp(address) as sender:
            sender.send(b"hello")
            await collector.until(1)
        return collector.packets

    before = time.time_ns() // 1_000_000_000
    (packet,) = asyncio.run(run())

    assert (packet.prefix, packet.hook, packet.hw_protocol) == ("3f:ingress:deny", 1, ethertype)
    assert (packet.sequence, packet.in_interface, packet.out_interface) == (0, 1, 0)
    assert packet.timestamp_ns is not None
    assert packet.timestamp_ns // 1_000_000_000 >= before
    head = decode_head(packet.payload)
    assert head.family == family
    assert head == PacketHead(head.family, address, address, 17, SOURCE_PORT, PORT)
    assert packet.payload.endswith(b"hello")


def test_a_large_packet_is_cut_at_the_copy_range() -> None:
    async def run() -> list[LoggedPacket]:
        source, collector = NflogSource(GROUP), Collector()
        source.open(collector)
        with closing(source), udp("::1") as sender:
            sender.send(bytes(20_000))
            await collector.until(1)
        return collector.packets

    (packet,) = asyncio.run(run())

    assert len(packet.payload) == 128
    assert decode_head(packet.payload).destination_port == PORT


def test_ten_thousand_packets_a_second_arrive_without_loss_while_each_is_attributed() -> None:
    """A machine that has no CPU for the reader sends them later, up to a second's worth ahead of it."""
    count, rate = 30_000, 10_000
    source = NflogSource(GROUP)

    async def run() -> Collector:
        collector = Collector(busy_ns=40_000)
        source.open(collector)
        with closing(source):
            command = [sys.executable, "-c", SENDER, str(count), str(rate)]
            sender = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
            assert sender.stdin is not None
            try:
                told = 0
                while len(collector.packets) < count and not source.counters.lost:
                    await collector.more()
                    batches = min(len(collector.packets), count - AHEAD) // BATCH  # no more than it reads
                    sender.stdin.write(bytes(batches - told))
                    told = batches
                async with asyncio.timeout(DEADLINE):
                    assert await sender.wait() == 0
            finally:
                if sender.returncode is None:
                    sender.kill()
                    await sender.wait()
        return collector

    collector = asyncio.run(run())

    assert [packet.sequence for packet in collector.packets] == list(range(count))
    assert [number_in(packet) for packet in collector.packets] == list(range(count))
    counters = source.counters
    assert (counters.received, counters.lost, counters.overruns, counters.undecodable) == (count, 0, 0, 0)


def test_a_backlog_is_passed_on_in_slices_that_yield_to_the_event_loop() -> None:
    count = 2_000

    async def run() -> Collector:
        source, collector = NflogSource(GROUP), Collector()
        source.open(collector)
        with closing(source), udp("127.0.0.1") as sender:
            for number in range(count):
                sender.send(number.to_bytes(4, "big"))
            await collector.until(count)
        return collector

    collector = asyncio.run(run())

    assert [number_in(packet) for packet in collector.packets] == list(range(count))
    # A wake-up ends with the datagram that fills 160, and the kernel puts 64 records into one at most.
    assert collector.longest_batch < 160 + 64


def test_what_overflows_the_receive_buffer_is_counted_to_the_packet() -> None:
    burst, tries = 3_000, 100
    source = NflogSource(GROUP, receive_buffer=32_768)

    async def run() -> tuple[int, Collector]:
        collector, sent = Collector(), 0
        source.open(collector)
        with closing(source), udp("127.0.0.1") as sender:
            for sent in range(1, burst + 1):  # the loop has no chance to read meanwhile
                sender.send(sent.to_bytes(4, "big"))
            await collector.more()
            # The kernel takes records again once the queue is empty; the first of these tells what is missing.
            while number_in(collector.packets[-1]) != sent or source.counters.lost == 0:
                assert sent < burst + tries
                if number_in(collector.packets[-1]) == sent or source.counters.overruns:
                    sent += 1
                    sender.send(sent.to_bytes(4, "big"))
                await collector.more()
        return sent, collector

    sent, collector = asyncio.run(run())

    counters = source.counters
    assert counters.overruns >= 1
    assert counters.lost >= 1
    assert counters.received == len(collector.packets)
    assert counters.received + counters.lost == sent


def test_a_group_has_one_reader_and_is_free_again_once_closed() -> None:
    async def run() -> None:
        first, second = NflogSource(GROUP), NflogSource(GROUP)
        first.open(Collector())
        with closing(first), pytest.raises(HostError, match=f"NFLOG group {GROUP} is already read"):
            second.open(Collector())

        collector = Collector()
        second.open(collector)
        with closing(second), udp("127.0.0.1") as sender:
            sender.send(b"for the second")
            await collector.until(1)
        second.close()
        assert len(collector.packets) == 1

    asyncio.run(run())


def test_without_the_capability_the_error_has_a_hint() -> None:
    async def run() -> None:
        os.seteuid(65_534)
        try:
            with pytest.raises(HostError, match="run nfagent with sudo"):
                NflogSource(GROUP).open(Collector())
        finally:
            os.seteuid(0)

    asyncio.run(run())
