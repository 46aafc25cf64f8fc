"""A list of policies is passed on as one batch when it is complete: no part of a relist takes effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from nfagent.kube.informers import Informers
from nfagent.model.gvk import ObjectChange
from nfagent.model.objects import ObjectRef
from tests.support.apiserver_documents import added, bookmark, encoded, end_mark, event, page, status
from tests.support.scripted_http import EventBell, Part, http_script
from tests.support.scripted_source import GONE, POLICIES, InformersHarness, api_server, initial, running
from tests.support.two_node_cluster import labelled
from tests.support.two_node_cluster import policy as network_policy

NAMES = ("q", "r", "s")
FIRST = network_policy("shop/p", labelled(app="web"))
MORE = [network_policy(f"shop/{name}", labelled(app="web")) for name in NAMES]


class Batches(InformersHarness):
    """Keeps the names of each batch."""

    batches: list[str]
    received: float | None = None

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:
        self.received = received
        given = len(self.holder.given)
        await super().apply(changes)
        given_now = self.holder.given[given:]
        names = [(change if isinstance(change, ObjectRef) else change.ref).name for change in given_now]
        if names:
            self.batches.append(" ".join(names))


@asynccontextmanager
async def holding_one() -> AsyncIterator[Batches]:
    """Watch policies, one of which is in the state, until the server has compacted the version."""
    bell = EventBell()
    async with http_script(bell) as script:
        stage = Batches(script, bell)
        stage.batches = []
        server = api_server(script)
        source = Informers(server, stage.clock, stage, stage.held, resources=(POLICIES,), jitter=lambda: 0.5)
        script.on("/readyz", b"ok", lasting=True)
        script.on(POLICIES.path, initial(FIRST), event("ERROR", GONE))
        try:
            async with running(source):
                yield stage
        finally:
            await server.close()


def in_parts(gates: list[asyncio.Event]) -> list[Part]:
    parts: list[Part] = [added(FIRST)]
    for gate, found in zip(gates, MORE, strict=True):
        parts += [gate, added(found)]
    return parts


def test_initial_events_of_policies_that_come_in_several_reads_are_one_batch() -> None:
    async def body() -> None:
        async with holding_one() as stage:
            gates = [asyncio.Event() for _ in MORE]
            stage.script.on(POLICIES.path, *in_parts(gates), end_mark("20"), "silent")
            for number, gate in enumerate(gates, 1):
                await stage.comes(lambda: len(stage.script.of(POLICIES.path)) == 2)
                assert stage.batches == ["p"], number
                gate.set()
            await stage.comes(lambda: len(stage.batches) == 2)
            assert stage.batches == ["p", "p q r s"]

    asyncio.run(body())


def test_a_watch_event_has_the_time_at_which_it_was_read() -> None:
    async def body() -> None:
        async with holding_one() as stage:
            stage.script.on(POLICIES.path, initial(FIRST), added(MORE[0]), "silent")
            await stage.comes(lambda: any("q" in batch for batch in stage.batches))
            assert stage.received is not None
            assert stage.received <= stage.clock.monotonic()

    asyncio.run(body())


def test_pages_of_a_list_of_policies_are_one_batch() -> None:
    async def body() -> None:
        async with holding_one() as stage:
            refused = status(422, "Invalid")
            stage.script.on(POLICIES.path, encoded(refused), status=422, query={"sendInitialEvents": "true"})
            stage.script.on(POLICIES.path, page(FIRST, MORE[0], rest="more"))
            stage.script.on(POLICIES.path, page(*MORE[1:], version="20"), query={"continue": "more"})
            stage.script.on(POLICIES.path, bookmark("21"), "silent")
            await stage.comes(lambda: len(stage.batches) == 2)
            assert stage.batches == ["p", "p q r s"]

    asyncio.run(body())


@pytest.mark.parametrize("again", [MORE[:1], []], ids=["part of it is there again", "nothing of it is there again"])
def test_a_list_that_is_cut_off_has_no_effect(again: list[dict[str, object]]) -> None:
    async def body() -> None:
        async with holding_one() as stage:
            stage.script.on(POLICIES.path, added(*MORE))
            stage.script.on(POLICIES.path, added(FIRST, *again), end_mark("30"), "silent")
            await stage.comes(lambda: len(stage.script.of(POLICIES.path)) == 3)
            await stage.comes(lambda: len(stage.batches) == 2)
            assert stage.batches == ["p", " ".join(["p", *NAMES[: len(again)]])]

    asyncio.run(body())


def test_events_of_one_read_are_one_batch() -> None:
    async def body() -> None:
        async with holding_one() as stage:
            stage.script.on(POLICIES.path, initial(FIRST, version="20"), added(*MORE), "silent")
            await stage.comes(lambda: stage.holder.names == "p q r s")
            assert stage.batches[-1].endswith("q r s")

    asyncio.run(body())
