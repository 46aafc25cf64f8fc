"""What looks find in iptables, when they come, and what they cost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from nfagent.clock import SystemClock
from nfagent.errors import KernelError
from nfagent.kernel.ipset_socket import IpSetSocket
from nfagent.kernel.look_budget import LOOK_SECONDS, LookBudget
from nfagent.kernel.nfacct_socket import NfacctSocket
from nfagent.kernel.xt_client import XtClient
from nfagent.kernel.xt_listing import XtKernel
from nfagent.kernel.xt_programs import XtPrograms, programs_of
from nfagent.kernel.xt_watch import XtWatch
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT
from nfagent.nftables.transaction import ChangeElements
from tests.kernel.test_xt_client import SHOP, converge, run, shop
from tests.support.own_namespace import own_iptables
from tests.support.two_node_cluster import pod

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and iptables"),
]

DEADLINE = 60.0


@pytest.fixture(autouse=True)
def _namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enter a new network namespace with this thread; the lock of iptables is this test's own."""
    with own_iptables("xtlooks", tmp_path, monkeypatch):
        yield


@contextmanager
def client(programs: XtPrograms | None = None) -> Iterator[XtClient]:
    kernel = XtKernel(programs or programs_of("legacy"), (4, 6), IpSetSocket(), NfacctSocket())
    made = XtClient(kernel, lambda: ABSENT)
    try:
        yield made
    finally:
        made.close()


def spent() -> LookBudget:
    """Return a budget of which no listing is left."""
    budget = LookBudget()
    budget.listed(1_000.0)
    return budget


def test_a_flush_is_found_without_any_listing() -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        assert not await kernel.is_changed(with_content=False, budget=spent())
        run("iptables-legacy", "-t", "mangle", "-F")
        assert await kernel.is_changed(with_content=False, budget=spent())

    with client() as kernel:
        asyncio.run(body(kernel))


def test_another_difference_is_found_when_there_is_credit_for_a_listing() -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        assert not await kernel.is_changed(with_content=False)
        run("iptables-legacy", "-t", "mangle", "-I", "FORWARD", "1", "-j", "ACCEPT")
        assert not await kernel.is_changed(with_content=False, budget=spent())
        assert await kernel.is_changed(with_content=False)

    with client() as kernel:
        asyncio.run(body(kernel))


def test_a_change_before_our_own_is_verified_is_found_by_its_listing() -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        run("iptables-legacy", "-t", "mangle", "-I", "FORWARD", "1", "-j", "ACCEPT")
        assert await kernel.is_changed(with_content=False)

    with client() as kernel:
        asyncio.run(body(kernel))


class LockClock(SystemClock):
    """A clock on which no second passes within the test: what waits that long goes on when it is woken only."""

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for the event, or for a short time."""
        return await super().wait(event, seconds if seconds < LOOK_SECONDS / 2 else 2 * DEADLINE)


def test_a_look_follows_a_program_of_iptables_legacy_at_once() -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        changed = asyncio.Event()
        watching = asyncio.create_task(XtWatch(kernel, changed.set, LockClock()).run())
        while not changed.is_set():  # the first ones may end before the lock is followed
            await asyncio.to_thread(run, "iptables-legacy", "-t", "mangle", "-F")
        watching.cancel()
        await asyncio.wait([watching])

    with client() as kernel:
        asyncio.run(asyncio.wait_for(body(kernel), DEADLINE))


def logged(folder: Path) -> XtPrograms:
    """Return programs that write down which tables they save."""
    found = programs_of("legacy")
    for family, program in found.families.items():
        script = folder / Path(program.save).name
        script.write_text(f'#!/bin/sh\necho "{family} $2" >> {folder}/saves\nexec {program.save} "$@"\n')
        script.chmod(0o755)
        found.families[family] = msgspec.structs.replace(program, save=str(script))
    return found


def test_an_unchanged_table_is_not_listed_again(tmp_path: Path) -> None:
    saves = tmp_path / "saves"

    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        assert await kernel.difference(SHOP) == ()
        saves.write_text("")
        assert await kernel.difference(SHOP) == ()
        assert not await kernel.is_changed(with_content=True)
        assert saves.read_text() == ""
        run("iptables-legacy", "-t", "nat", "-I", "POSTROUTING", "1", "-j", "ACCEPT")
        assert await kernel.is_changed(with_content=False)
        assert await converge(kernel, SHOP)
        assert saves.read_text() == "4 nat\n"
        assert await kernel.difference(SHOP) == ()

    with client(logged(tmp_path)) as kernel:
        asyncio.run(body(kernel))


@pytest.mark.parametrize("changes", [True, False], ids=["beside a change of our own is none", "is reported"])
def test_a_refusal_to_print_a_table(tmp_path: Path, *, changes: bool) -> None:
    """iptables-save asks for the names of sets after it has read the rules: a change may have destroyed one."""
    asked, answer, programs = tmp_path / "asked", tmp_path / "answer", programs_of("legacy")
    program = programs.families[6]
    save = tmp_path / "save"
    save.write_text(
        f'#!/bin/sh\n[ -p {answer} ] || exec {program.save} "$@"\n'
        f'echo >{asked}; read line <{answer}; echo "Set with index 66 in kernel doesn\'t exist." >&2; exit 1\n'
    )
    save.chmod(0o755)
    wrapped = msgspec.structs.replace(program, save=str(save))
    programs = msgspec.structs.replace(programs, families={**programs.families, 6: wrapped})
    more = shop(pod("shop/db-2", "b", 12, app="db"))

    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        run("ip6tables-legacy", "-t", "mangle", "-I", "FORWARD", "1", "-j", "ACCEPT")
        for fifo in (asked, answer):
            os.mkfifo(fifo)
        looking = asyncio.create_task(kernel.is_changed(with_content=False))
        await asyncio.to_thread(asked.read_text)
        if changes:
            await kernel.apply(diff(SHOP, more))
        await asyncio.to_thread(answer.write_text, "go on\n")
        if changes:
            assert not await looking
        else:
            with pytest.raises(KernelError, match="Set with index 66"):
                await looking

    with client(programs) as kernel:
        asyncio.run(body(kernel))


def test_a_few_members_are_in_force_without_a_thread_between() -> None:
    more = shop(pod("shop/db-2", "b", 12, app="db"))
    change = diff(SHOP, more)
    assert {type(command) for command in change} == {ChangeElements}

    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        coming = kernel.apply(change)
        with pytest.raises(StopIteration):
            coming.send(None)  # it waits for nothing
        assert await kernel.difference(more) == ()

    with client() as kernel:
        asyncio.run(body(kernel))


def test_members_that_others_change_are_read_again() -> None:
    async def body(kernel: XtClient) -> None:
        await converge(kernel, SHOP)
        assert await kernel.difference(SHOP) == ()
        run("ipset", "flush")
        assert await converge(kernel, SHOP)
        assert await kernel.difference(SHOP) == ()

    with client() as kernel:
        asyncio.run(body(kernel))
