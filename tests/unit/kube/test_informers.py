"""List and watch against an API server that expires versions, cuts responses off, stalls, and sends invalid objects.

Time is the test's own: nothing is waited for but events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import pytest

from nfagent.kube.informers import Informers
from nfagent.model.gvk import ObjectChange
from tests.support.apiserver_documents import Document, added, bookmark, broken_pod, encoded, error, page, status
from tests.support.idle_time import hurrying, run_in_idle_time
from tests.support.scripted_http import EventBell, Fault, http_script
from tests.support.scripted_source import (
    EGRESS,
    GONE,
    PODS,
    POLICIES,
    A,
    B,
    C,
    InformersHarness,
    alone,
    api_server,
    following,
    initial,
    refuse_initial_events,
    running,
    waiting,
)

SILENCE = 10.0
"""A read timeout that passes where a test hurries."""


def test_lists_are_streamed_where_the_server_serves_that() -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A, B), "silent", query={"sendInitialEvents": "true"})
            await stage.in_sync()
            assert stage.syncs == ["a b"]
            assert "limit" not in stage.script.requests[0].query

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


def test_a_cut_watch_continues_from_the_last_bookmark() -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A), bookmark("50"), "cut")
            stage.clock.advance(await stage.clock.paused(1))
            asked = await stage.script.nth(PODS.path, 2)
            assert asked.query["resourceVersion"] == "50"
            assert stage.holder.gone == ""

    asyncio.run(body())


def on_a_watch(stage: InformersHarness) -> None:
    stage.script.on(PODS.path, initial(A), "cut")
    stage.script.on(PODS.path, encoded(GONE), status=410, query={"resourceVersion": "5"})


def as_an_event(stage: InformersHarness) -> None:
    stage.script.on(PODS.path, initial(A) + error(410, "Expired"), "silent")


def on_an_initial_stream(stage: InformersHarness) -> None:
    stage.script.on(PODS.path, encoded(GONE), status=410, query={"sendInitialEvents": "true"})


def in_an_initial_stream(stage: InformersHarness) -> None:
    stage.script.on(PODS.path, added(A), error(410, "Expired"), "silent")


def between_two_pages(stage: InformersHarness) -> None:
    refuse_initial_events(stage)
    stage.script.on(PODS.path, page(A, rest="t1"), query={"limit": "5000"})
    stage.script.on(PODS.path, encoded(GONE), status=410, query={"continue": "t1"})
    stage.script.on(PODS.path, page(B, version="20"), query={"limit": "5000"})


@pytest.mark.parametrize(
    "gone",
    [on_a_watch, as_an_event, on_an_initial_stream, in_an_initial_stream, between_two_pages],
    ids=lambda mode: mode.__name__.replace("_", " "),
)
def test_410_in_the_middle_of_anything_leads_to_a_new_list(gone: Callable[[InformersHarness], None]) -> None:
    async def body() -> None:
        async with following() as stage:
            gone(stage)
            stage.script.on(PODS.path, initial(B, version="20"), "silent", query={"sendInitialEvents": "true"})
            await stage.comes(lambda: stage.holder.names == "b")
            assert stage.holder.gone in {"", "a"}

    asyncio.run(body())


def test_an_error_event_ends_the_watch_and_the_next_one_continues() -> None:
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
def test_a_watch_continues_without_loss_after(end: tuple[bytes | Fault, ...]) -> None:
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


def test_a_list_that_is_cut_off_removes_nothing() -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A, B) + error(410, "Expired"), "silent")
            stage.script.on(PODS.path, added(A), "cut")
            stage.script.on(PODS.path, initial(A, B, version="9"), "silent")
            await stage.comes(lambda: len(stage.holder.given) >= 5)
            assert stage.holder.gone == ""

    asyncio.run(body())


@pytest.mark.parametrize("end", [("cut",), ("reset",), ()], ids=["cut", "reset", "ended"])
def test_objects_of_an_interrupted_list_do_not_count_for_the_next(end: tuple[Fault, ...]) -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A, B) + error(410, "Expired"), "silent")
            seen = asyncio.Event()
            stage.script.on(PODS.path, added(A), seen, *end)
            stage.script.on(PODS.path, initial(B, version="9"), "silent")
            await stage.bell.until(lambda: len(stage.holder.given) == 3)
            seen.set()
            await stage.comes(lambda: stage.holder.names == "b")

    asyncio.run(body())


def watched_version(source: Informers) -> str:
    return str(source.status()["apiserver"]["resources"]["Pod"]["version"])


def test_a_watch_is_restarted_after_a_read_timeout() -> None:
    async def body() -> None:
        async with waiting(read_timeout=SILENCE) as (stage, source), running(source):
            stage.script.on(PODS.path, initial(A), "silent")
            stage.script.on(PODS.path, bookmark("8"), "silent", query={"resourceVersion": "5"})
            await stage.in_sync()
            stage.clock.advance(await hurrying(stage.clock.paused(1)))
            asked = await stage.script.nth(PODS.path, 2)
            assert asked.query["resourceVersion"] == "5"
            await stage.bell.until(lambda: watched_version(source) == "8")
            stage.clock.advance(await hurrying(stage.clock.paused(2)))
            assert (await stage.script.nth(PODS.path, 3)).query["resourceVersion"] == "8"
            assert stage.holder.gone == ""

    run_in_idle_time(body())


def test_two_read_timeouts_at_one_version_lead_to_a_list() -> None:
    async def body() -> None:
        async with following(read_timeout=SILENCE) as stage:
            stage.script.on(PODS.path, initial(A), "silent")
            stage.script.on(PODS.path, "silent", query={"resourceVersion": "5"})
            await stage.in_sync()
            stage.clock.advance(await hurrying(stage.clock.paused(1)))
            await stage.script.nth(PODS.path, 2)
            stage.clock.advance(await hurrying(stage.clock.paused(2)))
            asked = await stage.script.nth(PODS.path, 3)
            assert ("resourceVersion" in asked.query, asked.query.get("sendInitialEvents")) == (False, "true")
            assert stage.holder.gone == ""

    run_in_idle_time(body())


def test_in_sync_once_every_resource_is() -> None:
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


def test_a_relist_returns_the_servers_objects_and_removes_only_the_missing_ones() -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A, B), "cut")
            await stage.in_sync()
            stage.script.on(PODS.path, encoded(GONE), status=410)
            stage.script.on(PODS.path, initial(B, C, version="20"), "silent")
            await stage.comes(lambda: stage.holder.names == "b c")
            assert stage.holder.gone == "a"

    asyncio.run(body())


def test_a_reload_lists_every_resource_again_and_removes_nothing() -> None:
    async def body() -> None:
        async with waiting(PODS, POLICIES) as (stage, source), running(source):
            stage.script.on(PODS.path, initial(A, B), "silent")
            stage.script.on(POLICIES.path, initial(), "silent")
            await stage.in_sync()
            stage.script.on(PODS.path, initial(B, C, version="20"), "silent", query={"sendInitialEvents": "true"})
            stage.script.on(POLICIES.path, initial(), "silent", query={"sendInitialEvents": "true"})
            await source.reload()
            assert stage.holder.names == "b c"
            assert len(stage.script.of(POLICIES.path)) == 2
            assert (stage.holder.gone, stage.syncs) == ("a", ["a b"])

    asyncio.run(body())


def test_a_reload_ends_after_the_list_of_every_kind() -> None:
    async def body() -> None:
        async with waiting(PODS, POLICIES) as (stage, source), running(source):
            stage.script.on(PODS.path, initial(A, B), "silent")
            stage.script.on(POLICIES.path, initial(), "silent")
            await stage.in_sync()
            held_back = asyncio.Event()
            stage.script.on(PODS.path, added(A), held_back, initial(C, version="20"), "silent")
            stage.script.on(POLICIES.path, initial(), "silent")
            reloading = stage.begins(source.reload())
            await stage.script.nth(POLICIES.path, 2)
            await stage.script.nth(PODS.path, 2)
            for _ in range(100):
                await asyncio.sleep(0)
            assert not reloading.done()
            held_back.set()
            await stage.comes(reloading.done)
            assert stage.holder.names == "a c"

    asyncio.run(body())


def test_a_reload_during_an_outage_ends_after_it() -> None:
    async def body() -> None:
        async with waiting(PODS) as (stage, source), running(source):
            stage.script.on(PODS.path, initial(A, B), "silent")
            await stage.in_sync()
            await stage.script.refuse()
            reloading = stage.begins(source.reload())
            await stage.clock.paused(1)
            assert not reloading.done()
            stage.script.on(PODS.path, initial(C), "silent", query={"sendInitialEvents": "true"})
            await stage.script.listen()
            await stage.comes(reloading.done)
            assert stage.holder.names == "c"

    asyncio.run(body())


class Unhurried(InformersHarness):
    """Takes one change in a turn of the event loop, as EventApplier does in a storm."""

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:  # noqa: ARG002 - of the protocol
        for change in changes:
            self.holder.take([change])
            self.bell.ring()
            await asyncio.sleep(0)


@pytest.mark.parametrize("turns", range(6))
def test_a_reload_during_a_list_removes_nothing(turns: int) -> None:
    async def body() -> None:
        bell = EventBell()
        async with http_script(bell) as script:
            stage = Unhurried(script, bell)
            server = api_server(script)
            source = alone(server, stage)
            refuse_initial_events(stage)
            script.on(PODS.path, page(A, B, C), query={"resourceVersion": "0"})
            script.on(PODS.path, encoded(GONE), status=410, query={"watch": "1"})
            script.on(PODS.path, page(A, B, C), query={"resourceVersionMatch": "NotOlderThan"})
            script.on(PODS.path, page(A, B, C), query={"limit": "5000"})
            try:
                async with running(source):
                    await stage.bell.until(lambda: len(stage.holder.given) > 3)
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    reloading = stage.begins(source.reload())
                    await stage.comes(reloading.done)
                    assert stage.holder.gone == ""
            finally:
                await server.close()

    asyncio.run(body())


class TestServices:
    """Resources that are read for `explain` only."""

    PATH = "/api/v1/services"

    def service(self, name: str) -> Document:
        return {"metadata": {"namespace": "shop", "name": name}, "spec": {"ports": [{"port": 80}]}}

    def test_are_read_by_pages_when_they_are_asked_for_and_not_again_at_once(self) -> None:
        async def body() -> None:
            async with waiting() as (stage, source):
                stage.script.on(self.PATH, page(self.service("x"), rest="t"), query={"limit": "5000"})
                stage.script.on(self.PATH, page(self.service("y")), query={"continue": "t"})
                await asyncio.gather(source.read_services(), source.read_services())
                assert (stage.holder.names, len(stage.script.requests)) == ("x y", 2)
                await source.read_services()
                assert len(stage.script.requests) == 2
                stage.script.on(self.PATH, page(self.service("y")))
                stage.clock.advance(11)
                await source.read_services()
                assert (stage.holder.names, stage.syncs) == ("y", [])

        asyncio.run(body())

    def test_have_issues_until_they_are_corrected(self) -> None:
        async def body() -> None:
            async with waiting() as (stage, source):
                stage.script.on(self.PATH, page({**self.service("x"), "spec": {"clusterIP": "y"}}))
                await source.read_services()
                assert stage.holder.names == "x"
                assert [(problem.object, problem.field) for problem in source.problems] == [
                    ("Service shop/x", "spec.clusterIP")
                ]
                assert source.faults == {}
                stage.script.on(self.PATH, page(self.service("x")))
                stage.clock.advance(11)
                await source.read_services()
                assert source.problems == ()

        asyncio.run(body())

    def test_are_listed_again_after_410(self) -> None:
        async def body() -> None:
            async with waiting() as (stage, source):
                stage.script.on(self.PATH, page(self.service("x"), rest="t"))
                stage.script.on(self.PATH, encoded(GONE), status=410)
                stage.script.on(self.PATH, page(self.service("y")))
                await source.read_services()
                assert stage.holder.names == "y"

        asyncio.run(body())

    @pytest.mark.parametrize("ways", ["refused", "away", "always expired"])
    def test_stay_when_their_list_fails(self, ways: str, caplog: pytest.LogCaptureFixture) -> None:
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
                assert len(stage.script.requests) == {"refused": 2, "away": 1, "always expired": 4}[ways]

        asyncio.run(body())
        assert "list of Services failed" in caplog.text


def test_the_status_has_every_kind(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with waiting(PODS, EGRESS) as (stage, source):
            with caplog.at_level(logging.INFO, "nfagent.kube.informers"):
                await source.start()
            named = f"{stage.script.url}, by the test"
            assert caplog.messages == [f"watching API server {named}"]
            stage.script.on(PODS.path, initial(A, broken_pod("x")), "silent")
            stage.script.on(EGRESS.path, encoded(status(403, "Forbidden", "no")), status=403)
            async with running(source):
                await stage.clock.paused(1)
                await stage.holds("a x")
                told = source.status()["apiserver"]
                assert (told["server"], told["synced"]) == (named, False)
                pods = {
                    "phase": "watching",
                    "synced": True,
                    "version": "5",
                    "objects": 2,
                    "trouble": "",
                    "heard_seconds_ago": 0.0,
                }
                assert told["resources"]["Pod"] == pods
                assert told["resources"]["EgressNATPolicy"]["trouble"].startswith("403 Forbidden: no")
                assert [problem.object for problem in source.problems] == ["Pod shop/x"]

    asyncio.run(body())
