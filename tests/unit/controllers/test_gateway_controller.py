"""When a gateway plan is carried out: routes before the commit, the rest after it, again after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Generator, Iterator

import msgspec
import pytest

from nfagent.controllers.gateway_controller import GatewayController
from nfagent.egress.gateways import GatewayPlan, GatewayRoute
from nfagent.errors import KernelError
from nfagent.kernel.gateway_links import Outcome
from nfagent.netlink.rtnl_address import InterfaceAddress

ROUTE = GatewayRoute(1, 4, "192.0.2.101", "n2", ("192.0.2.2",))
HELD = GatewayPlan(("192.0.2.100",))
ROUTED = GatewayPlan((), (ROUTE,))
NOTHING = GatewayPlan()


class RecordingKernel:
    """Records what is asked of the kernel, which refuses while `refusal` isn't empty."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.held: set[str] = set()
        self.refusal = ""
        self.lasting: tuple[str, ...] = ()
        self.now, self.step_seconds, self.steps = 0.0, 0.0, 0

    def add_routes(self, plan: GatewayPlan) -> Generator[None, None, tuple[str, ...]]:
        self.calls.append(("open", plan))
        yield from self._steps(plan)
        return ()

    def apply(self, plan: GatewayPlan, own: Collection[str]) -> Generator[None, None, Outcome]:
        assert "192.0.2.1" in own
        self.calls.append(("apply", plan))
        yield from self._steps(plan)
        gained = tuple(InterfaceAddress(address, 2) for address in plan.held if address not in self.held)
        self.held = set(plan.held)
        return Outcome(gained, lasting=self.lasting)

    def announce(self, held: InterfaceAddress) -> None:
        self.calls.append(("announce", held.address))

    def _steps(self, plan: GatewayPlan) -> Iterator[None]:
        if self.refusal:
            raise KernelError(self.refusal)
        for _ in plan.routes:
            self.now += self.step_seconds
            self.steps += 1
            yield


class SkippingClock:
    """A clock that skips the pauses of announcements, and waits for events without an end."""

    def __init__(self, kernel: RecordingKernel) -> None:
        self.pauses: list[float] = []
        self._kernel = kernel

    def monotonic(self) -> float:
        return self._kernel.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.pauses.append(seconds)
        if seconds <= 1.0:
            await asyncio.sleep(0)
            return False
        return await event.wait()


class Setup:
    """A controller with a plan that tests replace."""

    def __init__(self) -> None:
        self.plan = NOTHING
        self.kernel = RecordingKernel()
        self.clock = SkippingClock(self.kernel)
        self.controller = GatewayController(self.kernel, self.clock, self)

    @property
    def gateway_plan(self) -> GatewayPlan:
        return self.plan

    @property
    def node_addresses(self) -> tuple[str, ...]:
        return ("192.0.2.1",)

    def run(self, *steps: Callable[[], None]) -> list[tuple[str, object]]:
        """Take steps, each followed by what the controller does of itself; return the kernel's calls."""

        async def taken() -> None:
            task = asyncio.create_task(self.controller.run())
            for step in steps:
                step()
                for _ in range(20):
                    await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(taken())
        return self.kernel.calls


def test_a_plan_that_others_supersede_while_it_is_carried_out_removes_none_of_their_ways() -> None:
    """Between two of its slices, the routes of the next plan are added, and its ruleset is committed."""
    setup = Setup()
    setup.kernel.step_seconds = 1.0
    numbers = range(1, 40)
    setup.plan = GatewayPlan(HELD.held, tuple(msgspec.structs.replace(ROUTE, number=number) for number in numbers))
    before, after = setup.plan, ROUTED

    def supersede() -> None:
        assert setup.kernel.held == set(), "it isn't done"
        setup.plan = after
        setup.controller.prepare()
        setup.controller.committed()

    calls = setup.run(setup.controller.committed, supersede)
    assert calls == [("apply", before), ("open", after), ("apply", after)]
    assert setup.controller.status()["held"] == ()


def test_nothing_is_carried_out_before_a_commit() -> None:
    setup = Setup()
    setup.plan = HELD
    assert setup.run(lambda: None) == []


def test_ways_are_opened_before_the_commit_and_the_rest_follows_it() -> None:
    setup = Setup()
    setup.plan = ROUTED
    assert setup.run(setup.controller.prepare, setup.controller.committed) == [("open", ROUTED), ("apply", ROUTED)]


def test_a_first_commit_without_a_plan_removes_what_an_earlier_run_left() -> None:
    setup = Setup()
    assert setup.run(setup.controller.prepare, setup.controller.committed) == [("apply", NOTHING)]


def test_a_commit_that_leaves_the_plan_as_it_is_asks_nothing_of_the_kernel() -> None:
    setup = Setup()
    setup.plan = ROUTED
    steps = (setup.controller.prepare, setup.controller.committed)
    assert setup.run(*steps, *steps, *steps) == [("open", ROUTED), ("apply", ROUTED)]


def test_an_address_is_announced_three_times() -> None:
    setup = Setup()
    setup.plan = HELD
    assert setup.run(setup.controller.committed) == [("apply", HELD), *[("announce", "192.0.2.100")] * 3]
    assert [pause for pause in setup.clock.pauses if pause <= 1.0] == [0.0, 0.2, 1.0]


def test_an_address_given_up_meanwhile_is_announced_no_more() -> None:
    setup = Setup()
    setup.plan = HELD

    def announced(held: InterfaceAddress) -> None:
        setup.kernel.calls.append(("announce", held.address))
        setup.plan = NOTHING
        setup.controller.committed()

    setup.kernel.announce = announced  # type: ignore[method-assign]
    assert setup.run(setup.controller.committed) == [
        ("apply", HELD),
        ("announce", "192.0.2.100"),
        ("apply", NOTHING),
    ]


def test_an_address_is_taken_and_given_up_after_the_commit_only() -> None:
    """A comparison before the commit carries out the plan of the last one, with the routes of the next."""
    setup = Setup()
    setup.plan = HELD

    def replan() -> None:
        setup.plan = ROUTED
        setup.controller.prepare()
        setup.controller.links_changed()

    both = GatewayPlan(HELD.held, ROUTED.routes)
    calls = setup.run(setup.controller.committed, setup.controller.links_changed, replan, setup.controller.committed)
    assert [call for call in calls if call[0] != "announce"] == [
        ("apply", HELD),
        ("apply", HELD),
        ("open", ROUTED),
        ("apply", both),
        ("apply", ROUTED),
    ]


def test_the_coming_way_of_a_number_is_kept_until_its_commit() -> None:
    setup = Setup()
    setup.plan = ROUTED
    moved = GatewayPlan((), (msgspec.structs.replace(ROUTE, holder="n3", via=("192.0.2.3",)),))

    def replan() -> None:
        setup.plan = moved
        setup.controller.prepare()
        setup.controller.links_changed()

    assert setup.run(setup.controller.committed, replan) == [("apply", ROUTED), ("open", moved), ("apply", moved)]


@pytest.mark.parametrize("plan", [HELD, NOTHING], ids=["before the first commit", "without a plan"])
def test_a_changed_interface_is_no_reason_to_ask(plan: GatewayPlan) -> None:
    setup = Setup()
    setup.plan = plan
    steps = (
        (setup.controller.links_changed,)
        if plan == HELD
        else (setup.controller.committed, setup.controller.links_changed)
    )
    assert setup.run(*steps) == ([] if plan == HELD else [("apply", NOTHING)])


def test_many_routes_hold_the_loop_for_a_slice_only() -> None:
    """What doesn't fit before the commit is set after it, in slices."""
    setup = Setup()
    setup.plan = GatewayPlan((), (ROUTE,) * 100)
    setup.kernel.step_seconds = 0.004
    setup.controller.prepare()
    assert setup.kernel.steps == 3

    async def longest() -> int:
        task = asyncio.create_task(setup.controller.apply())
        most, before = 0, setup.kernel.steps
        while not task.done():
            await asyncio.sleep(0)
            most, before = max(most, setup.kernel.steps - before), setup.kernel.steps
        return most

    assert asyncio.run(longest()) == 3
    assert setup.kernel.steps == 103


def test_a_refusal_is_named_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    setup = Setup()
    setup.plan = HELD
    setup.kernel.refusal = "cannot set up gateway addresses and routes: No buffer space available"
    seen = []

    def look() -> None:
        seen.append(setup.controller.status())
        setup.kernel.refusal = ""

    setup.run(setup.controller.committed, look)
    assert seen == [
        {
            "held": (),
            "routes": (),
            "problems": ["cannot set up gateway addresses and routes: No buffer space available"],
        }
    ]
    assert setup.controller.status() == {"held": ("192.0.2.100",), "routes": (), "problems": []}
    assert [record.message for record in caplog.records].count(
        "cannot set up gateway addresses and routes: No buffer space available; retrying"
    ) == 1


def test_a_problem_that_an_administrator_has_to_end_is_told_and_not_tried_again_soon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    setup = Setup()
    setup.plan = HELD
    setup.kernel.lasting = ("the kernel has no VXLAN: run `modprobe vxlan`",)
    calls = setup.run(setup.controller.committed)
    assert [name for name, _ in calls].count("apply") == 1
    assert setup.controller.status()["problems"] == list(setup.kernel.lasting)
    assert "the kernel has no VXLAN: run `modprobe vxlan`" in [record.message for record in caplog.records]
