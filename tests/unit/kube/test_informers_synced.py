"""A kind counts as read once its list is applied, not once the list has ended: rules are written from then on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from nfagent.kube.informers import Informers
from nfagent.model.gvk import ObjectChange, Resource
from nfagent.model.objects import ObjectRef
from tests.support.scripted_http import EventBell, http_script
from tests.support.scripted_source import PODS, POLICIES, A, InformersHarness, api_server, initial, running
from tests.support.two_node_cluster import labelled
from tests.support.two_node_cluster import policy as network_policy

POLICY = network_policy("shop/p", labelled(app="web"))
OBJECTS = {PODS.kind: A, POLICIES.kind: POLICY}


class BusyState(InformersHarness):
    """A state that applies other objects while those of one kind wait for `free`."""

    kept = ""
    waiting = 0
    free: asyncio.Event

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:
        found = list(changes)
        kinds = {change.kind if isinstance(change, ObjectRef) else change.ref.kind for change in found}
        if self.kept in kinds:
            self.waiting += 1
            self.bell.ring()
            await self.free.wait()
        await super().apply(found, received)


@asynccontextmanager
async def keeping(kept: Resource) -> AsyncIterator[tuple[BusyState, Informers]]:
    """Read Pods and policies into a state in which those of a kind wait."""
    bell = EventBell()
    async with http_script(bell) as script:
        stage = BusyState(script, bell)
        stage.kept, stage.free = kept.kind, asyncio.Event()
        server = api_server(script)
        resources = (PODS, POLICIES)
        source = Informers(server, stage.clock, stage, stage.held, resources=resources, jitter=lambda: 0.5)
        script.on("/readyz", b"ok", lasting=True)
        for resource in resources:
            for version in ("5", "6"):
                script.on(resource.path, initial(OBJECTS[resource.kind], version=version), "silent")
        try:
            async with running(source):
                yield stage, source
        finally:
            await server.close()


def other_names(kept: Resource) -> str:
    return "p" if kept is PODS else "a"


@pytest.mark.parametrize("kept", [PODS, POLICIES], ids=lambda kind: f"{kind.kind} objects")
def test_the_source_is_not_synced_while_the_state_has_yet_to_apply(kept: Resource) -> None:
    async def body() -> None:
        async with keeping(kept) as (stage, source):
            await stage.comes(lambda: stage.waiting == 1 and stage.holder.names == other_names(kept))
            # The other kind's next event would find both lists read to their end.
            assert not source.synced
            assert not source.status()["apiserver"]["resources"][kept.kind]["synced"]
            assert stage.syncs == []
            stage.free.set()
            await stage.in_sync()
            assert stage.syncs == ["a p"]

    asyncio.run(body())


@pytest.mark.parametrize("kept", [PODS, POLICIES], ids=lambda kind: f"{kind.kind} objects")
def test_a_list_that_a_reload_took_away_before_it_was_applied_does_not_count(kept: Resource) -> None:
    async def body() -> None:
        async with keeping(kept) as (stage, source):
            await stage.comes(lambda: stage.waiting == 1 and stage.holder.names == other_names(kept))
            reload = stage.begins(source.reload())
            await stage.comes(lambda: stage.waiting == 2)
            await stage.comes(lambda: len(stage.script.of(PODS.path)) + len(stage.script.of(POLICIES.path)) == 4)
            assert (stage.syncs, reload.done()) == ([], False)
            stage.free.set()
            await stage.comes(reload.done)
            assert stage.syncs == ["a p"]

    asyncio.run(body())
