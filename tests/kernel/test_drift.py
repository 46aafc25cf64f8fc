"""Item 4, drift: the kernel tells when somebody else changes the table, and never of our own commits."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from nfagent.errors import KernelError
from nfagent.kernel import set_elements
from nfagent.kernel.nft_client import NftClient
from nfagent.kernel.nft_monitor import MOST_OTHERS, NftMonitor, generation, own_ports
from nfagent.kernel.set_elements import SetElementSocket
from nfagent.kernel.sockets import asking_socket, netfilter_socket
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
TABLE = Ruleset({"blocks4/1": NamedSet("address", 4, frozenset({"10.0.0.1"}))})
OTHERS = "add table inet somebody; add set inet somebody s { type ipv4_addr; }"
LAST = "add table inet somebody; add table ip nfagent"
"""Names a table of our name in another family: it is heard, and so ends what is waited for."""


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    """Put the test's thread into a network namespace of its own."""
    with own_namespace("drift"):
        yield


class Heard:
    """What a watch told."""

    def __init__(self, watch: NftMonitor, kernel: NftClient) -> None:
        self.watch = watch
        self.kernel = kernel
        self.committers: list[CommitOrigin] = []
        self._news = asyncio.Event()

    def take(self, committer: CommitOrigin) -> None:
        self.committers.append(committer)
        self._news.set()

    async def of(self, text: str, *, attentive: bool = True) -> list[CommitOrigin]:
        """Have a process of its own load text, and give all that was told of by the time that this was.

        attentive: notifications are read as they come; otherwise none is before the process has ended
        """
        self._news.clear()
        loaded = text.replace("; add", "\nadd")
        if attentive:
            await command("nft", "-f", "-", text=loaded)
        else:
            load_alone(loaded)
        async with asyncio.timeout(DEADLINE):
            await self._news.wait()
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
    """Send one packet over the loopback interface; nobody receives it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"packet", ("127.0.0.1", 9))


@asynccontextmanager
async def hearing(receive_buffer: int = 4 * 1024 * 1024) -> AsyncIterator[Heard]:
    """Load the table, and hear from then on."""
    watch = NftMonitor(receive_buffer=receive_buffer)
    kernel = NftClient(drift=watch)
    try:
        await kernel.apply(diff(ABSENT, TABLE))
        heard = Heard(watch, kernel)
        watch.open(heard.take)
        assert watch.look()
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
def test_44_who_changes_the_table_is_heard_once_and_named(change: str) -> None:
    async def body() -> None:
        async with hearing() as heard:
            (committer,) = await heard.of(change)
            assert (committer.name, committer.process > 0) == ("nft", True)

    run(body)


def test_what_happens_to_other_tables_is_not_heard() -> None:
    async def body() -> None:
        async with hearing() as heard:
            for text in (OTHERS, "delete table inet somebody", "add table ip nfagent-lab"):
                await command("nft", text)
            assert len(await heard.of(LAST)) == 1

    run(body)


def elements(count: int, name: str = "blocks4/1") -> Transaction:
    return (ChangeElements("add", name, tuple(f"10.1.{i // 250}.{i % 250}" for i in range(count))),)


def test_no_commit_of_our_own_is_heard() -> None:
    async def body() -> None:
        async with hearing() as heard:
            kernel, other = heard.kernel, Ruleset({**TABLE.sets, "blocks4/2": NamedSet("address", 4)})
            await kernel.apply(elements(3))  # a few elements: on the event loop, by our own socket
            await kernel.apply(elements(1000))  # more: in the thread
            await kernel.apply(diff(TABLE, other))  # structure: in the thread, by libnftables
            await kernel.apply(diff(other, TABLE))  # again: on the event loop
            await kernel.read()  # libnftables opens another socket after a listing
            await kernel.apply(diff(TABLE, other))
            await kernel.counters()
            kernel.apply_now(elements(2000))  # as where there is no room for the batch
            assert len(await heard.of(LAST)) == 1

    run(body)


def test_while_a_large_commit_goes_unheard_the_kernel_makes_no_notifications() -> None:
    async def body() -> None:
        async with hearing() as heard:
            with heard.watch.unheard():
                await command("nft", "add element inet nfagent blocks4/1 { 10.0.0.9 }")
            await heard.of(LAST)
            assert [committer.name for committer in heard.committers] == ["nft"], "one commit is taken for ours"

    run(body)


@pytest.mark.parametrize("others", [0, 2], ids=["the commit was refused", "somebody else committed too"])
def test_another_number_of_commits_than_one_while_unheard_is_a_change_by_nobody_knows_whom(others: int) -> None:
    async def body() -> None:
        async with hearing() as heard:
            with heard.watch.unheard():
                for number in range(others):
                    await command("nft", f"add element inet nfagent blocks4/1 {{ 10.0.0.{9 + number} }}")
            assert (await heard.of(LAST))[0] == CommitOrigin()

    run(body)


def test_a_commit_that_fails_while_unheard_is_heard_of_again_afterwards() -> None:
    async def body() -> None:
        async with hearing() as heard:
            with pytest.raises(KernelError):
                await heard.kernel.apply(elements(1000, "nowhere4/1"))
            assert (await heard.of(LAST))[-1].name == "nft"

    run(body)


def chains(count: int) -> str:
    """Write a table of somebody's with so many chains."""
    return "".join(f"add chain inet somebody c{number}\n" for number in range(count))


def test_beside_large_tables_of_others_nobody_listens() -> None:
    async def body() -> None:
        async with hearing() as heard:
            await command("nft", "-f", "-", text="add table inet somebody\n" + chains(MOST_OTHERS + 1))
            assert not heard.watch.look()
            assert (heard.watch.listening, heard.watch.others) == (False, MOST_OTHERS + 1)
            await command("nft", "flush set inet nfagent blocks4/1")
            await command("nft", "delete chain inet somebody c0")
            assert heard.watch.look()
            await heard.of(LAST)
            committers = [committer.name for committer in heard.committers]
            assert committers == ["", "nft"], "one for what was missed, one for what ends this test"

    run(body)


def test_our_own_table_may_be_as_large_as_it_likes() -> None:
    async def body() -> None:
        async with hearing() as heard:
            await command("nft", "-f", "-", text=chains(MOST_OTHERS + 1).replace("somebody", "nfagent"))
            assert heard.watch.look()
            assert heard.watch.others == 0

    run(body)


def test_a_large_commit_of_ours_while_nobody_listens_is_no_change_by_others() -> None:
    async def body() -> None:
        watch, told = NftMonitor(), list[CommitOrigin]()
        kernel = NftClient(drift=watch)
        try:
            watch.open(told.append)
            await kernel.apply(diff(ABSENT, TABLE))
            await kernel.apply(elements(1000))
            await asyncio.sleep(0)
            assert told == []
            assert watch.look()
            assert told == [CommitOrigin()], "what happened before it listened"
        finally:
            kernel.close()
            watch.close()

    run(body)


def test_the_generation_counts_commits() -> None:
    before = generation()
    subprocess.run(["nft", "add table inet somebody"], check=True)
    assert generation() == before + 1


def test_a_socket_of_ours_that_nobody_told_of_is_heard_until_somebody_does() -> None:
    async def body() -> None:
        async with hearing() as heard:
            late = SetElementSocket()
            try:
                late.commit(elements(1))
                heard.watch.leave_out_own()
                late.commit(elements(2))
                assert len(await heard.of(LAST)) == 2
            finally:
                late.close()

    run(body)


def test_a_socket_of_ours_in_the_place_of_one_that_failed_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    def opening(needs_root: str, **options: Any) -> socket.socket:  # noqa: ANN401 - passed on as they are
        opened.append(asking_socket(needs_root, **options))
        return opened[-1]

    monkeypatch.setattr(set_elements, "asking_socket", opening)

    async def body() -> None:
        async with hearing() as heard:
            os.dup2(0, opened[0].fileno())
            with pytest.raises(KernelError, match="can't be sent"):
                await heard.kernel.apply(elements(1))
            await heard.kernel.apply(elements(1))
            assert len(await heard.of(LAST)) == 1

    run(body)


def test_packets_and_time_are_not_heard() -> None:
    async def body() -> None:
        async with hearing() as heard:
            await command("ip", "link", "set", "lo", "up")
            text = (
                "add set inet nfagent seen { type ipv4_addr; flags dynamic, timeout; }; add chain inet nfagent c { "
                "type filter hook output priority 0; }; add rule inet nfagent c update @seen { ip daddr timeout 500ms }"
            )
            await heard.of(text)
            for _ in range(2):
                send_to_loopback()
                assert "127.0.0.1" in await listing("set", "inet", "nfagent", "seen")
                async with asyncio.timeout(DEADLINE):
                    while "127.0.0.1" in await listing("set", "inet", "nfagent", "seen"):
                        continue  # a listing is a process of some milliseconds
            assert len(await heard.of("add counter inet nfagent last")) == 2

    run(body)


def test_lost_notifications_are_a_change_by_nobody_knows_whom() -> None:
    async def body() -> None:
        async with hearing(receive_buffer=4096) as heard:
            text = ", ".join(f"10.{i // 65536}.{i // 256 % 256}.{i % 256}" for i in range(20000))
            # Who reads at once may keep up with a kernel that is slow, and loses nothing.
            told = await heard.of(f"{OTHERS}; add element inet somebody s {{ {text} }}", attentive=False)
            assert CommitOrigin() in told

    run(body)


def test_a_closed_watch_hears_nothing_and_can_be_opened_again() -> None:
    async def body() -> None:
        async with hearing() as heard:
            heard.watch.close()
            heard.watch.close()
            await command("nft", "delete", "table", "inet", "nfagent")
            heard.watch.open(heard.take)
            assert heard.watch.look()
            assert await heard.of("add table inet nfagent") == [CommitOrigin(), *heard.committers[1:]]
            assert [committer.name for committer in heard.committers[1:]] == ["nft"]

    run(body)


def test_looking_for_own_sockets_leaves_every_open_file_as_it_was() -> None:
    with closing(netfilter_socket(blocking=False)) as ours:
        ours.bind((0, 0))
        before = open_files()
        assert ours.getsockname()[0] in own_ports()
        assert open_files() == before


def open_files() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


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


def test_who_may_not_listen_is_told_so() -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set=-net_admin", sys.executable, "-c", MAY_NOT],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    assert done.stdout.startswith("nf_tables needs root (CAP_NET_ADMIN)")
