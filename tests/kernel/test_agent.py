"""The Agent itself, in this process: signals, reload, failures, and the order in which it closes what it opened.

Its parts are real: nf_tables, NFLOG and conntrack of a network namespace of its own, a folder of manifests, systemd's
notification socket.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nfagent.agent import Agent
from nfagent.config import load_settings
from nfagent.errors import UsageError
from nfagent.introspection import http_server
from nfagent.kernel import table_lock
from tests.kernel.test_cli import CLUSTER
from tests.support.agent_in_process import isolate, run_alone, write_manifests
from tests.support.own_namespace import own_namespace

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, nf_tables and NFLOG"),
]

_T = TypeVar("_T")
DEADLINE = 60.0
JOINED = """
apiVersion: v1
kind: Node
metadata: {{name: {0}}}
status: {{addresses: [{{type: InternalIP, address: {1}}}]}}
"""
ORDER = [
    *("_verdict_log", "serving", "_source", "_checkpoint"),
    *("_reconcile._connections", "_reconcile.backend.client", "_reconcile._nft_monitor", "claim"),
]
"""First what takes packets and requests, then the source of objects, then the kernel, last the table's lock."""


class Site:
    """A folder of manifests, what systemd is notified of, and the parts that were closed, in order."""

    def __init__(self, folder: Path, notified: socket.socket) -> None:
        self.manifests = folder / "manifests"
        self.socket = folder / "run" / "agent.sock"
        self.closed: list[str] = []
        self._notified = notified

    def states(self) -> list[str]:
        """Return the states that systemd was notified of since the last call."""
        found = []
        while True:
            try:
                found.append(self._notified.recv(4096).decode())
            except BlockingIOError:
                return found

    async def await_state(self, word: str) -> None:
        async with asyncio.timeout(DEADLINE):
            while word not in (await asyncio.get_running_loop().sock_recv(self._notified, 4096)).decode():
                pass

    def order(self) -> list[str]:
        """Return the parts by their last close: a part may close its socket earlier, after an error."""
        return list(dict.fromkeys(reversed(self.closed)))[::-1]

    def agent(self) -> Agent:
        """Return an agent whose parts record when they are closed."""
        made = Agent(load_settings(flags={"node": "node-a"}))
        for name in ORDER:
            if name.startswith("_"):
                part = attrgetter(name)(made)
                part.close = self.recorded(name, part.close)
        return made

    def recorded(self, name: str, close: Callable[[], _T]) -> Callable[[], _T]:
        def closing() -> _T:
            # A thread that still reads conntrack after its task was cancelled closes its own socket, at any time.
            if threading.current_thread() is threading.main_thread():
                self.closed.append(name)
            return close()

        return closing


def open_sockets() -> set[str]:
    """Return the sockets that this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return {target for target in found if target.startswith("socket:")}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    isolate(monkeypatch, tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    write_manifests(tmp_path, CLUSTER)
    with own_namespace("agent"), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(0)
        made = Site(tmp_path, notified)
        claim, serve = table_lock.acquire_table, http_server.serve

        def acquire_table() -> table_lock.TableLock:
            lock = claim()
            lock.close = made.recorded("claim", lock.close)  # type: ignore[method-assign]
            return lock

        async def serving(*arguments: Any, **named: Any) -> http_server.SocketServer:  # noqa: ANN401 - those of serve
            found = await serve(*arguments, **named)
            found.cleanup = made.recorded("serving", found.cleanup)  # type: ignore[method-assign]
            return found

        monkeypatch.setattr("nfagent.agent.acquire_table", acquire_table)
        monkeypatch.setattr(http_server, "serve", serving)
        gc.collect()  # sockets of earlier tests
        before, threads = open_sockets(), set(threading.enumerate())
        yield made
        gc.collect()  # libnftables closes its socket with its context
        assert open_sockets() == before, "sockets are left open"
        left = [thread.name for thread in set(threading.enumerate()) - threads if not thread.daemon]
        assert left == [], "threads are left that delay the end of the process"
        assert not made.socket.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_agent_which_closes_its_parts_in_order(site: Site, number: signal.Signals) -> None:
    async def body() -> None:
        running = asyncio.create_task(site.agent().run())
        await site.await_state("STATUS=enforcing")
        assert site.socket.is_socket()
        os.kill(os.getpid(), number)
        await running

    run_alone(body, DEADLINE)
    assert site.order() == ORDER
    assert site.states()[-1] == "STOPPING=1"


def test_sighup_reads_the_manifests_again_and_notifies_systemd_when_it_begins_and_ends(site: Site) -> None:
    async def body() -> None:
        made = site.agent()
        reload, reopen = made._source.reload, made._verdict_log.reopen  # noqa: SLF001 - the boundary to both
        reread: list[str] = []

        async def reloading() -> None:
            await reload()
            reread.append("manifests")

        def reopening() -> None:
            reopen()
            reread.append("verdict log")

        made._source.reload = reloading  # type: ignore[method-assign]  # noqa: SLF001
        made._verdict_log.reopen = reopening  # type: ignore[method-assign]  # noqa: SLF001
        running = asyncio.create_task(made.run())
        await site.await_state("STATUS=enforcing")
        assert reread == []
        os.kill(os.getpid(), signal.SIGHUP)
        await site.await_state("RELOADING=1\nMONOTONIC_USEC=")
        await site.await_state("READY=1\nSTATUS=enforcing")
        assert sorted(reread) == ["manifests", "verdict log"]
        assert not running.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    run_alone(body, DEADLINE)
    assert site.order() == ORDER


def test_the_way_to_a_node_that_joins_alone_is_looked_up_at_once(site: Site) -> None:
    """Not a minute later, when all interfaces are read again: it may be the first one behind an interface."""

    async def body() -> None:
        made = site.agent()
        running = asyncio.create_task(made.run())
        await site.await_state("STATUS=enforcing")
        # The first one may come before the reading at the start.
        for name, address in (("node-c", "10.0.3.254"), ("node-d", "10.0.4.254")):
            (site.manifests / f"{name}.yaml").write_text(JOINED.format(name, address))
            async with asyncio.timeout(30):
                while name not in made._desired.cluster.nodes or made._links.is_outdated:  # noqa: SLF001, ASYNC110
                    await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    run_alone(body, DEADLINE)


def test_a_source_that_fails_at_the_start_ends_the_agent_with_its_error_and_nothing_open(site: Site) -> None:
    async def body() -> None:
        made = site.agent()

        async def failing() -> None:
            raise UsageError("the folder is not readable")

        made._source.start = failing  # type: ignore[method-assign]  # noqa: SLF001 - the boundary to the source
        with pytest.raises(UsageError, match="the folder is not readable"):
            await made.run()

    run_alone(body, DEADLINE)
    assert site.order() == ORDER


def test_a_stop_while_the_source_still_starts_cancels_it(site: Site) -> None:
    async def body() -> None:
        made = site.agent()
        starting = asyncio.Event()

        async def endless() -> None:
            starting.set()
            await asyncio.Event().wait()

        made._source.start = endless  # type: ignore[method-assign]  # noqa: SLF001 - the boundary to the source
        running = asyncio.create_task(made.run())
        await starting.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    run_alone(body, DEADLINE)
    assert site.order() == ORDER


def test_a_part_that_raises_while_others_run_ends_them_all(site: Site) -> None:
    async def body() -> None:
        made = site.agent()
        running = asyncio.Event()

        async def failing() -> None:
            await running.wait()
            raise RuntimeError("broken")

        made._revoker.run = failing  # type: ignore[method-assign]  # noqa: SLF001 - one part of many
        ended = asyncio.create_task(made.run())
        await site.await_state("STATUS=enforcing")
        running.set()
        with pytest.raises(ExceptionGroup) as raised:
            await ended
        assert [str(error) for error in raised.value.exceptions] == ["broken"]

    run_alone(body, DEADLINE)
    assert site.order() == ORDER
    assert site.states()[-1] == "STOPPING=1"
