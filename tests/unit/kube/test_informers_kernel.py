"""From the API server to the kernel: no write before the sync, none during an outage, then the difference."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from nfagent.controllers.event_applier import EventApplier
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError
from nfagent.kube.informers import Informers
from nfagent.kube.reflector_requests import Key
from nfagent.model.gvk import ObjectChange
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.nftables.transaction import ChangeElements, Transaction
from tests.support.apiserver_documents import encoded, pod
from tests.support.fake_nftables import FakeNftables, Refused
from tests.support.scripted_http import EventBell, HttpScript, http_script
from tests.support.scripted_source import GONE, PODS, POLICIES, InformersHarness, api_server, initial, running
from tests.support.two_node_cluster import labelled
from tests.support.two_node_cluster import policy as network_policy


class RecordingKernel:
    """tests.support.fake_nftables with the reconciler's protocol. `commits` has every transaction."""

    def __init__(self, bell: EventBell) -> None:
        self.fake = FakeNftables()
        self.commits: list[Transaction] = []
        self._bell = bell

    async def read(self) -> Ruleset:
        return self.fake.ruleset

    async def difference(self, wanted: Ruleset, *, anew: bool = False) -> Transaction:  # noqa: ARG002
        return diff(self.fake.ruleset, wanted)

    async def accept_variants(self, wanted: Ruleset, repair: Transaction) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    async def apply(self, transaction: Transaction) -> None:
        self.commits.append(transaction)
        try:
            self.fake.apply(transaction)
        except Refused as refusal:
            raise KernelError(str(refusal)) from None
        self._bell.ring()


class Standstill:
    """The reconciler's clock: it advances by short pauses only, so a resync is never due."""

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


class Node(InformersHarness):
    """An agent with a state and a kernel, wired as nfagent.agent does."""

    def __init__(self, script: HttpScript, bell: EventBell) -> None:
        super().__init__(script, bell)
        self.desired = DesiredState("a")
        self.kernel = RecordingKernel(bell)
        self.reconciler = Reconciler(self.kernel, Standstill(), self.desired)
        self.applier = EventApplier(self.desired, self.clock, self.reconciler.wake)

    def held(self, kind: str) -> Collection[Key]:
        return self.desired.keys(kind)

    async def apply(self, changes: Iterable[ObjectChange], received: float | None = None) -> None:  # noqa: ARG002 - of the protocol
        await self.applier.apply(changes)
        self.bell.ring()

    def on_synced(self) -> None:
        self.applier.open()
        super().on_synced()


WEB, DB = pod("web", 1, "10.64.0.1", app="web"), pod("db", 2, "10.64.0.20", app="db")


FROM_DB = {"ingress": [{"from": [{"podSelector": labelled(app="db")}]}], "types": ["Ingress"]}


def test_the_kernel_is_written_after_the_sync_and_a_relist_writes_only_the_difference() -> None:
    async def body() -> None:
        bell = EventBell()
        async with http_script(bell) as script:
            node = Node(script, bell)
            server = api_server(script)
            source = Informers(server, node.clock, node, node.held, resources=(PODS, POLICIES), jitter=lambda: 0.5)
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
                    node.desired.clear_recheck(node.desired.recheck_addresses)  # codespell:ignore absolve,suspects
                    node.reconciler.wake()
                    await bell.until(lambda: not node.desired.dirty)
                    told, ruleset = len(node.kernel.commits), node.kernel.fake.ruleset

                    await script.refuse()
                    for number in range(1, 6):
                        await node.clock.paused(number)
                        node.clock.advance(5)
                    assert (len(node.kernel.commits), node.desired.dirty) == (told, False)
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
