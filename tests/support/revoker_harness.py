"""Fakes for the revoker: policies, conntrack, ruleset and a clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import msgspec

from nfagent.controllers.conntrack_revoker import ConntrackRevoker
from nfagent.errors import SetFullError
from nfagent.netlink.conntrack import ConntrackEntry, decode_entry
from nfagent.netlink.packet_header import ICMP, ICMPV6, TCP
from nfagent.nftables.objects import Element
from nfagent.nftables.transaction import ChangeElements, Transaction
from nfagent.policy.evaluator import Flow
from tests.support.ctnetlink_dump import GRE, DumpEntry, entry_body, tuple_members

TURNS = 30
"""Turns of the event loop after which all callbacks have run."""
DEADLINE = 60.0
ESP = 50
NEAR, FAR, OTHER, DB, SERVICE = "10.0.1.1", "10.0.2.1", "10.0.2.2", "10.0.1.9", "10.96.0.1"
NEAR6, DB6 = "fd00::1", "fd00::9"
REPLY: Element = (DB, "tcp", 5432, NEAR, 40_000)
"""The reply tuple of `entry()`."""


def entry(
    client: str = NEAR, server: str = DB, *, called: str = "", protocol: int = TCP, port: int = 40_000, at: int = 5432
) -> ConntrackEntry:
    """Return a conntrack entry; `called` and `at` are address and port before a Service's translation."""
    numbered = protocol not in {ICMP, ICMPV6, GRE, ESP}
    connection = DumpEntry(
        client=client,
        called=called or server,
        server=server,
        protocol=protocol,
        client_port=port if numbered else None,
        called_port=at if numbered else None,
        server_port=5432 if numbered else None,
    )
    return decode_entry(entry_body(connection))


def masqueraded(found: ConntrackEntry, address: str, port: int) -> ConntrackEntry:
    """Return an entry whose replies go to an address of the node, instead of the client's."""
    members = tuple_members(found.server, address, found.protocol, (found.server_port, port), request=False)
    return msgspec.structs.replace(found, reply=b"".join(members))


class Fakes:
    """Policies, conntrack and ruleset, with a journal of actions.

    denied:    the clients that policies deny
    own:       local addresses; asked: the addresses passed to `is_own`
    recheck:   addresses under re-check, each with the number of its last change
    faults:    errors of the next actions 'list', 'block' or 'delete'
    meanwhile: called during each action, and during 'evaluate'
    free:      set of reply tuples -> its size; unlimited where it is missing
    """

    def __init__(self, *entries: ConntrackEntry, denied: Iterable[str] = (), rechecked: Iterable[str] = ()) -> None:
        self.table = dict.fromkeys(entries)
        self.denied = set(denied)
        self.recheck = dict.fromkeys(rechecked, 1)
        self.blocked: set[Element] = set()
        self.faults: list[tuple[str, Exception]] = []
        self.journal: list[str] = []
        self.questions: list[Flow] = []
        self.own: set[str] = set()
        self.asked: list[str] = []
        self.meanwhile: Callable[[str], object] = lambda _what: None
        self.free: dict[str, int] = {}
        self._elements: dict[str, set[Element]] = {}

    @property
    def live(self) -> list[ConntrackEntry]:
        return list(self.table)

    def _do(self, what: str) -> None:
        self.journal.append(what)
        if self.faults and self.faults[0][0] == what:
            raise self.faults.pop(0)[1]
        self.meanwhile(what)

    def entries(self, addresses: frozenset[str]) -> list[ConntrackEntry]:
        self._do("list")
        return [found for found in self.table if {found.client, found.server} & addresses]

    def delete(self, entries: Iterable[ConntrackEntry]) -> int:
        self._do("delete")
        deleted = [found for found in entries if found in self.table]
        for found in deleted:
            del self.table[found]
        return len(deleted)

    async def apply(self, transaction: Transaction) -> None:
        await asyncio.sleep(0)
        self._do("block")
        for command in transaction:
            assert isinstance(command, ChangeElements)
            assert command.verb == "add"
            known = self._elements.setdefault(command.set, set())
            if len(known | set(command.elements)) > self.free.get(command.set, 1_000_000):
                raise SetFullError(f"{command.set} is full")
        for command in transaction:
            assert isinstance(command, ChangeElements)
            self._elements[command.set].update(command.elements)
            self.blocked.update(command.elements)

    def expire_tuples(self) -> None:
        """Remove all elements from the sets, as after five minutes without packets."""
        self._elements.clear()

    @property
    def recheck_addresses(self) -> dict[str, int]:
        return dict(self.recheck)

    def is_allowed(self, flow: Flow) -> bool:
        self.questions.append(flow)
        self.meanwhile("evaluate")
        return flow.source not in self.denied

    def is_own(self, address: str) -> bool:
        self.asked.append(address)
        return address in self.own

    def clear_recheck(self, judged: Mapping[str, int]) -> None:
        self._do("clear")
        self.recheck = {address: change for address, change in self.recheck.items() if judged.get(address) != change}

    def wake(self) -> None:
        self._do("wake")


class Clock:
    """A clock that advances with each wait, or by a test.

    most: number of waits that end; later ones last
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.cpu = 0.0
        self.pauses: list[float] = []
        self.resting: Callable[[], object] = lambda: None
        self.most = 1_000_000

    def monotonic(self) -> float:
        return self.now

    def cpu_seconds(self) -> float:
        return self.cpu

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.resting()
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)
        while len(self.pauses) > self.most:  # noqa: ASYNC110 - what a test sets is no event
            await asyncio.sleep(0)
        return event.is_set()


class RevokerSetup:
    """A revoker with its fakes."""

    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes
        self.clock = Clock()
        self.revoker = ConntrackRevoker(
            fakes, fakes, fakes, self.clock, fakes.wake, cpu_seconds=self.clock.cpu_seconds, own=fakes.is_own
        )

    async def turn(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def rounds(self, number: int) -> None:
        """Commit, and run so many rounds."""
        self.clock.most = len(self.clock.pauses) + number - 1
        await self.commit(rests=number)

    async def commit(self, rests: int = 1) -> None:
        """Commit, and wait for so many pauses of the revoker."""
        wanted = len(self.clock.pauses) + rests
        self.revoker.committed()
        async with asyncio.timeout(DEADLINE):
            while len(self.clock.pauses) < wanted:  # noqa: ASYNC110 - threads work, and there is no event at their end
                await asyncio.sleep(0)
        await self.turn()


@asynccontextmanager
async def running(fakes: Fakes) -> AsyncIterator[RevokerSetup]:
    stage = RevokerSetup(fakes)
    task = asyncio.create_task(stage.revoker.run())
    try:
        yield stage
        assert not task.done(), "the revoker ended"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


Scenario: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


def scenario(body: Scenario) -> Callable[[], None]:
    """Return a test that runs a coroutine in an event loop."""

    def test() -> None:
        asyncio.run(body())

    test.__name__ = body.__name__
    return test
