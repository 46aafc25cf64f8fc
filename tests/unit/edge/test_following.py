"""Following an API server that fails in every way that API servers do.

Time is the test's own, and so are the lots: nothing is waited for but events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from nfagent.edge.access import Access
from nfagent.edge.apiserver import Answer, ApiServer
from nfagent.edge.following import ClusterSource, Server, Stream
from nfagent.errors import KernelError, Unreachable
from nfagent.intake import Intake
from nfagent.reconcile import Reconciler
from nfagent.ruleset.desired import Desired
from nfagent.ruleset.objects import ABSENT, Ruleset
from nfagent.ruleset.transaction import ChangeElements, Transaction, diff
from nfagent.source.reflector import Change, Key
from nfagent.source.resources import RESOURCES, Resource
from tests.api_words import (
    Document,
    Holder,
    added,
    bookmark,
    encoded,
    end_mark,
    error,
    page,
    pod,
    status,
)
from tests.fake_kernel import FakeKernel, Refused
from tests.http_script import Bell, Fault, HttpScript, http_script
from tests.scene import labelled
from tests.scene import policy as network_policy

BY_KIND = {resource.kind: resource for resource in RESOURCES}
PODS, POLICIES, EGRESS = BY_KIND["Pod"], BY_KIND["NetworkPolicy"], BY_KIND["EgressNATPolicy"]
EGRESS_POLICY = {"metadata": {"name": "e", "resourceVersion": "6"}, "spec": {"action": "NoSNAT", "destinations": []}}
ENDED = asyncio.CancelledError
PATIENT = 60.0
"""Seconds of silence that no test reaches."""


class HandClock:
    """Time that passes when the test says so. `pauses` is every wait, in order, as long as it is meant to be."""

    def __init__(self, bell: Bell) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        self._bell = bell
        self._sleeping: list[tuple[float, asyncio.Event]] = []

    def monotonic(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        assert not event.is_set(), "nobody ends these pauses"
        if seconds <= 0:
            await asyncio.sleep(0)
            return False
        due = asyncio.Event()
        self.pauses.append(seconds)
        self._sleeping.append((self.now + seconds, due))
        self._bell.ring()
        await due.wait()
        return False

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for until, due in self._sleeping:
            if until <= self.now:
                due.set()
        self._sleeping = [entry for entry in self._sleeping if not entry[1].is_set()]

    @property
    def sleeps(self) -> bool:
        """Tell whether anybody waits."""
        return bool(self._sleeping)

    async def paused(self, number: int) -> float:
        """Wait for the first, second, ... pause, and tell how long it is."""
        await self._bell.until(lambda: len(self.pauses) >= number)
        return self.pauses[number - 1]


class Stage:
    """One agent before one scripted server, and what it holds. Satisfies following.Taker."""

    def __init__(self, script: HttpScript, bell: Bell, nodes: int = 10) -> None:
        self.script = script
        self.bell = bell
        self.clock = HandClock(bell)
        self.holder = Holder()
        self.syncs: list[str] = []
        self.nodes = nodes

    def held(self, kind: str) -> Collection[Key]:
        return self.holder.held(kind)

    def count_nodes(self) -> int:
        return self.nodes

    async def take(self, changes: Iterable[Change]) -> None:
        self.holder.take(changes)
        self.bell.ring()

    def gathered(self) -> None:
        self.syncs.append(self.holder.names)
        self.bell.ring()

    async def holds(self, names: str) -> None:
        await self.bell.until(lambda: self.holder.names == names)

    async def comes(self, condition: Callable[[], bool]) -> None:
        """Wait for something, through all the pauses before it."""
        while not condition():
            await self.bell.until(lambda: self.clock.sleeps or condition())
            self.clock.advance(5)

    async def in_sync(self) -> None:
        await self.bell.until(lambda: bool(self.syncs))


def api_server(script: HttpScript) -> ApiServer:
    async def find() -> Access:
        return Access(server=script.url, origin="the test")

    return ApiServer(find, environment={})


@asynccontextmanager
async def waiting(
    *resources: Resource, nodes: int = 10, lot: float = 0.5, silence: float = PATIENT
) -> AsyncIterator[tuple[Stage, ClusterSource]]:
    """Put a source before a scripted server that is ready; it doesn't run yet."""
    bell = Bell()
    async with http_script(bell) as script:
        script.on("/readyz", b"ok", lasting=True)
        stage = Stage(script, bell, nodes)
        server = api_server(script)
        source = ClusterSource(
            server, stage.clock, stage, resources=resources or (PODS,), silence=silence, lots=lambda: lot
        )
        try:
            yield stage, source
        finally:
            await server.close()


@asynccontextmanager
async def running(source: ClusterSource) -> AsyncIterator[None]:
    task = asyncio.create_task(source.run())
    try:
        yield
        assert not task.done(), "following ended"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def following(
    *resources: Resource, nodes: int = 10, lot: float = 0.5, silence: float = PATIENT
) -> AsyncIterator[Stage]:
    async with waiting(*resources, nodes=nodes, lot=lot, silence=silence) as (stage, source), running(source):
        yield stage


def initial(*objects: Document, version: str = "5") -> bytes:
    """Write initial events up to their end mark."""
    return added(*objects) + end_mark(version)


def refuse_initial_events(stage: Stage) -> None:
    stage.script.on(PODS.path, encoded(status(422, "Invalid")), status=422, query={"sendInitialEvents": "true"})


GONE = status(410, "Expired", "too old resource version")
A, B, C = pod("a", 1), pod("b", 2), pod("c", 6)


def test_lists_are_streamed_where_the_server_serves_that() -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A, B), "silent", query={"sendInitialEvents": "true"})
            await stage.in_sync()
            assert stage.syncs == ["a b"]
            assert "limit" not in stage.script.asked[0].query

    asyncio.run(body())


def test_otherwise_they_come_in_pages_and_are_watched_from_there() -> None:
    async def body() -> None:
        async with following() as stage:
            refuse_initial_events(stage)
            stage.script.on(PODS.path, page(A, version="9", rest="t1"), query={"limit": "5000"})
            stage.script.on(PODS.path, page(B, version="9"), query={"limit": "5000", "continue": "t1"})
            stage.script.on(PODS.path, added(C), "silent", query={"resourceVersion": "9", "watch": "1"})
            await stage.holds("a b c")
            assert stage.syncs == ["a b"]

    asyncio.run(body())


def test_a_watch_that_is_cut_goes_on_from_the_last_bookmark() -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A), bookmark("50"), "cut")
            stage.clock.advance(await stage.clock.paused(1))
            asked = await stage.script.nth(PODS.path, 2)
            assert asked.query["resourceVersion"] == "50"
            assert stage.holder.gone == ""

    asyncio.run(body())


def on_a_watch(stage: Stage) -> None:
    stage.script.on(PODS.path, initial(A), "cut")
    stage.script.on(PODS.path, encoded(GONE), status=410, query={"resourceVersion": "5"})


def as_an_event(stage: Stage) -> None:
    stage.script.on(PODS.path, initial(A) + error(410, "Expired"), "silent")


def on_an_initial_stream(stage: Stage) -> None:
    stage.script.on(PODS.path, encoded(GONE), status=410, query={"sendInitialEvents": "true"})


def in_an_initial_stream(stage: Stage) -> None:
    stage.script.on(PODS.path, added(A), error(410, "Expired"), "silent")


def between_two_pages(stage: Stage) -> None:
    refuse_initial_events(stage)
    stage.script.on(PODS.path, page(A, rest="t1"), query={"limit": "5000"})
    stage.script.on(PODS.path, encoded(GONE), status=410, query={"continue": "t1"})
    stage.script.on(PODS.path, page(B, version="20"), query={"limit": "5000"})


@pytest.mark.parametrize(
    "gone",
    [on_a_watch, as_an_event, on_an_initial_stream, in_an_initial_stream, between_two_pages],
    ids=lambda way: way.__name__.replace("_", " "),
)
def test_410_in_the_middle_of_anything_leads_to_a_new_list(gone: Callable[[Stage], None]) -> None:
    async def body() -> None:
        async with following() as stage:
            gone(stage)
            stage.script.on(PODS.path, initial(B, version="20"), "silent", query={"sendInitialEvents": "true"})
            await stage.comes(lambda: stage.holder.names == "b")
            assert stage.holder.gone in {"", "a"}

    asyncio.run(body())


def test_an_error_event_ends_the_watch_and_the_next_goes_on_from_there() -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A) + added(B) + error(500, "InternalError", "etcd is away"), "silent")
            stage.clock.advance(await stage.clock.paused(1))
            assert (await stage.script.nth(PODS.path, 2)).query["resourceVersion"] == "2"
            assert stage.holder.names == "a b"

    asyncio.run(body())


ENDS: dict[str, tuple[bytes | Fault, ...]] = {
    "half a line and FIN": (added(C)[:-20], "cut"),
    "half a line and the end of the answer": (added(C)[:-20],),
    "half a line and RST": (added(C)[:-20], "reset"),
    "a line without its newline": (added(C)[:-1],),
    "RST": ("reset",),
    "FIN": ("cut",),
    "the end of the answer": (),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_watch_that_ends_with_goes_on_and_loses_nothing(end: tuple[bytes | Fault, ...]) -> None:
    async def body() -> None:
        async with following() as stage:
            seen = asyncio.Event()
            stage.script.on(PODS.path, initial(A), seen, *end)
            await stage.in_sync()
            seen.set()
            stage.script.on(PODS.path, added(C), "silent", query={"resourceVersion": "5"})
            stage.clock.advance(await stage.clock.paused(1))
            await stage.holds("a c")
            assert stage.holder.gone == ""

    asyncio.run(body())


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_an_answer_that_ends_before_it_begins_is_asked_for_again(fault: Fault) -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.drop(PODS.path, fault)
            for number in (1, 2):
                stage.clock.advance(await stage.clock.paused(number))
            await stage.clock.paused(3)
            stage.script.on(PODS.path, initial(A), "silent")
            await stage.comes(lambda: bool(stage.syncs))
            assert stage.clock.pauses == [0.1875, 0.375, 0.75]

    asyncio.run(body())


def test_a_list_that_is_cut_takes_nothing_away() -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A, B) + error(410, "Expired"), "silent")
            stage.script.on(PODS.path, added(A), "cut")
            stage.script.on(PODS.path, initial(A, B, version="9"), "silent")
            await stage.comes(lambda: len(stage.holder.given) >= 5)
            assert stage.holder.gone == ""

    asyncio.run(body())


def test_an_initial_stream_that_ends_early_is_not_asked_for_again_at_once() -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, added(A), lasting=True)
            stage.clock.now += 100  # as if it had lasted
            first = await stage.clock.paused(1)
            stage.clock.advance(first)
            assert await stage.clock.paused(2) > first > 0

    asyncio.run(body())


def test_a_watch_that_falls_silent_is_begun_anew() -> None:
    async def body() -> None:
        async with following(silence=0.05) as stage:
            stage.script.on(PODS.path, initial(A), "silent")
            stage.script.on(PODS.path, bookmark("8"), "silent", query={"resourceVersion": "5"})
            stage.clock.advance(await stage.clock.paused(1))
            asked = await stage.script.nth(PODS.path, 2)
            assert asked.query["resourceVersion"] == "5"
            stage.clock.advance(await stage.clock.paused(2))
            assert (await stage.script.nth(PODS.path, 3)).query["resourceVersion"] == "8"
            assert stage.holder.gone == ""

    asyncio.run(body())


@pytest.mark.parametrize("lot", [0.0, 0.7])
def test_429_waits_as_long_as_the_server_asks_and_a_lot_more(lot: float) -> None:
    async def body() -> None:
        async with following(lot=lot, nodes=5000) as stage:
            stage.script.on(PODS.path, encoded(status(429)), status=429, headers={"Retry-After": "7"})
            stage.script.on(PODS.path, initial(A), "silent")
            assert await stage.clock.paused(1) == 7 + 5 * lot
            stage.clock.advance(6.9)
            await asyncio.sleep(0)
            assert len(stage.script.asked) == 1
            stage.clock.advance(5)
            await stage.in_sync()

    asyncio.run(body())


async def first_pauses(lot: float, nodes: int) -> list[float]:
    """Give how long an agent waits for a server that isn't there."""
    async with waiting(nodes=nodes, lot=lot) as (stage, source):
        await stage.script.refuse()
        async with running(source):
            for number in (1, 2):
                stage.clock.advance(await stage.clock.paused(number))
            await stage.clock.paused(3)
            return stage.clock.pauses[:3]


def test_two_agents_with_different_lots_do_not_return_at_once() -> None:
    few, many = asyncio.run(first_pauses(0.1, 10)), asyncio.run(first_pauses(0.9, 10))
    assert all(one < other for one, other in zip(few, many, strict=True))


def test_in_a_larger_cluster_agents_return_over_a_longer_time() -> None:
    small, large = asyncio.run(first_pauses(1.0, 10)), asyncio.run(first_pauses(1.0, 15_000))
    assert (small, large) == ([1.0] * 3, [15.0] * 3)


def test_a_server_that_is_away_is_waited_for_and_gone_on_with() -> None:
    async def body() -> None:
        async with following(PODS, POLICIES) as stage:
            stage.script.on(PODS.path, initial(A), "silent")
            stage.script.on(POLICIES.path, initial(version="5"), "silent")
            await stage.in_sync()
            await stage.script.refuse()
            given = list(stage.holder.given)
            for number in range(1, 20):
                await stage.clock.paused(number)
                stage.clock.advance(5)
            assert stage.holder.given == given, "losing the server changes nothing"
            await stage.script.listen()
            stage.script.on(PODS.path, added(C), "silent", query={"resourceVersion": "5"})
            await stage.comes(lambda: stage.holder.names == "a c")
            assert stage.holder.given == [*given, stage.holder.given[-1]], "following goes on from the last version"
            assert stage.syncs == ["a"]

    asyncio.run(body())


def test_a_server_that_starts_is_waited_for_until_it_is_ready() -> None:
    async def body() -> None:
        async with waiting() as (stage, source):
            await stage.script.refuse()
            async with running(source):
                await stage.clock.paused(1)
                stage.script.on("/readyz", b"[-]poststarthook failed", status=500)
                stage.script.on(PODS.path, initial(A), "silent")
                await stage.script.listen()
                stage.clock.advance(1)
                await stage.clock.paused(2)
                assert stage.script.of(PODS.path) == []
                stage.clock.advance(1)
                await stage.in_sync()

    asyncio.run(body())


class TestMissingKinds:
    """Kinds whose CRD isn't there."""

    LIST = "networking.gke.io"

    def discovery(self, *plurals: str) -> bytes:
        versions = [{"version": "v1", "resources": [{"resource": plural} for plural in plurals]}]
        return encoded(
            {"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": self.LIST}, "versions": versions}]}
        )

    def test_are_no_obstacle_and_are_picked_up_within_a_minute_of_their_creation(self) -> None:
        async def body() -> None:
            async with following(PODS, EGRESS, lot=1.0) as stage:
                stage.script.on(PODS.path, initial(A), "silent")
                stage.script.on(EGRESS.path, encoded(status(404, "NotFound")), status=404)
                await stage.in_sync()
                stage.script.on("/apis", self.discovery("others"), headers={"ETag": '"1"'})
                created_after = await stage.clock.paused(1)
                stage.clock.advance(created_after)
                await stage.clock.paused(2)
                assert len(stage.script.of(EGRESS.path)) == 1, "a kind that isn't served isn't asked for"
                created = stage.clock.now
                stage.script.on("/apis", self.discovery("others", EGRESS.plural))
                stage.script.on(EGRESS.path, initial(EGRESS_POLICY), "silent")
                stage.clock.advance(stage.clock.pauses[1])
                await stage.holds("a e")
                assert stage.clock.now - created <= 60
                assert stage.script.of("/apis")[1].headers["if-none-match"] == '"1"'
                assert stage.syncs == ["a"]

        asyncio.run(body())

    @pytest.mark.parametrize(
        ("answer", "code"), [(b'{"kind": "APIGroupList"}', 200), (b"", 403), (b"", 404), (b"", 406)]
    )
    def test_are_asked_for_themselves_where_discovery_does_not_say(self, answer: bytes, code: int) -> None:
        async def body() -> None:
            async with following(PODS, EGRESS) as stage:
                stage.script.on(PODS.path, initial(A), "silent")
                stage.script.on(EGRESS.path, status=404)
                stage.script.on("/apis", answer, status=code)
                stage.script.on(EGRESS.path, initial(EGRESS_POLICY), "silent")
                stage.clock.advance(await stage.clock.paused(1))
                await stage.holds("a e")

        asyncio.run(body())

    @pytest.mark.parametrize("code", [304, 429, 503])
    def test_are_missing_still_where_discovery_has_nothing_new(self, code: int) -> None:
        async def body() -> None:
            async with following(PODS, EGRESS) as stage:
                stage.script.on(PODS.path, initial(A), "silent")
                stage.script.on(EGRESS.path, status=404)
                stage.script.on("/apis", status=code)
                stage.clock.advance(await stage.clock.paused(1))
                await stage.clock.paused(2)
                assert len(stage.script.of(EGRESS.path)) == 1

        asyncio.run(body())

    def test_are_looked_for_once_for_all(self) -> None:
        async def body() -> None:
            resources = [resource for resource in RESOURCES if resource.optional]
            async with following(*resources) as stage:
                for resource in resources:
                    stage.script.on(resource.path, status=404)
                await stage.in_sync()
                for number in range(1, 4):
                    stage.script.on("/apis", self.discovery())
                    stage.clock.advance(await stage.clock.paused(number))
                    await stage.clock.paused(number + 1)
                    assert len(stage.script.of("/apis")) == number

        asyncio.run(body())

    def test_are_not_believed_in_while_the_server_is_not_ready(self) -> None:
        async def body() -> None:
            async with following(EGRESS) as stage:
                stage.script.on("/readyz", b"[-]crd-informer-synced failed", status=500)
                stage.script.on(EGRESS.path, encoded(status(404, "NotFound")), status=404)
                stage.script.on(EGRESS.path, initial(EGRESS_POLICY), "silent")
                pause = await stage.clock.paused(1)
                assert (stage.syncs, pause < 10) == ([], True)
                stage.clock.advance(pause)
                await stage.in_sync()
                assert stage.syncs == ["e"]

        asyncio.run(body())

    def test_that_were_there_are_believed_gone_after_three_answers(self) -> None:
        async def body() -> None:
            async with following(EGRESS) as stage:
                stage.script.on(EGRESS.path, initial(EGRESS_POLICY), "cut")
                stage.script.on(EGRESS.path, encoded(status(404, "NotFound")), status=404, lasting=True)
                for number in (1, 2, 3):
                    pause = await stage.clock.paused(number)
                    assert stage.holder.names == "e"
                    stage.clock.advance(pause)
                await stage.holds("")
                assert await stage.clock.paused(4) >= 30

        asyncio.run(body())


def test_nothing_is_in_sync_before_every_resource_is_and_that_is_told_once() -> None:
    async def body() -> None:
        async with following(PODS, POLICIES) as stage:
            gate = asyncio.Event()
            stage.script.on(PODS.path, initial(A), "silent")
            stage.script.on(POLICIES.path, gate, initial(), "cut")
            await stage.holds("a")
            assert stage.syncs == []
            gate.set()
            await stage.in_sync()
            stage.script.on(POLICIES.path, encoded(GONE), status=410)
            stage.script.on(POLICIES.path, initial(version="20"), "silent")
            await stage.comes(lambda: len(stage.script.of(POLICIES.path)) == 3)
            assert stage.syncs == ["a"]

    asyncio.run(body())


def test_a_relist_gives_what_the_server_has_and_takes_only_what_it_lacks() -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A, B), "cut")
            await stage.in_sync()
            stage.script.on(PODS.path, encoded(GONE), status=410)
            stage.script.on(PODS.path, initial(B, C, version="20"), "silent")
            await stage.comes(lambda: stage.holder.names == "b c")
            assert stage.holder.gone == "a"

    asyncio.run(body())


@pytest.mark.parametrize(("code", "advice"), [(401, "credentials"), (403, "deploy/rbac.yaml")])
def test_who_is_not_let_in_says_so_once_with_what_to_do_and_says_when_it_is_over(
    code: int, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with following() as stage:
            for _ in range(4):
                stage.script.on(PODS.path, encoded(status(code, "No", "who are you?")), status=code)
            # ApiServer asks once more after the first 401, with credentials found anew.
            stage.script.on(PODS.path, initial(A), "silent")
            await stage.comes(lambda: bool(stage.syncs))

    with caplog.at_level(logging.INFO, "nfagent.edge.following"):
        asyncio.run(body())
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["WARNING", "INFO"]
    assert "who are you?" in said[0][1]
    assert advice in said[0][1]
    assert said[1][1] == "every kind is followed again"


def test_what_is_part_of_the_protocol_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with following(PODS, EGRESS) as stage:
            refuse_initial_events(stage)
            stage.script.on(EGRESS.path, status=404)
            stage.script.on(PODS.path, page(A, rest="t"), query={"limit": "5000"})
            stage.script.on(PODS.path, encoded(GONE), status=410, query={"continue": "t"})
            stage.script.on(PODS.path, page(A), query={"limit": "5000"})
            await stage.in_sync()

    with caplog.at_level(logging.INFO, "nfagent.edge.following"):
        asyncio.run(body())
    assert caplog.messages == []


def test_trouble_that_ends_with_the_kind_is_over(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with following(EGRESS) as stage:
            stage.script.on(EGRESS.path, status=500)
            stage.script.on(EGRESS.path, status=404)
            stage.clock.advance(await stage.clock.paused(1))
            await stage.in_sync()
            await stage.clock.paused(2)

    with caplog.at_level(logging.INFO, "nfagent.edge.following"):
        asyncio.run(body())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_list_that_breaks_off_again_and_again_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with following() as stage:
            for _ in range(4):
                stage.script.on(PODS.path, added(A), "cut")
            stage.script.on(PODS.path, initial(A), "silent")
            await stage.comes(lambda: bool(stage.syncs))

    with caplog.at_level(logging.INFO, "nfagent.edge.following"):
        asyncio.run(body())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


class Ringing(logging.Handler):
    """Rings at every line of the log."""

    def __init__(self, bell: Bell) -> None:
        super().__init__()
        self._bell = bell

    def emit(self, _record: logging.LogRecord) -> None:
        self._bell.ring()


def test_recovery_is_said_when_the_watch_is_open_again(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A), "cut")
            stage.script.on(PODS.path, "cut")
            stage.script.on(PODS.path, "silent")  # its head is an answer: nothing happens in this cluster
            for number in (1, 2):
                pause = await stage.clock.paused(number)
                assert len(caplog.messages) == number - 1, "one that is lost, and found at once, is no news"
                stage.clock.advance(pause)
            log = logging.getLogger("nfagent.edge.following")
            ringing = Ringing(stage.bell)
            log.addHandler(ringing)
            try:
                await stage.bell.until(lambda: "every kind is followed again" in caplog.messages)
            finally:
                log.removeHandler(ringing)

    with caplog.at_level(logging.INFO, "nfagent.edge.following"):
        asyncio.run(body())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


class Elsewhere:
    """A server whose readiness is answered, and nothing else: a balancer with a dead master behind it."""

    def __init__(self) -> None:
        self.tries = 0

    async def access(self) -> Access:
        return Access(server="https://balancer", origin="the test")

    async def close(self) -> None:
        """Have nothing to close."""

    def stream(self, path: str, query: dict[str, str], silence: float) -> AbstractAsyncContextManager[Stream]:
        self.tries += 1
        raise Unreachable(f"{path}?{query} in {silence}")

    async def ask(self, method: str, path: str, *, accept: str = "", etag: str = "") -> Answer:
        assert (method, path, accept, etag) == ("GET", "/readyz", "", "")
        return Answer(200, b"ok")


def alone(server: Server, stage: Stage) -> ClusterSource:
    return ClusterSource(server, stage.clock, stage, resources=(PODS,), lots=lambda: 0.5)


def test_a_server_that_is_reachable_in_one_way_only_is_not_asked_in_a_circle() -> None:
    async def body() -> None:
        bell = Bell()
        stage = Stage(HttpScript(bell), bell)
        server = Elsewhere()
        async with running(alone(server, stage)):
            for number in (1, 2, 3):
                stage.clock.advance(await stage.clock.paused(number))
            assert stage.clock.pauses[:3] == [0.1875, 0.375, 0.75]
            assert server.tries <= 5

    asyncio.run(body())


def test_a_reload_lists_everything_again_and_takes_nothing_away() -> None:
    async def body() -> None:
        async with waiting(PODS, POLICIES) as (stage, source), running(source):
            stage.script.on(PODS.path, initial(A, B), "silent")
            stage.script.on(POLICIES.path, initial(), "silent")
            await stage.in_sync()
            stage.script.on(PODS.path, initial(B, C, version="20"), "silent", query={"sendInitialEvents": "true"})
            stage.script.on(POLICIES.path, initial(), "silent", query={"sendInitialEvents": "true"})
            await source.reload()
            await stage.holds("b c")
            await stage.script.nth(POLICIES.path, 2)
            assert (stage.holder.gone, stage.syncs) == ("a", ["a b"])

    asyncio.run(body())


class Unhurried(Stage):
    """Takes one change in a turn of the event loop, as Intake does in a storm."""

    async def take(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self.holder.take([change])
            self.bell.ring()
            await asyncio.sleep(0)


@pytest.mark.parametrize("turns", range(6))
def test_a_reload_in_the_middle_of_a_list_takes_nothing_away(turns: int) -> None:
    async def body() -> None:
        bell = Bell()
        async with http_script(bell) as script:
            stage = Unhurried(script, bell)
            server = api_server(script)
            source = alone(server, stage)
            script.on(PODS.path, status=422)
            script.on(PODS.path, page(A, B, C))
            script.on(PODS.path, encoded(GONE), status=410)
            script.on(PODS.path, page(A, B, C))
            script.on(PODS.path, page(A, B, C))
            try:
                async with running(source):
                    await stage.bell.until(lambda: len(stage.holder.given) > 3)
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    await source.reload()
                    await stage.comes(lambda: len(script.of(PODS.path)) > 5)
                    assert stage.holder.gone == ""
            finally:
                await server.close()

    asyncio.run(body())


class TestServices:
    """What is read for `explain` alone."""

    PATH = "/api/v1/services"

    def service(self, name: str) -> Document:
        return {"metadata": {"namespace": "shop", "name": name}, "spec": {"ports": [{"port": 80}]}}

    def test_are_read_by_pages_when_they_are_asked_for_and_not_again_at_once(self) -> None:
        async def body() -> None:
            async with waiting() as (stage, source):
                stage.script.on(self.PATH, page(self.service("x"), rest="t"), query={"limit": "5000"})
                stage.script.on(self.PATH, page(self.service("y")), query={"continue": "t"})
                await asyncio.gather(source.read_services(), source.read_services())
                assert (stage.holder.names, len(stage.script.asked)) == ("x y", 2)
                await source.read_services()
                assert len(stage.script.asked) == 2
                stage.script.on(self.PATH, page(self.service("y")))
                stage.clock.advance(11)
                await source.read_services()
                assert (stage.holder.names, stage.syncs) == ("y", [])

        asyncio.run(body())

    def test_are_listed_anew_after_410(self) -> None:
        async def body() -> None:
            async with waiting() as (stage, source):
                stage.script.on(self.PATH, page(self.service("x"), rest="t"))
                stage.script.on(self.PATH, encoded(GONE), status=410)
                stage.script.on(self.PATH, page(self.service("y")))
                await source.read_services()
                assert stage.holder.names == "y"

        asyncio.run(body())

    @pytest.mark.parametrize("ways", ["refused", "away", "always expired"])
    def test_stay_as_they_were_where_they_cannot_be_read(self, ways: str, caplog: pytest.LogCaptureFixture) -> None:
        async def body() -> None:
            async with waiting() as (stage, source):
                stage.script.on(self.PATH, page(self.service("x")))
                await source.read_services()
                stage.clock.advance(11)
                if ways == "away":
                    await stage.script.refuse()
                gone = ways == "always expired"
                stage.script.on(self.PATH, encoded(GONE if gone else {}), status=410 if gone else 403, lasting=True)
                await source.read_services()
                assert stage.holder.names == "x"

        asyncio.run(body())
        assert "Services can't be read" in caplog.text


def test_a_server_that_is_not_ready_is_asked_less_often_in_a_larger_cluster() -> None:
    async def pauses(nodes: int) -> list[float]:
        async with waiting(nodes=nodes, lot=1.0) as (stage, source):
            await stage.script.refuse()
            async with running(source):
                await stage.clock.paused(1)
                for _ in range(3):
                    stage.script.on("/readyz", status=500)
                await stage.script.listen()
                for number in (1, 2, 3):
                    stage.clock.advance(await stage.clock.paused(number))
                await stage.clock.paused(4)
                return stage.clock.pauses[1:4]

    assert asyncio.run(pauses(10)) == [0.5] * 3
    assert asyncio.run(pauses(15_000)) == [7.5] * 3


def test_a_server_that_never_calls_itself_ready_is_asked_all_the_same() -> None:
    async def body() -> None:
        async with waiting() as (stage, source):
            await stage.script.refuse()
            async with running(source):
                await stage.clock.paused(1)
                stage.script._steps.clear()  # noqa: SLF001 - it isn't ready any more
                stage.script.on("/readyz", status=500, lasting=True)
                stage.script.on(PODS.path, initial(A), "silent")
                await stage.script.listen()
                began = stage.clock.now
                await stage.comes(lambda: bool(stage.syncs))
                assert stage.clock.now - began > 30

    asyncio.run(body())


class Kernel:
    """tests.fake_kernel behind the Kernel protocol. `commits` is every transaction."""

    def __init__(self, bell: Bell) -> None:
        self.fake = FakeKernel()
        self.commits: list[Transaction] = []
        self._bell = bell

    async def difference(self, wanted: Ruleset) -> Transaction:
        return diff(self.fake.ruleset, wanted)

    async def apply(self, transaction: Transaction) -> None:
        self.commits.append(transaction)
        try:
            self.fake.apply(transaction)
        except Refused as refusal:
            raise KernelError(str(refusal)) from None
        self._bell.ring()


class Standstill:
    """The reconciler's time: none passes but in short pauses, so a resync is never due."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if seconds > 1:
            return await event.wait()
        self.now += seconds
        await asyncio.sleep(0)
        return event.is_set()


class Node(Stage):
    """An agent with a state and a kernel, wired as nfagent.agent does."""

    def __init__(self, script: HttpScript, bell: Bell) -> None:
        super().__init__(script, bell)
        self.desired = Desired("a")
        self.kernel = Kernel(bell)
        self.reconciler = Reconciler(self.kernel, Standstill(), self.desired)
        self.intake = Intake(self.desired, self.clock, self.reconciler.wake)

    def held(self, kind: str) -> Collection[Key]:
        return self.desired.held(kind)

    async def take(self, changes: Iterable[Change]) -> None:
        await self.intake.take(changes)
        self.bell.ring()

    def gathered(self) -> None:
        self.intake.open()
        super().gathered()


WEB, DB = pod("web", 1, "10.64.0.1", app="web"), pod("db", 2, "10.64.0.20", app="db")
FROM_DB = {"ingress": [{"from": [{"podSelector": labelled(app="db")}]}], "types": ["Ingress"]}


def test_the_kernel_is_told_when_all_is_in_sync_and_of_a_relist_only_what_differs() -> None:
    async def body() -> None:
        bell = Bell()
        async with http_script(bell) as script:
            node = Node(script, bell)
            server = api_server(script)
            source = ClusterSource(server, node.clock, node, resources=(PODS, POLICIES), lots=lambda: 0.5)
            reconciling = asyncio.create_task(node.reconciler.run())
            gate = asyncio.Event()
            script.on("/readyz", b"ok", lasting=True)
            script.on(PODS.path, initial(WEB, DB), "silent")
            script.on(POLICIES.path, gate, initial(network_policy("shop/p", labelled(app="web"), **FROM_DB)), "silent")
            try:
                async with running(source):
                    await bell.until(lambda: len(node.desired.cluster.pods) == 2)
                    assert (node.kernel.commits, node.kernel.fake.ruleset) == ([], ABSENT)
                    gate.set()
                    await bell.until(lambda: node.kernel.fake.ruleset == node.desired.ruleset())
                    node.desired.absolve(node.desired.suspects)
                    node.reconciler.wake()
                    await bell.until(lambda: not node.desired.touched)
                    told, ruleset = len(node.kernel.commits), node.kernel.fake.ruleset

                    await script.refuse()
                    for number in range(1, 6):
                        await node.clock.paused(number)
                        node.clock.advance(5)
                    assert (len(node.kernel.commits), node.desired.touched) == (told, False)
                    assert node.kernel.fake.ruleset == ruleset

                    script.on(PODS.path, encoded(GONE), status=410)
                    moved = pod("db", 9, "10.64.0.30", app="db")
                    script.on(PODS.path, initial(WEB, moved, version="20"), "silent")
                    await script.listen()
                    await node.comes(lambda: len(node.kernel.commits) > told)
                    transaction = node.kernel.commits[told]
                    changed = [command for command in transaction if isinstance(command, ChangeElements)]
                    assert list(transaction) == changed, "nothing but elements"
                    told_of = {str(element) for command in changed for element in command.elements}
                    assert {"10.64.0.20", "10.64.0.30"} <= told_of
                    assert "10.64.0.1" not in told_of
                    assert node.kernel.fake.ruleset == node.desired.ruleset()
                    assert not reconciling.done()
            finally:
                reconciling.cancel()
                await asyncio.gather(reconciling, return_exceptions=True)
                await server.close()

    asyncio.run(body())
