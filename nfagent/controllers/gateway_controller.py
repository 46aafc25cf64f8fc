"""Keeps gateway addresses, rules and routes of this node equal to the plan of the desired state.

Rules and routes of a new plan are set before its ruleset is committed, which marks packets: none leaves by another way.
All the rest follows the commit: an address is announced when the packets that come for it are translated.
Stopping leaves them, as it leaves the ruleset: a restart interrupts no connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Generator
from typing import Any, Protocol

import msgspec

from nfagent.clock import Clock
from nfagent.egress.gateways import GatewayPlan
from nfagent.errors import KernelError
from nfagent.kernel.gateway_links import Outcome
from nfagent.netlink.rtnl_address import InterfaceAddress

log = logging.getLogger(__name__)
_RETRY_SECONDS = 1.0
_COMPARE_SECONDS = 10.0
"""Another program, or an interface that was down, may have removed a route."""
_IDLE_SECONDS = 3600.0
_SLICE_SECONDS = 0.01
"""The time for which changes hold the event loop."""
_ANNOUNCED_AFTER = (0.0, 0.2, 1.0)
"""Seconds: a frame may be lost, and a switch may learn late."""


class GatewayKernel(Protocol):
    """Carries out a GatewayPlan."""

    def add_routes(self, plan: GatewayPlan) -> Generator[None, None, tuple[str, ...]]:
        """Add and replace the rules and routes of a plan, in steps; remove nothing. Return problems.

        The first step discards packets with a mark that has no route yet. Raises KernelError.
        """
        ...

    def apply(self, plan: GatewayPlan, own: Collection[str]) -> Generator[None, None, Outcome]:
        """Make addresses, rules and routes equal to a plan, in steps; `own` are the Node's addresses.

        Raises KernelError.
        """
        ...

    def announce(self, held: InterfaceAddress) -> None:
        """Tell the neighbours once that this node has an address. Raises KernelError."""
        ...


class PlannedGateways(Protocol):
    """What the node must do for gateways."""

    @property
    def gateway_plan(self) -> GatewayPlan:
        """Return the present plan."""
        ...

    @property
    def node_addresses(self) -> tuple[str, ...]:
        """Return the addresses of this node's Node object."""
        ...


class GatewayController:
    """Follows the plan of one node."""

    def __init__(
        self,
        kernel: GatewayKernel,
        clock: Clock,
        wanted: PlannedGateways,
        applied: Callable[[GatewayPlan], None] = lambda _plan: None,
    ) -> None:
        """Store the arguments; `applied` is called with each plan that is carried out."""
        self._kernel = kernel
        self._clock = clock
        self._wanted = wanted
        self._on_applied = applied
        self._woken = asyncio.Event()
        self._opened: GatewayPlan | None = GatewayPlan()  # None while `apply` adds and removes routes
        self._due = GatewayPlan()
        self._applied: GatewayPlan | None = None
        self._applied_for: tuple[str, ...] = ()
        self._outcome = Outcome()
        self._unannounced = ""

    def prepare(self) -> None:
        """Set rules and routes of a new plan now, its ruleset isn't committed yet; some hundreds are set later."""
        plan = self._wanted.gateway_plan
        if self._opened is not None and plan.routes == self._opened.routes:
            return
        began = self._clock.monotonic()
        try:
            for _ in self._kernel.add_routes(plan):
                if self._clock.monotonic() - began > _SLICE_SECONDS:
                    break
            self._opened = plan
        except KernelError as error:
            self._note(Outcome(problems=(str(error),)))

    def committed(self) -> None:
        """Carry out the rest of the present plan: the ruleset is committed."""
        self._due = self._wanted.gateway_plan
        if self._due != self._applied or self._wanted.node_addresses != self._applied_for:
            self._woken.set()

    def links_changed(self) -> None:
        """Compare soon what is carried out: addresses, rules or interfaces of this node have changed."""
        if self._applied is not None and self._applied != GatewayPlan():
            self._woken.set()

    async def run(self) -> None:
        """Carry out plans until cancelled; the first one after the first `committed`."""
        await self._woken.wait()
        async with asyncio.TaskGroup() as announcing:
            while True:
                self._woken.clear()
                for held in await self.apply():
                    announcing.create_task(self._announce(held))
                await self._clock.wait(self._woken, self._pause())

    async def apply(self) -> tuple[InterfaceAddress, ...]:
        """Carry out the plan of the last commit; return the addresses that this node has from now on.

        Routes for a ruleset that isn't committed yet are there too.
        """
        plan, coming, own = self._due, self._wanted.gateway_plan, self._wanted.node_addresses
        carried_out = plan if plan == coming else _with_routes_of(coming, plan)
        self._opened = None
        try:
            outcome = await self._in_slices(self._kernel.apply(carried_out, own), coming)
            if outcome is None:
                self._woken.set()
                return ()
            self._applied, self._applied_for, self._opened = plan, own, coming
            self._on_applied(plan)
        except KernelError as error:
            outcome = Outcome(problems=(str(error),))
            self._applied = None
        self._note(outcome)
        return outcome.gained

    async def _in_slices(self, steps: Generator[None, None, Outcome], coming: GatewayPlan) -> Outcome | None:
        """Take steps in slices of the event loop's time; return their result. Raises KernelError.

        None: `prepare` has added the routes of another plan than the coming one, which the rest would remove.
        """
        began = self._clock.monotonic()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: Outcome = end.value
                return result
            if self._clock.monotonic() - began > _SLICE_SECONDS:
                await asyncio.sleep(0)
                if self._opened is not None and self._opened.routes != coming.routes:
                    steps.close()
                    return None
                began = self._clock.monotonic()

    def status(self) -> dict[str, Any]:
        """Return the plan that is carried out, for `dump state`."""
        plan = self._applied or GatewayPlan()
        shown = {"held": plan.held, "routes": msgspec.to_builtins(plan.routes)}
        return {**shown, "problems": [*self.problems, *filter(None, (self._unannounced,))]}

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the plan can't be carried out, and why."""
        return _told(self._outcome)

    def _pause(self) -> float:
        if self._outcome.problems:
            return _RETRY_SECONDS
        return _IDLE_SECONDS if self._applied == GatewayPlan() else _COMPARE_SECONDS

    def _note(self, outcome: Outcome) -> None:
        before, after = _told(self._outcome), _told(outcome)
        for problem in after:
            if problem not in before:
                log.warning("%s; retrying" if problem in outcome.problems else "%s", problem)
        for problem in before:
            if problem not in after:
                log.info("resolved: %s", problem)
        for held in outcome.gained:
            log.info("this node holds gateway %s", held.address)
        self._outcome = outcome

    async def _announce(self, held: InterfaceAddress) -> None:
        for pause in _ANNOUNCED_AFTER:
            await self._clock.wait(asyncio.Event(), pause)
            applied = self._applied
            if applied is not None and held.address not in applied.held:
                return
            before, self._unannounced = self._unannounced, ""
            try:
                self._kernel.announce(held)
            except KernelError as error:
                self._unannounced = str(error)
                if self._unannounced != before:
                    log.warning("%s", error)


def _with_routes_of(coming: GatewayPlan, plan: GatewayPlan) -> GatewayPlan:
    """Return a plan with the routes of the coming one beside its own; of the same number, the coming one's."""
    taken = {(route.family, route.number) for route in coming.routes}
    own = (route for route in plan.routes if (route.family, route.number) not in taken)
    return GatewayPlan(plan.held, (*coming.routes, *own))


def _told(outcome: Outcome) -> tuple[str, ...]:
    return (*outcome.problems, *outcome.lasting)
