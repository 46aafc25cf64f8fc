"""Waiting for an API server that is unreachable, busy, not ready or lacks a kind; and the log lines about it.

Time is the test's own, and so are the lots.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from nfagent.errors import UnreachableError
from nfagent.kube.api import ResponseStream
from nfagent.kube.client import ApiClient, ApiResponse
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.informers import Informers
from nfagent.model.gvk import RESOURCES
from tests.support.apiserver_documents import added, encoded, page, status
from tests.support.scripted_http import EventBell, Fault, http_script
from tests.support.scripted_source import (
    EGRESS,
    EGRESS_POLICY,
    GONE,
    PODS,
    POLICIES,
    A,
    C,
    InformersHarness,
    alone,
    following,
    initial,
    refuse_initial_events,
    running,
    waiting,
)


@pytest.mark.parametrize("jitter", [0.0, 0.7])
def test_429_waits_for_retry_after_and_a_jitter(jitter: float) -> None:
    async def body() -> None:
        async with following(jitter=jitter, nodes=5000) as stage:
            stage.script.on(PODS.path, encoded(status(429)), status=429, headers={"Retry-After": "7"})
            stage.script.on(PODS.path, initial(A), "silent")
            assert await stage.clock.paused(1) == 7 + 5 * jitter
            stage.clock.advance(6.9)
            await asyncio.sleep(0)
            assert len(stage.script.requests) == 1
            stage.clock.advance(5)
            await stage.in_sync()

    asyncio.run(body())


async def first_pauses(jitter: float, nodes: int) -> list[float]:
    """Return the pauses of an agent before an unreachable server."""
    async with waiting(nodes=nodes, jitter=jitter) as (stage, source):
        await stage.script.refuse()
        async with running(source):
            for number in (1, 2):
                stage.clock.advance(await stage.clock.paused(number))
            await stage.clock.paused(3)
            return stage.clock.pauses[:3]


def test_two_agents_with_different_jitter_do_not_return_at_once() -> None:
    few, many = asyncio.run(first_pauses(0.1, 10)), asyncio.run(first_pauses(0.9, 10))
    assert all(one < other for one, other in zip(few, many, strict=True))


def test_in_a_larger_cluster_agents_return_over_a_longer_time() -> None:
    small, large = asyncio.run(first_pauses(1.0, 10)), asyncio.run(first_pauses(1.0, 15_000))
    assert (small, large) == ([1.0] * 3, [15.0] * 3)


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_an_empty_watch_is_requested_again(fault: Fault) -> None:
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


async def opened(stage: InformersHarness, number: int, *parts: bytes | Fault) -> None:
    """Respond to the first, second, ... request; a minute passes before these parts and the end."""
    gate = asyncio.Event()
    stage.script.on(PODS.path, gate, *parts)
    await stage.script.nth(PODS.path, number)
    stage.clock.advance(60)
    gate.set()


@pytest.mark.parametrize("end", [(added(A), "cut"), (added(A),)], ids=["cut", "ended"])
def test_incomplete_initial_events_double_the_pause(end: tuple[bytes | Fault, ...]) -> None:
    """Independent of their length: fifteen thousand agents list all Pods."""

    async def body() -> None:
        async with following() as stage:
            for number in (1, 2, 3):
                await opened(stage, number, *end)
                stage.clock.advance(await stage.clock.paused(number))
            first, second, third = stage.clock.pauses
            assert 0 < first < second < third

    asyncio.run(body())


def test_a_steady_watch_resets_the_pauses() -> None:
    async def body() -> None:
        async with following() as stage:
            for _ in range(3):
                stage.script.on(PODS.path, status=500)
            for number in (1, 2, 3):
                stage.clock.advance(await stage.clock.paused(number))
            await opened(stage, 4, initial(A), "cut")
            await stage.clock.paused(4)
            assert stage.clock.pauses == [0.375, 0.75, 1.5, 0.1875]

    asyncio.run(body())


def test_after_an_outage_the_watch_continues() -> None:
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


def test_one_reflector_probes_for_all() -> None:
    async def body() -> None:
        resources = (PODS, POLICIES, EGRESS)
        async with waiting(*resources) as (stage, source):
            await stage.script.refuse()
            async with running(source):
                for number in (1, 2, 3):
                    stage.clock.advance(await stage.clock.paused(number))
                await stage.clock.paused(4)
                for resource in resources:
                    stage.script.on(resource.path, initial(), "silent")
                await stage.script.listen()
                stage.clock.advance(1)
                await stage.in_sync()
                assert len(stage.script.of("/readyz")) == 1

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


def test_an_unready_server_is_probed_less_often_in_a_larger_cluster() -> None:
    async def pauses(nodes: int) -> list[float]:
        async with waiting(nodes=nodes, jitter=1.0) as (stage, source):
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


def test_a_server_that_is_never_ready_is_used_after_30_seconds() -> None:
    async def body() -> None:
        async with waiting() as (stage, source):
            await stage.script.refuse()
            async with running(source):
                await stage.clock.paused(1)
                stage.script.unready()
                stage.script.on(PODS.path, initial(A), "silent")
                await stage.script.listen()
                began = stage.clock.now
                await stage.comes(lambda: bool(stage.syncs))
                assert stage.clock.now - began > 30

    asyncio.run(body())


class Elsewhere:
    """A server that answers only /readyz: a load balancer with a dead server behind it."""

    def __init__(self) -> None:
        self.tries = 0

    async def client_config(self) -> ClientConfig:
        return ClientConfig(server="https://balancer", origin="the test")

    async def close(self) -> None:
        """Ignore the call."""

    def stream(
        self, path: str, query: dict[str, str], read_timeout: float
    ) -> AbstractAsyncContextManager[ResponseStream]:
        self.tries += 1
        raise UnreachableError(f"{path}?{query} in {read_timeout}")

    async def request(self, method: str, path: str, *, accept: str = "", etag: str = "") -> ApiResponse:
        assert (method, path, accept, etag) == ("GET", "/readyz", "", "")
        return ApiResponse(200, b"ok")


def test_a_server_that_only_answers_probes_is_not_retried_in_a_loop() -> None:
    async def body() -> None:
        bell, server = EventBell(), Elsewhere()
        async with http_script(bell) as unused:
            stage = InformersHarness(unused, bell)
            async with running(alone(server, stage)):
                for number in (1, 2, 3):
                    stage.clock.advance(await stage.clock.paused(number))
                assert stage.clock.pauses[:3] == [0.1875, 0.375, 0.75]
                assert server.tries <= 5

    asyncio.run(body())


class TestMissingKinds:
    """Kinds without a CRD."""

    LIST = "networking.gke.io"

    def discovery(self, *plurals: str, version: str = "v1") -> bytes:
        versions = [{"version": version, "resources": [{"resource": plural} for plural in plurals]}]
        return encoded(
            {"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": self.LIST}, "versions": versions}]}
        )

    def test_do_not_delay_the_sync_and_are_watched_within_a_minute_of_their_creation(self) -> None:
        async def body() -> None:
            async with following(PODS, EGRESS, jitter=1.0) as stage:
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
                stage.script.on(EGRESS.path, initial(EGRESS_POLICY), "silent", query={"sendInitialEvents": "true"})
                stage.clock.advance(stage.clock.pauses[1])
                await stage.holds("a e")
                assert stage.clock.now - created <= 60
                assert stage.script.of("/apis")[1].headers["if-none-match"] == '"1"'
                assert stage.syncs == ["a"]

        asyncio.run(body())

    @pytest.mark.parametrize(
        ("answer", "code"), [(b'{"kind": "APIGroupList"}', 200), (b"", 403), (b"", 404), (b"", 406)]
    )
    def test_are_requested_directly_where_discovery_is_refused(self, answer: bytes, code: int) -> None:
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
    def test_stay_missing_while_discovery_is_unchanged(self, code: int) -> None:
        async def body() -> None:
            async with following(PODS, EGRESS) as stage:
                stage.script.on(PODS.path, initial(A), "silent")
                stage.script.on(EGRESS.path, status=404)
                stage.script.on("/apis", status=code)
                stage.clock.advance(await stage.clock.paused(1))
                await stage.clock.paused(2)
                assert len(stage.script.of(EGRESS.path)) == 1

        asyncio.run(body())

    def test_are_discovered_by_one_request_for_all(self) -> None:
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
                stage.script.on("/apis", self.discovery(*(resource.plural for resource in resources)))
                for resource in resources:
                    stage.script.on(resource.path, status=404)
                stage.clock.advance(stage.clock.pauses[3])
                for resource in resources:
                    if resource.api_version == f"{self.LIST}/v1":
                        await stage.script.nth(resource.path, 2)  # all of them were waiting for that one look

        asyncio.run(body())

    def test_do_not_count_as_missing_while_the_server_is_not_ready(self) -> None:
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

    def test_count_as_missing_where_the_server_is_never_ready(self) -> None:
        """A readiness check that fails permanently must not prevent enforcement."""

        async def body() -> None:
            async with waiting(EGRESS) as (stage, source):
                stage.script.unready()
                stage.script.on(EGRESS.path, encoded(status(404, "NotFound")), status=404, lasting=True)
                async with running(source):
                    began = stage.clock.now
                    await stage.comes(lambda: bool(stage.syncs))
                    assert 30 < stage.clock.now - began < 90

        asyncio.run(body())

    def test_are_verified_again_after_every_start(self) -> None:
        async def body() -> None:
            async with following(EGRESS) as stage:
                stage.script.on("/readyz", status=500)
                stage.script.on(EGRESS.path, status=404)
                stage.script.on(EGRESS.path, initial(), "cut")
                stage.clock.advance(await stage.clock.paused(1))
                await stage.in_sync()
                pause = await stage.clock.paused(2)
                stage.clock.now += 3600
                stage.script.on("/readyz", status=500)
                stage.script.on(EGRESS.path, status=404)
                stage.script.on(EGRESS.path, initial(EGRESS_POLICY), "silent")
                stage.clock.advance(pause)
                await stage.clock.paused(3)
                assert stage.clock.pauses[2] < 30, "it was taken for missing"

        asyncio.run(body())

    def test_that_were_served_are_removed_after_three_404s(self) -> None:
        async def body() -> None:
            async with following(EGRESS) as stage:
                stage.script.on(EGRESS.path, initial(EGRESS_POLICY), "cut")
                stage.script.on(EGRESS.path, encoded(status(404, "NotFound")), status=404, lasting=True)
                stage.script.on("/apis", self.discovery("others"), lasting=True)
                for number in (1, 2, 3):
                    pause = await stage.clock.paused(number)
                    assert stage.holder.names == "e"
                    stage.clock.advance(pause)
                await stage.holds("")
                assert await stage.clock.paused(4) >= 30

        asyncio.run(body())

    def test_that_are_served_in_another_version_stay_in_force_and_are_reported(self) -> None:
        async def body() -> None:
            async with waiting(EGRESS) as (stage, source), running(source):
                stage.script.on(EGRESS.path, initial(EGRESS_POLICY), "cut")
                stage.script.on(EGRESS.path, encoded(status(404, "NotFound")), status=404, lasting=True)
                stage.script.on("/apis", self.discovery(EGRESS.plural, version="v2"), lasting=True)
                for number in range(1, 6):
                    stage.clock.advance(await stage.clock.paused(number))
                assert stage.holder.names == "e"
                trouble = "EgressNATPolicy served as v2, but read as v1; the last known state stays in force"
                assert source.status()["apiserver"]["resources"]["EgressNATPolicy"]["trouble"] == trouble

        asyncio.run(body())

    def test_that_were_served_stay_in_force_until_the_server_says_that_it_serves_no_other_version(self) -> None:
        async def body() -> None:
            async with waiting(EGRESS) as (stage, source), running(source):
                stage.script.on(EGRESS.path, initial(EGRESS_POLICY), "cut")
                stage.script.on(EGRESS.path, encoded(status(404, "NotFound")), status=404, lasting=True)
                for _ in range(3):
                    stage.script.on("/apis", status=500)
                    stage.script.on("/apis", encoded(status(429)), status=429)
                stage.script.on("/apis", self.discovery("others"), lasting=True)
                for number in range(1, 7):
                    stage.clock.advance(await stage.clock.paused(number))
                    assert stage.holder.names == "e"
                trouble = source.status()["apiserver"]["resources"]["EgressNATPolicy"]["trouble"]
                assert "the API server doesn't say in which versions it serves it" in trouble
                for number in range(7, 10):
                    stage.clock.advance(await stage.clock.paused(number))
                await stage.holds("")

        asyncio.run(body())

    def test_never_read_are_reported_where_they_are_served_in_another_version(self) -> None:
        async def body() -> None:
            async with waiting(EGRESS) as (stage, source), running(source):
                stage.script.on(EGRESS.path, status=404)
                stage.script.on("/apis", self.discovery(EGRESS.plural, version="v2"))
                await stage.in_sync()
                stage.clock.advance(await stage.clock.paused(1))
                await stage.clock.paused(2)
                standing = source.status()["apiserver"]["resources"]["EgressNATPolicy"]
                assert standing["trouble"] == "EgressNATPolicy served as v2, but read as v1"

        asyncio.run(body())


@pytest.mark.parametrize(("code", "advice"), [(401, "credentials"), (403, "deploy/rbac.yaml")])
def test_401_and_403_are_logged_once_with_advice_and_their_recovery(
    code: int, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with following() as stage:
            for _ in range(4):
                stage.script.on(PODS.path, encoded(status(code, "No", "who are you?")), status=code)
            # ApiServer asks once more after the first 401, with credentials found anew.
            stage.script.on(PODS.path, initial(A), "silent")
            await stage.comes(lambda: bool(stage.syncs))

    with caplog.at_level(logging.INFO, "nfagent.kube.informers"):
        asyncio.run(body())
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["WARNING", "INFO"]
    assert "who are you?" in said[0][1]
    assert advice in said[0][1]
    assert said[1][1] == "all kinds are watched again"


def test_failures_of_the_protocol_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with following(PODS, EGRESS) as stage:
            refuse_initial_events(stage)
            stage.script.on(EGRESS.path, encoded(status(429)), status=429, headers={"Retry-After": "1"})
            stage.script.on(EGRESS.path, status=404)
            stage.script.on(PODS.path, page(A, rest="t"), query={"limit": "5000"})
            stage.script.on(PODS.path, encoded(GONE), status=410, query={"continue": "t"})
            stage.script.on(PODS.path, page(A), query={"limit": "5000"})
            await stage.comes(lambda: bool(stage.syncs))

    with caplog.at_level(logging.INFO, "nfagent.kube.informers"):
        asyncio.run(body())
    assert caplog.messages == []


@pytest.mark.parametrize(("times", "retry_after"), [(3, "1"), (1, "60")], ids=["more than once", "for long"])
def test_a_busy_server_is_logged(times: int, retry_after: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with following() as stage:
            for _ in range(times):
                asked = {"Retry-After": retry_after}
                stage.script.on(PODS.path, encoded(status(429, "TooManyRequests")), status=429, headers=asked)
            stage.script.on(PODS.path, initial(A), "silent")
            await stage.comes(lambda: bool(stage.syncs))

    with caplog.at_level(logging.INFO, "nfagent.kube.informers"):
        asyncio.run(body())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_recovery_is_logged_when_the_last_kind_is_watched(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with following(PODS, POLICIES) as stage:
            for path in (PODS.path, POLICIES.path):
                stage.script.on(path, encoded(status(500, "InternalError", "etcd is away")), status=500)
            gate = asyncio.Event()
            stage.script.on(PODS.path, initial(A), "silent")
            stage.script.on(POLICIES.path, gate, initial(), "silent")
            await stage.clock.paused(2)  # both have failed before one recovers
            await stage.comes(lambda: stage.holder.names == "a")
            assert len(caplog.messages) == 1, "one trouble for both, and one of them has it still"
            gate.set()
            await stage.in_sync()

    with caplog.at_level(logging.INFO, "nfagent.kube.informers"):
        asyncio.run(body())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_failure_ends_when_its_kind_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with following(EGRESS) as stage:
            stage.script.on(EGRESS.path, status=500)
            stage.script.on(EGRESS.path, status=404)
            stage.clock.advance(await stage.clock.paused(1))
            await stage.in_sync()
            await stage.clock.paused(2)

    with caplog.at_level(logging.INFO, "nfagent.kube.informers"):
        asyncio.run(body())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_list_that_is_cut_off_repeatedly_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with following() as stage:
            for _ in range(4):
                stage.script.on(PODS.path, added(A), "cut")
            stage.script.on(PODS.path, initial(A), "silent")
            await stage.comes(lambda: bool(stage.syncs))

    with caplog.at_level(logging.INFO, "nfagent.kube.informers"):
        asyncio.run(body())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


class Ringing(logging.Handler):
    """Rings at every line of the log."""

    def __init__(self, bell: EventBell) -> None:
        super().__init__()
        self._bell = bell

    def emit(self, _record: logging.LogRecord) -> None:
        self._bell.ring()


def test_recovery_is_logged_when_the_watch_is_open_again(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with following() as stage:
            stage.script.on(PODS.path, initial(A), "cut")
            stage.script.on(PODS.path, "cut")
            stage.script.on(PODS.path, "silent")  # its head is an answer: nothing happens in this cluster
            for number in (1, 2):
                pause = await stage.clock.paused(number)
                assert len(caplog.messages) == number - 1, "one that is lost, and found at once, is no news"
                stage.clock.advance(pause)
            log = logging.getLogger("nfagent.kube.informers")
            ringing = Ringing(stage.bell)
            log.addHandler(ringing)
            try:
                await stage.bell.until(lambda: "all kinds are watched again" in caplog.messages)
            finally:
                log.removeHandler(ringing)

    with caplog.at_level(logging.INFO, "nfagent.kube.informers"):
        asyncio.run(body())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_files_that_can_not_be_read_are_tried_less_and_less_often_and_logged_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    absent = tmp_path / "ca.crt"
    reason = f"{absent}: No such file or directory; the connection to the API server needs it"

    async def find() -> ClientConfig:
        return ClientConfig(server="https://127.0.0.1:9", origin="here", ca_file=str(absent))

    async def body() -> None:
        async with waiting() as (stage, _):
            server = ApiClient(find)
            source = Informers(server, stage.clock, stage, stage.held, jitter=lambda: 1.0)
            async with running(source):
                for number in range(1, 10):
                    await stage.clock.paused(number * len(RESOURCES))
                    stage.clock.advance(15)
            await server.close()
            assert source.trouble == f"API server not followed: {reason}"
            kinds = source.status()["apiserver"]["resources"].values()
            assert all(str(absent) in kind["trouble"] for kind in kinds)
            expected = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
            each = len(RESOURCES)
            assert stage.clock.pauses[: each * len(expected)] == [pause for pause in expected for _ in range(each)]

    asyncio.run(body())
    [logged] = [message for message in caplog.messages if str(absent) in message]
    assert logged == f"Namespace: watch interrupted: {reason}; no rules are written until it was read"
