"""Netlink sockets that fail: closed, opened again with backoff, logged once; they never keep the event loop busy."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress

import pytest

from nfagent.clock import SystemClock
from nfagent.errors import KernelError
from nfagent.kernel.nflog import NflogSource
from nfagent.kernel.nflog_reader import NflogReader
from nfagent.kernel.nft_monitor import NftMonitor
from nfagent.netlink import codec
from nfagent.netlink.nflog import LoggedPacket
from nfagent.netlink.nft_events import CommitOrigin
from tests.support.full_selector import FullSelector, run_with

TURNS = 50
"""Turns of the event loop after which all callbacks have run."""
BOUND = codec.message(codec.NLMSG_ERROR, 0, 1, struct.pack("=iIHHII", 0, 20, 0, 0, 1, 0))
HEADER = codec.attribute(1, struct.pack("!HBx", 0x0800, 1))
LOGGED = codec.message(0x0400, 0, 0, codec.nfgen(2, 100) + HEADER + codec.attribute(9, bytes(20)))
NO_PACKETS: Callable[[list[LoggedPacket]], None] = lambda _packets: None  # noqa: E731 - a constant


class SocketPeers:
    """The other ends of opened sockets; each is closed at the next turn, up to the first one that works."""

    def __init__(self, *, unread: bool, works_from: int = 1000) -> None:
        self.unread = unread
        self.opened = 0
        self._works_from = works_from
        self.ends: list[socket.socket] = []

    def open(self, _receive_buffer: int) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)  # noqa: FBT003 - a socket's method
        ours.send(BOUND)
        self.opened += 1
        self.ends.append(ours)
        if self.opened < self._works_from:
            asyncio.get_running_loop().call_soon(self._break, ours)
        return theirs

    def close(self) -> None:
        for end in self.ends:
            end.close()

    def _break(self, ours: socket.socket) -> None:
        # Closed with unread bytes, the other end fails with ECONNRESET; otherwise it reads end of file.
        if not self.unread:
            ours.setblocking(False)  # noqa: FBT003 - a socket's method
            with suppress(BlockingIOError):
                ours.recv(65536)
        ours.close()


class Clock(SystemClock):
    """A clock whose waits end at once, except the last one."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.enough = asyncio.Event()
        self.most = 7

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.pauses.append(seconds)
        if len(self.pauses) >= self.most:
            self.enough.set()
            await event.wait()
        return False


class TurningClock(SystemClock):
    """A clock whose waits take a turn of the event loop."""

    waited = 0.0

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.waited += seconds
        await asyncio.sleep(0)
        return event.is_set()


def run(body: Callable[[], Coroutine[None, None, None]]) -> None:
    async def watched() -> None:
        errors: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(str(context)))
        async with asyncio.timeout(30):
            await body()
        assert errors == [], "a callback of the loop failed"

    asyncio.run(watched())


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


BREAKS = pytest.mark.parametrize("unread", [True, False], ids=["fails with an error", "reads end of file"])


@BREAKS
def test_an_nflog_socket_is_opened_again_with_backoff_where_it(
    caplog: pytest.LogCaptureFixture, *, unread: bool
) -> None:
    async def body() -> None:
        kernel, clock = SocketPeers(unread=unread), Clock()
        source = NflogSource(100, opening=kernel.open)
        reading = NflogReader(source, clock, NO_PACKETS)
        task = asyncio.create_task(reading.run())
        await clock.enough.wait()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert (kernel.opened, clock.pauses) == (7, [1, 2, 4, 8, 16, 30, 30])
        assert "NFLOG group 100 failed" in reading.problem
        task.cancel()
        source.close()

    run(body)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("verdict log interrupted: NFLOG group 100")


def test_the_backoff_of_an_nflog_socket_starts_over_after_packets() -> None:
    async def body() -> None:
        kernel, clock = SocketPeers(unread=False, works_from=3), Clock()
        clock.most = 3
        got = asyncio.Event()
        source = NflogSource(100, opening=kernel.open)
        reading = NflogReader(source, clock, lambda _packets: got.set())
        task = asyncio.create_task(reading.run())
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert (kernel.opened, clock.pauses) == (3, [1, 2])
        assert reading.problem == ""
        kernel.ends[-1].send(LOGGED)
        await got.wait()
        kernel.ends[-1].close()
        await clock.enough.wait()
        assert clock.pauses == [1, 2, 1]
        task.cancel()
        source.close()

    run(body)


@BREAKS
def test_a_notification_socket_is_closed_logged_and_reported_once_where_it(
    caplog: pytest.LogCaptureFixture, *, unread: bool
) -> None:
    async def body() -> None:
        kernel, told = SocketPeers(unread=unread), list[CommitOrigin]()
        watch = NftMonitor(opening=kernel.open)
        for times in range(1, 4):
            watch.open(told.append)
            watch.open(told.append)  # an open monitor stays open
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert (kernel.opened, len(told)) == (times, times), "once for each open"
            assert told[-1] == CommitOrigin()
        assert (watch.listening, watch.problem.partition(":")[0]) == (
            False,
            "cannot read nf_tables notifications",
        )

    run(body)
    assert len(caplog.messages) == 1


def test_a_notification_socket_that_cannot_be_opened_is_logged_once_and_tried_at_each_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    opened: list[int] = []

    def refuse(receive_buffer: int) -> socket.socket:
        opened.append(receive_buffer)
        raise KernelError("cannot open a notification socket: no memory")

    async def body() -> None:
        watch = NftMonitor(receive_buffer=4096, opening=refuse)
        assert [watch.listen(lambda _origin: None) for _ in range(3)] == [False] * 3
        assert (opened, watch.listening) == ([4096] * 3, False)
        assert watch.problem == "cannot open a notification socket: no memory"

    run(body)
    assert caplog.messages == [
        "cannot subscribe to nf_tables notifications: cannot open a notification socket: no memory; retrying"
    ]


@pytest.mark.parametrize("size", [1, 15, 16, 20, 24], ids=lambda size: f"after {size} bytes")
def test_a_notification_that_was_cut_off_is_a_change_by_an_unknown_program(size: int) -> None:
    async def body() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)  # noqa: FBT003 - a socket's method
        heard: list[CommitOrigin] = []
        watch = NftMonitor(opening=lambda _receive_buffer: theirs)
        watch.open(heard.append)
        ours.send(codec.message(0x0A0F, 0, 1, codec.nfgen(0, 0) + codec.attribute(1, bytes(4)))[:size])
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert heard == [CommitOrigin()]
        watch.close()
        ours.close()

    run(body)


UNWATCHED = "cannot watch a netlink socket: No space left on device; see fs.epoll.max_user_watches"


def test_an_nflog_socket_that_no_descriptor_is_left_to_watch_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    selector = FullSelector()

    async def body() -> None:
        kernel, clock, got = SocketPeers(unread=False, works_from=1), TurningClock(), asyncio.Event()
        source = NflogSource(100, opening=kernel.open)
        reading = NflogReader(source, clock, lambda _packets: got.set())
        selector.full = True
        task = asyncio.create_task(reading.run())
        await turns()
        assert (kernel.opened > 1, reading.problem) == (True, UNWATCHED)
        selector.full = False
        await turns()
        assert reading.problem == ""
        kernel.ends[-1].send(LOGGED)
        async with asyncio.timeout(30):
            await got.wait()
        task.cancel()
        source.close()
        kernel.close()

    run_with(selector, body())
    assert caplog.messages == [f"verdict log interrupted: {UNWATCHED}; retrying, policies stay enforced"]


def test_a_notification_socket_that_no_descriptor_is_left_to_watch_is_tried_at_each_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    selector = FullSelector()

    async def body() -> None:
        kernel = SocketPeers(unread=False, works_from=1)
        monitor = NftMonitor(opening=kernel.open)
        selector.full = True
        assert [monitor.listen(lambda _origin: None) for _ in range(3)] == [False] * 3
        assert (kernel.opened, monitor.problem) == (3, UNWATCHED)
        selector.full = False
        monitor.open(lambda _origin: None)
        assert kernel.opened == 4, "the sockets of before are closed"
        monitor.close()
        kernel.close()

    run_with(selector, body())
    assert caplog.messages == [f"cannot subscribe to nf_tables notifications: {UNWATCHED}; retrying"]
