"""The running agent's answers, from its state in memory. Satisfies http_server.AnswerProvider.

The event loop is never blocked: views are made while they are written, verdicts in steps, and the kernel is listed in
a thread. What isn't known is reported as unknown, never as "none" or "allowed".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from nfagent.desired.state import DesiredState
from nfagent.errors import UsageError, ValidationIssue
from nfagent.explain.explanation import Explanation, explain_in_steps
from nfagent.introspection.agent_status import AgentStatus, with_agent
from nfagent.introspection.diff_report import diff_parts
from nfagent.introspection.freshness import Freshness, ViewHead
from nfagent.introspection.http_stream import view_route
from nfagent.introspection.matrix_route import matrix_route
from nfagent.introspection.names_route import names_route
from nfagent.introspection.record_peers import PeersView, peers_parts
from nfagent.introspection.view_filter import ViewFilter, check_scope, scoping
from nfagent.introspection.views import (
    RulesetView,
    annotation,
    counters_parts,
    policies_parts,
    ruleset_parts,
    state_parts,
)
from nfagent.kernel.table_listings import TableListings
from nfagent.nftables.objects import Ruleset
from nfagent.simulate.job import start_simulation
from nfagent.simulate.matrix import MatrixJob, matrix_of
from nfagent.simulate.matrix_answer import MatrixRequest
from nfagent.simulate.policy_files import PolicyFiles
from nfagent.simulate.simulation import PolicySimulation
from nfagent.simulate.translations import EgressInputs
from nfagent.time_slices import TimeSlices

_DIFF_TRIES, _DIFF_PAUSE = 5, 0.05


async def _read_nothing() -> None:
    """Read nothing: for an answerer without port statistics."""


class AnswerSources(msgspec.Struct, frozen=True):
    """Functions that return what isn't in DesiredState.

    freshness: how complete and how old the state is
    problems:  what is wrong with objects
    status:    of the agent's parts
    services:  reads the Services that `explain` needs; returns why they can't be read, or ''
    as_written: removes from a listing the differences that only this nft version's wording makes
    read_ports: reads how full the ports of translated connections are, for `status`; at most once a minute
    """

    freshness: Callable[[], Freshness]
    problems: Callable[[], tuple[ValidationIssue, ...]]
    status: Callable[[], AgentStatus]
    services: Callable[[], Awaitable[str]]
    as_written: Callable[[Ruleset, Ruleset], Ruleset] = lambda listed, _: listed
    read_ports: Callable[[], Awaitable[None]] = _read_nothing


class AgentAnswerer:
    """Answers requests from one agent's state."""

    def __init__(
        self, desired: DesiredState, listings: TableListings, time_slices: TimeSlices, reports: AnswerSources
    ) -> None:
        """Store the state, the kernel's listings, the time slices for long answers, and the other sources."""
        self._desired = desired
        self._listings = listings
        self._time_slices = time_slices
        self._reports = reports

    @property
    def routes(self) -> tuple[web.RouteDef, ...]:
        """The routes of further answers: the matrix, ends of the filters of records, names."""
        return (
            matrix_route(self.start_matrix, self._time_slices),
            view_route("/v1/peers", self.peers, self._time_slices),
            names_route(self._desired, self._time_slices),
        )

    async def view(self, name: str, scope: ViewFilter) -> ViewHead:
        """Return a view of `dump`. Raises UsageError, KernelError, HostError."""
        if name == "state":
            await self._reports.read_ports()
        freshness = self._reports.freshness()
        try:
            check_scope(self._desired, name, scope, freshness)
        except UsageError as error:
            raise _with_age(error, freshness) from None
        match name:
            case "state":
                view = state_parts(self._desired, scope, self._reports.problems(), freshness)
                return with_agent(view, self._reports.status())
            case "policies":
                return policies_parts(self._desired, scope, self._reports.problems(), freshness)
            case "ruleset":
                return await self._ruleset(self._desired.ruleset(), scope, freshness)
            case "kernel":
                # The kernel was read: that the agent hasn't read the whole cluster makes this view no less complete.
                known = msgspec.structs.replace(freshness, unread=())
                return await self._ruleset(await self._listings.ruleset(), scope, known)
            case "diff":
                listed, wanted = await self._both()
                found, commands = self._reports.as_written(listed, wanted), self._listings.shell_commands
                # It lowers both rulesets, which takes tenths of a second where they are large.
                lines = await asyncio.to_thread(commands, found, wanted) if commands is not None else None
                return diff_parts(found, wanted, freshness, lines=lines)
            case "counters":
                return counters_parts(self._desired, await self._listings.counters(), scope, freshness)
        raise UsageError(f"there is no view {name!r}; ask for state, policies, ruleset, kernel, diff or counters")

    async def explain(self, source: str, destination: str) -> Explanation:
        """Return the verdict on a connection. Raises UsageError."""
        freshness = self._whole("explain")
        trouble = await self._reports.services()
        desired = self._desired
        async for _ in self._time_slices.slices(desired.prepare()):
            pass
        try:
            steps = explain_in_steps(
                desired.cluster,
                desired.index,
                source,
                destination,
                desired.policy_options,
                desired.barred,
                desired.translation,
            )
            found = await self._time_slices.result(steps)
        except UsageError as error:
            raise _with_age(error, freshness, trouble) from None
        unknown = (*([_unread(trouble)] if trouble else []), *([freshness.unenforced] if freshness.unenforced else []))
        return msgspec.structs.replace(
            found, unknown=(*unknown, *found.unknown), notes=tuple(map(str, freshness.stale))
        )

    def start_simulation(self, given: PolicyFiles, *, delete: bool) -> PolicySimulation:
        """Return a simulation of new policies, or of their deletion, in the current state. Raises UsageError."""
        freshness = self._whole("try")
        desired = self._desired
        egress = EgressInputs(desired.egress, desired.masquerade_settings, desired.cluster_ranges)
        simulation = start_simulation(
            desired.cluster, desired.index, desired.policy_options, given, delete=delete, egress=egress
        )
        simulation.notes = freshness.notes
        return simulation

    async def peers(self) -> PeersView:
        """Return what decides about the filters of records. Raises UsageError."""
        return peers_parts(self._desired, self._whole("the filter"))

    def start_matrix(self, asked: MatrixRequest) -> MatrixJob:
        """Return the matrix of who reaches whom, of the state as it is now. Raises UsageError."""
        freshness = self._whole("matrix")
        return matrix_of(self._desired, asked, freshness.notes)

    async def _both(self) -> tuple[Ruleset, Ruleset]:
        """Return the kernel's ruleset and the desired one, read while no commit is pending where possible."""
        for _ in range(_DIFF_TRIES):
            settled, wanted = self._in_sync(), self._desired.ruleset()
            held = await self._listings.ruleset()
            if settled and self._in_sync() and self._desired.ruleset() is wanted:
                return held, wanted
            await asyncio.sleep(_DIFF_PAUSE)
        return await self._listings.ruleset(), self._desired.ruleset()

    def _in_sync(self) -> bool:
        return bool(self._reports.status().reconcile.in_sync)

    def _whole(self, command: str) -> Freshness:
        """Return the freshness of a cluster that was read whole. Raises UsageError for one that wasn't."""
        freshness = self._reports.freshness()
        if freshness.unknown:
            raise UsageError(f"{command} has no verdict yet: {freshness.unknown}")
        return freshness

    async def _ruleset(self, ruleset: Ruleset, scope: ViewFilter, freshness: Freshness) -> RulesetView:
        kept = await self._time_slices.result(scoping(self._desired, ruleset, scope))
        return ruleset_parts(kept, annotation(self._desired), scope, freshness)


def _with_age(error: UsageError, freshness: Freshness, trouble: str = "") -> UsageError:
    """Return the error with a note that the known state may be old."""
    more = (*map(str, freshness.stale), *([_unread(trouble)] if trouble else []))
    return UsageError("; ".join((str(error), *more)))


def _unread(trouble: str) -> str:
    return (
        f"Services can't be read ({trouble}): which addresses belong to Services, and their backends, are unknown for "
        "now; name the server's own address and port"
    )
