"""The nf_tables monitor: commits of other programs to the table are reported, the agent's own are not."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

import pytest

from nfagent.errors import KernelError
from nfagent.kernel import nft_socket
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.nft_monitor import MOST_COMMITS, MOST_OTHERS, NftMonitor
from nfagent.kernel.nft_socket import NftSocket
from nfagent.kernel.sockets import event_socket, request_socket
from nfagent.kernel.table_queries import generation
from nfagent.netlink.nft_events import CommitOrigin
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, NamedSet, Ruleset
from nfagent.nftables.transaction import ChangeElements, Transaction
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and nf_tables"),
]

DEADLINE = 60.0
NETLINK_DROP_MEMBERSHIP = 2
TABLE = Ruleset({"blocks4/1": NamedSet("address", 4, frozenset({"10.0.0.1"}))})
OTHERS = "add table inet foreign; add set inet foreign s { type ipv4_addr; }"
LAST = "add table inet foreign; add table ip nfagent"
"""Names a table of our name in another family: it is heard, and so ends what is waited for."""


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Enter a new network namespace with this thread."""
    with own_namespace("drift"):
        yield


class Heard:
    """What a watch told."""

    def __init__(self, watch: NftMonitor, kernel: NftClient) -> None:
        self.watch = watch
        self.kernel = kernel
        self.committers: list[CommitOrigin] = []
        self.news = asyncio.Event()

    def take(self, committer: CommitOrigin) -> None:
        self.committers.append(committer)
        self.news.set()

    async def of(self, text: str, *, attentive: bool = True) -> list[CommitOrigin]:
        """Load text by nft in another process; return the notifications up to its commit.

        attentive: notifications are read as they come; otherwise none is before the process has ended
        """
        self.news.clear()
        loaded = text.replace("; add", "\nadd")
        if attentive:
            await command("nft", "-f", "-", text=loaded)
        else:
            load_alone(loaded)
        async with asyncio.timeout(DEADLINE):
            await self.news.wait()
        return self.committers


def load_alone(text: str) -> None:
    """Load text, with the event loop standing still."""
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True, timeout=DEADLINE)


async def command(*arguments: str, text: str = "") -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe)
    output, _ = await process.communicate(text.encode())
    assert process.returncode == 0
    return output.decode()


async def listing(*what: str) -> str:
    """List an object of nf_tables, as people see it."""
    return await command("nft", "list", *what)


def send_to_loopback() -> None:
    """Send one packet over the loopback interface, without a receiver."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"packet", ("127.0.0.1", 9))


@asynccontextmanager
async def hearing(
    receive_buffer: int = 4 * 1024 * 1024, opening: Callable[[int], socket.socket] | None = None
) -> AsyncIterator[Heard]:
    """Load the table, and hear from then on."""
    watch = NftMonitor(receive_buffer=receive_buffer, opening=opening)
    kernel = NftClient(monitor=watch)
    try:
        await kernel.apply(diff(ABSENT, TABLE))
        heard = Heard(watch, kernel)
        watch.open(heard.take)
        assert watch.refresh()
        heard.committers.clear()
        yield heard
    finally:
        watch.close()
        kernel.close()


def run(body: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(body())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("add element inet nfagent blocks4/1 { 10.0.0.9 }", id="an element is added"),
        pytest.param("flush set inet nfagent blocks4/1", id="a set is flushed"),
        pytest.param("delete table inet nfagent", id="the table is deleted"),
        pytest.param("flush ruleset", id="everything is flushed"),
        pytest.param("add chain inet nfagent c; add rule inet nfagent c accept", id="a rule is added"),
        pytest.param(f"{OTHERS}; add counter inet nfagent c", id="ours is the last table of a transaction"),
    ],
)
def test_44_a_change_by_another_program_is_notified_once_with_its_name(change: str) -> None:
    async def body() -> None:
        async with hearing() as heard:
            (committer,) = await heard.of(change)
            assert (committer.name, committer.process > 0) == ("nft", True)

    run(body)


def test_changes_of_other_tables_are_not_reported() -> None:
    async def body() -> None:
        async with hearing() as heard:
            for text in (OTHERS, "delete table inet foreign", "add table ip nfagent-lab"):
                await command("nft", text)
            assert len(await heard.of(LAST)) == 1

    run(body)


def elements(count: int, name: str = "blocks4/1") -> Transaction:
    return (ChangeElements("add", name, tuple(f"10.1.{i // 250}.{i % 250}" for i in range(count))),)


def test_own_commits_are_not_reported() -> None:
    async def body() -> None:
        async with hearing() as heard:
            kernel, other = heard.kernel, Ruleset({**TABLE.sets, "blocks4/2": NamedSet("address", 4)})
            await kernel.apply(elements(3))  # a few: on the event loop
            await kernel.apply(elements(3000))  # more: in the thread
            await kernel.apply(diff(TABLE, other))
            await kernel.read()
            await kernel.apply(diff(other, TABLE))
            await kernel.counters()
            kernel.commit_now(elements(2000))
            assert len(await heard.of(LAST)) == 1

    run(body)


def test_during_a_muted_large_commit_the_kernel_builds_no_notifications() -> None:
    async def body() -> None:
        async with hearing() as heard:
            with heard.watch.muted():
                await command("nft", "add element inet nfagent blocks4/1 { 10.0.0.9 }")
            await heard.of(LAST)
            assert [committer.name for committer in heard.committers] == ["nft"], "one commit is taken for ours"

    run(body)


@pytest.mark.parametrize("others", [0, 2], ids=["the commit was refused", "another program committed too"])
def test_zero_or_two_commits_while_muted_are_a_change_by_an_unknown_program(others: int) -> None:
    async def body() -> None:
        async with hearing() as heard:
            with heard.watch.muted():
                for number in range(others):
                    await command("nft", f"add element inet nfagent blocks4/1 {{ 10.0.0.{9 + number} }}")
            assert (await heard.of(LAST))[0] == CommitOrigin()

    run(body)


def test_after_a_failed_muted_commit_notifications_are_received_again() -> None:
    async def body() -> None:
        async with hearing() as heard:
            with pytest.raises(KernelError):
                await heard.kernel.apply(elements(3000, "nowhere4/1"))
            assert (await heard.of(LAST))[-1].name == "nft"

    run(body)


def test_a_socket_that_was_opened_during_a_muted_commit_is_heard_after_it() -> None:
    async def body() -> None:
        async with hearing() as heard:
            with heard.watch.muted():
                heard.watch.close()
                assert heard.watch.listen(heard.take)
            assert (await heard.of(LAST))[-1].name == "nft"

    run(body)


class LoyalSocket(socket.socket):
    """A netlink socket that refuses to leave its notification group, once."""

    leaves = False

    def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
        if option == NETLINK_DROP_MEMBERSHIP and not self.leaves:
            self.leaves = True
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        super().setsockopt(level, option, value)


def test_where_the_group_cannot_be_left_a_large_commit_is_made_and_others_are_heard_after_it() -> None:
    def opening(receive_buffer: int) -> socket.socket:
        opened = event_socket(receive_buffer, needs_root="", failure="")
        return LoyalSocket(fileno=opened.detach())

    async def body() -> None:
        async with hearing(opening=opening) as heard:
            await heard.kernel.apply(elements(3000))
            assert len((await heard.kernel.read()).sets["blocks4/1"].elements) == 3001
            heard.watch.close()
            assert heard.watch.listen(heard.take)
            heard.committers.clear()
            assert (await heard.of(LAST))[-1].name == "nft"

    run(body)


def test_a_muted_commit_needs_no_free_descriptor_and_what_it_missed_is_reported() -> None:
    async def body() -> None:
        async with hearing() as heard:
            with without_descriptors():
                await heard.kernel.apply(elements(3000))
            assert (await heard.of(LAST))[0] == CommitOrigin()
            assert len((await heard.kernel.read()).sets["blocks4/1"].elements) == 3001

    run(body)


@contextmanager
def without_descriptors() -> Iterator[None]:
    """Limit this process to its open descriptors."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def chains(count: int) -> str:
    """Return nft commands for chains of a foreign table."""
    return "".join(f"add chain inet foreign c{number}\n" for number in range(count))


def test_with_large_foreign_tables_the_monitor_does_not_subscribe() -> None:
    async def body() -> None:
        async with hearing() as heard:
            await command("nft", "-f", "-", text="add table inet foreign\n" + chains(MOST_OTHERS + 1))
            assert not heard.watch.refresh()
            assert (heard.watch.listening, heard.watch.others) == (False, MOST_OTHERS + 1)
            await command("nft", "flush set inet nfagent blocks4/1")
            await command("nft", "delete chain inet foreign c0")
            assert heard.watch.refresh()
            await heard.of(LAST)
            committers = [committer.name for committer in heard.committers]
            assert committers == ["", "nft"], "one for what was missed, one for what ends this test"

    run(body)


def test_our_own_table_may_be_as_large_as_it_likes() -> None:
    async def body() -> None:
        async with hearing() as heard:
            await command("nft", "-f", "-", text=chains(MOST_OTHERS + 1).replace("foreign", "nfagent"))
            assert heard.watch.refresh()
            assert heard.watch.others == 0

    run(body)


def test_an_own_large_commit_without_a_subscription_is_no_drift() -> None:
    async def body() -> None:
        watch, told = NftMonitor(), list[CommitOrigin]()
        kernel = NftClient(monitor=watch)
        try:
            watch.open(told.append)
            await kernel.apply(diff(ABSENT, TABLE))
            await kernel.apply(elements(3000))
            await asyncio.sleep(0)
            assert told == []
            assert watch.refresh()
            assert told == [CommitOrigin()], "what happened before it listened"
        finally:
            kernel.close()
            watch.close()

    run(body)


def test_a_program_that_commits_too_often_is_not_listened_to_for_a_moment_and_then_again() -> None:
    async def body() -> None:
        async with hearing() as heard:
            with closing(NftSocket()) as other:
                async with asyncio.timeout(DEADLINE):
                    while CommitOrigin() not in heard.committers:  # on a busy machine it may take some bursts
                        for _ in range(MOST_COMMITS):
                            other.commit(elements(1))
                            other.commit((ChangeElements("delete", "blocks4/1", ("10.1.0.0",)),))
                        for _ in range(MOST_COMMITS):  # a turn reads some of what they said
                            await asyncio.sleep(0)
            heard.committers.clear()
            (committer,) = await heard.of(LAST)
            assert committer.name == "nft"

    run(body)


def test_the_generation_counts_commits() -> None:
    before = generation()
    subprocess.run(["nft", "add table inet foreign"], check=True)
    assert generation() == before + 1


def test_a_commit_by_a_socket_that_was_opened_later_is_our_own() -> None:
    async def body() -> None:
        async with hearing() as heard:
            with closing(NftSocket(ports=heard.watch.own_ports)) as late:
                late.commit(elements(1))
                assert len(await heard.of(LAST)) == 1

    run(body)


@pytest.mark.parametrize("told", [True, False], ids=["its port id was told", "its port id was not told"])
def test_a_commit_whose_socket_is_closed_before_its_notification_is_read_is_our_own_where(*, told: bool) -> None:
    async def body() -> None:
        async with hearing() as heard:
            late = NftSocket(ports=heard.watch.own_ports if told else None)
            late.commit(elements(1))
            late.close()
            assert len(await heard.of(LAST)) == (1 if told else 2)

    run(body)


def test_a_socket_of_ours_in_the_place_of_one_that_failed_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    def opening(needs_root: str, **options: Any) -> socket.socket:  # noqa: ANN401 - passed on as they are
        opened.append(request_socket(needs_root, **options))
        return opened[-1]

    monkeypatch.setattr(nft_socket, "request_socket", opening)

    async def body() -> None:
        async with hearing() as heard:
            os.dup2(0, opened[0].fileno())
            with pytest.raises(KernelError, match="cannot send"):
                await heard.kernel.apply(elements(1))
            await heard.kernel.apply(elements(1))
            assert len(await heard.of(LAST)) == 1

    run(body)


def test_counters_and_timeouts_are_not_reported() -> None:
    async def body() -> None:
        async with hearing() as heard:
            await command("ip", "link", "set", "lo", "up")
            text = (
                "add set inet nfagent seen { type ipv4_addr; flags dynamic, timeout; }; add chain inet nfagent c { "
                "type filter hook output priority 0; }; add rule inet nfagent c udp dport 9 "
                "update @seen { ip daddr timeout 500ms } counter"
            )
            await heard.of(text)
            for packets in (1, 2):
                send_to_loopback()
                # The element may have ended before a listing; a packet is counted behind what adds it.
                assert f"counter packets {packets} " in await listing("chain", "inet", "nfagent", "c")
                async with asyncio.timeout(DEADLINE):
                    while "127.0.0.1" in await listing("set", "inet", "nfagent", "seen"):
                        continue  # a listing is a process of some milliseconds
            assert len(await heard.of("add counter inet nfagent last")) == 2

    run(body)


def test_lost_notifications_are_a_change_by_an_unknown_program() -> None:
    async def body() -> None:
        async with hearing(receive_buffer=4096) as heard:
            text = ", ".join(f"10.{i // 65536}.{i // 256 % 256}.{i % 256}" for i in range(20000))
            # Who reads at once may keep up with a kernel that is slow, and loses nothing.
            told = await heard.of(f"{OTHERS}; add element inet foreign s {{ {text} }}", attentive=False)
            assert CommitOrigin() in told

    run(body)


def test_a_closed_monitor_reports_nothing_and_can_be_opened_again() -> None:
    async def body() -> None:
        async with hearing() as heard:
            heard.watch.close()
            heard.watch.close()
            await command("nft", "delete", "table", "inet", "nfagent")
            heard.watch.open(heard.take)
            assert heard.watch.refresh()
            assert await heard.of("add table inet nfagent") == [CommitOrigin(), *heard.committers[1:]]
            assert [committer.name for committer in heard.committers[1:]] == ["nft"]

    run(body)


MAY_NOT = """
import asyncio
from nfagent.kernel.nft_monitor import NftMonitor
from nfagent.errors import HostError

async def main():
    try:
        NftMonitor().open(print)
    except HostError as error:
        print(error)

asyncio.run(main())
"""


def test_without_the_right_to_subscribe_opening_raises() -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set=-net_admin", sys.executable, "-c", MAY_NOT],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    assert done.stdout.startswith("nf_tables needs root (CAP_NET_ADMIN)")
