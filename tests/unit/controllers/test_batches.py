"""The objects of one batch take effect in one commit, at a cost in proportion to their number."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from types import FrameType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.controllers.event_applier import EventApplier
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, ObjectRef, Pod
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Goto, Ruleset
from nfagent.nftables.transaction import Transaction
from tests.support.fake_nftables import FakeNftables
from tests.support.two_node_cluster import decoded, labelled, pod, policy

QUIET_TURNS = 400
DEADLINE = 60.0
WEB = "10.64.0.10"


SCENE = [
    decoded(pod("shop/web", "a", 10, app="web")),
    decoded(pod("shop/last", "b", 20, app="last")),
]


def file_of_policies(count: int, peers: int = 1) -> list[Item]:
    """Return policies on one Pod, of which only the last allows traffic."""
    found = []
    for number in range(count):
        names = ["last"] if number == count - 1 else [f"db{number}-{peer}" for peer in range(peers)]
        allowed = [{"podSelector": labelled(app=name)} for name in names]
        found.append(decoded(policy(f"shop/p{number:04}", labelled(app="web"), ingress=[{"from": allowed}])))
    return found


class SlowKernel:
    """A fake kernel whose commits take turns of the event loop; records every committed ruleset."""

    def __init__(self) -> None:
        self.fake = FakeNftables()
        self.held: list[Ruleset] = []

    async def difference(self, wanted: Ruleset, *, anew: bool = False) -> Transaction:  # noqa: ARG002
        await asyncio.sleep(0)
        return diff(self.fake.ruleset, wanted)

    async def apply(self, transaction: Transaction) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        self.fake.apply(transaction)
        self.held.append(self.fake.ruleset)

    async def read(self) -> Ruleset:
        return self.fake.ruleset

    async def accept_variants(self, wanted: Ruleset, repair: Transaction) -> tuple[str, ...]:  # noqa: ARG002
        return ()


class SteppingClock:
    """A clock that advances by a step at each reading: the duration of an event or a computation step."""

    def __init__(self, step: float) -> None:
        self.now = 1000.0
        self.step = step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if seconds > 1:
            return await event.wait()
        await asyncio.sleep(0)
        return event.is_set()


class ApplierSetup:
    """An applier and a reconciler, and a task that wakes the reconciler all the time, as changes of others do."""

    def __init__(self, step: float) -> None:
        self.desired = DesiredState("a")
        self.kernel = SlowKernel()
        clock = SteppingClock(step)
        self.reconciler = Reconciler(self.kernel, clock, self.desired)
        self.applier = EventApplier(self.desired, clock, self.reconciler.wake, self.reconciler.undivided)

    async def meddle(self) -> None:
        while True:
            self.reconciler.wake()
            await asyncio.sleep(0)

    async def quiet(self) -> None:
        for _ in range(QUIET_TURNS):
            await asyncio.sleep(0)


@asynccontextmanager
async def running(step: float, scene: Iterable[Item] = SCENE) -> AsyncIterator[ApplierSetup]:
    stage = ApplierSetup(step)
    tasks = [asyncio.create_task(stage.reconciler.run()), asyncio.create_task(stage.meddle())]
    try:
        async with asyncio.timeout(DEADLINE):
            await stage.applier.apply(scene)
            stage.applier.open()
            await stage.quiet()
            assert stage.kernel.fake.ruleset == stage.desired.ruleset() != ABSENT
            stage.kernel.held.clear()
            yield stage
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def chains_of(ruleset: Ruleset, address: str) -> tuple[str | None, ...]:
    return tuple(item.elements.get(address) for item in ruleset.maps.values())


def policies_in_force(ruleset: Ruleset, address: str) -> set[str]:
    """Return the verdict chains that an address's rules lead to."""
    chains = [chain for chain in chains_of(ruleset, address) if chain is not None]
    ways = (rule.verdict for chain in chains for rule in ruleset.chains[chain].rules)
    return {way.chain for way in ways if isinstance(way, Goto)}


def rulesets_after(batch: list[Item | ObjectRef], step: float, scene: Iterable[Item] = SCENE) -> list[Ruleset]:
    """Apply a batch; return every ruleset that was committed from then on."""

    async def body() -> list[Ruleset]:
        async with running(step, scene) as stage:
            await stage.applier.apply(batch)
            await stage.quiet()
            assert stage.kernel.fake.ruleset == stage.desired.ruleset()
            return list(stage.kernel.held)

    return asyncio.run(body())


POLICIES = file_of_policies(100)
SPEEDS = pytest.mark.parametrize(
    "step", [0.0, 0.003, 0.02], ids=["all in one slice", "several in a slice", "one in a slice"]
)


@SPEEDS
def test_the_policies_of_a_file_take_effect_in_one_commit(step: float) -> None:
    [only] = rulesets_after([*POLICIES], step)
    assert policies_in_force(only, WEB) >= {f"allow/ingress/shop/p{number:04}" for number in range(100)}


@SPEEDS
def test_the_policies_of_a_deleted_file_are_removed_in_one_commit(step: float) -> None:
    [only] = rulesets_after([item.ref for item in POLICIES], step, [*SCENE, *POLICIES])
    assert chains_of(only, WEB) == (None,) * len(only.maps)


@SPEEDS
def test_a_policy_and_its_namespace_take_effect_in_one_commit(step: float) -> None:
    peers = [{"namespaceSelector": labelled(team="b")}]
    about = decoded(policy("shop/p", labelled(app="web"), ingress=[{"from": peers}]))
    far = Pod("far", "db", (("app", "db"),), "b", ("10.64.1.1",), workload_name="db")
    relabelled = Namespace("far", (("kubernetes.io/metadata.name", "far"), ("team", "b")))
    [only] = rulesets_after([about, relabelled, *POLICIES], step, [*SCENE, far])
    assert policies_in_force(only, WEB) >= {
        "allow/ingress/shop/p",
        "allow/ingress/shop/p0000",
        "allow/ingress/shop/p0099",
    }
    assert {"10.64.1.1"} in [item.elements for item in only.sets.values()]


def test_pods_of_a_large_batch_are_committed_before_its_end() -> None:
    many = [
        Pod("shop", f"p{number}", (("app", "last"),), "b", (f"10.65.{number >> 8}.{number & 255}",))
        for number in range(600)
    ]
    found = rulesets_after([*POLICIES, *many], 0.001)
    assert len(found) > 2
    assert all(len(policies_in_force(ruleset, WEB)) >= len(POLICIES) for ruleset in found)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.004, 0.02]),
)
def test_no_ruleset_in_force_has_a_part_of_a_batch(drawn: list[tuple[int, bool, bool]], step: float) -> None:
    """Policies added, changed and removed in one batch: every committed ruleset is that of before or of after."""
    batch: list[Item | ObjectRef] = []
    for number, there, other in drawn:
        made = POLICIES[number + 10 * other]
        assert isinstance(made, NetworkPolicy)
        named = ObjectRef("NetworkPolicy", "shop", f"q{number}")
        batch.append(msgspec.structs.replace(made, name=named.name) if there else named)
    before, after = DesiredState("a"), DesiredState("a")
    for item in [*SCENE, *POLICIES[:3]]:
        before.put(item)
        after.put(item)
    for event in batch:
        after.remove(event) if isinstance(event, ObjectRef) else after.put(event)
    allowed = [policies_in_force(desired.ruleset(), WEB) for desired in (before, after)]
    for ruleset in rulesets_after(batch, step, [*SCENE, *POLICIES[:3]]):
        assert policies_in_force(ruleset, WEB) in allowed


def calls(work: Callable[[], object]) -> int:
    """Return the number of Python function calls, a measure of work that doesn't depend on the machine's load."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def work_of(batch: list[Item]) -> int:
    desired = DesiredState("a")
    for item in SCENE:
        desired.put(item)
    desired.drain_changes()

    def work() -> None:
        for item in batch:
            desired.put(item)
        desired.drain_changes()

    return calls(work)


@pytest.mark.parametrize("peers", [1, 10], ids=["one peer each", "ten peers each"])
def test_four_times_as_many_policies_cost_four_times_the_work(peers: int) -> None:
    few, many = (work_of(file_of_policies(count, peers)) for count in (50, 200))
    assert many < 5 * few


def test_a_peer_that_loses_its_policy_and_finds_another_in_one_batch_has_the_pods_of_the_end() -> None:
    desired = DesiredState("a")
    first, second = file_of_policies(1), file_of_policies(2)[1:]
    for item in [*SCENE, *first]:
        desired.put(item)
    desired.drain_changes()
    desired.remove(ObjectRef("NetworkPolicy", "shop", "p0000"))
    desired.remove(ObjectRef("Pod", "shop", "last"))
    desired.put(Pod("shop", "late", (("app", "last"),), "b", ("10.64.0.77",), workload_name="late"))
    desired.put(second[0])
    desired.remove(ObjectRef("Pod", "shop", "late"))
    desired.put(Pod("shop", "later", (("app", "last"),), "b", ("10.64.0.78",), workload_name="later"))
    desired.clear_recheck(desired.recheck_addresses)
    assert desired.ruleset() == desired.rebuilt().ruleset()
    assert {"10.64.0.78"} in [item.elements for item in desired.ruleset().sets.values()]
