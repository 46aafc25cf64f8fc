"""The parts of `nfagent status` and `top`: what they are read from, and what was denied in the last minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
from aiohttp import web

from nfagent import __version__
from nfagent.clock import Clock
from nfagent.config import Settings
from nfagent.controllers.reconciler import Reconciler
from nfagent.desired.state import DesiredState
from nfagent.introspection.agent_status import AgentStatus
from nfagent.introspection.counts_view import CountReadings, CountsView, counts_parts
from nfagent.introspection.freshness import Freshness
from nfagent.introspection.http_stream import view_route
from nfagent.introspection.status_answer import StatusReadings, status_parts
from nfagent.introspection.status_view import DeniedCount, DeniedStatus, SourceStatus, StatusView
from nfagent.metrics.increase_window import IncreaseWindow
from nfagent.metrics.readings import CountedPackets, PodVerdict
from nfagent.metrics_parts import MetricsParts
from nfagent.nftables.verdict_keys import VerdictKey
from nfagent.object_source import ObjectSource
from nfagent.time_slices import TimeSlices
from nfagent.verdict_log_parts import VerdictLogParts
from nfagent.verdicts.denied_window import WINDOW_SECONDS

_SAMPLE_SECONDS = 30.0
_TOP = 3
_FRESH_SECONDS = 0.8
"""Counts are read again after so long: several readers share a reading, and `top` asks once a second at most."""

_Counted = PodVerdict | VerdictKey | str


class StatusSources(msgspec.Struct, frozen=True):
    """The agent's parts that the status is read from.

    status:    returns the state of all parts
    freshness: returns how complete and how old the state is
    problems:  returns what is wrong with parts
    """

    status: Callable[[], AgentStatus]
    freshness: Callable[[], Freshness]
    problems: Callable[[], list[str]]
    reconciler: Reconciler
    source: ObjectSource
    verdict_log: VerdictLogParts
    metrics: MetricsParts


class StatusParts:
    """Answers GET /v1/status and GET /v1/counts."""

    def __init__(self, settings: Settings, desired: DesiredState, clock: Clock, sources: StatusSources) -> None:
        """Keep the sources; the counters are sampled by `run`."""
        self._folder = settings.manifests
        self._desired = desired
        self._clock = clock
        self._sources = sources
        self._started = clock.monotonic()
        self._window: IncreaseWindow[_Counted] = IncreaseWindow(WINDOW_SECONDS)

    def routes(self, time_slices: TimeSlices) -> tuple[web.RouteDef, ...]:
        """Return the routes for the agent's socket."""
        return (
            view_route("/v1/status", self.view, time_slices),
            view_route("/v1/counts", self.count_view, time_slices),
        )

    async def run(self) -> None:
        """Sample the counters of denied packets from the first sync on, until cancelled."""
        never = asyncio.Event()
        while self._sources.freshness().unread:
            await self._clock.wait(never, 1.0)
        await self._sources.metrics.refresh_counts()
        while True:
            self._window.add(self._clock.monotonic(), _denied(self._sources.metrics.counts))
            await self._clock.wait(never, _SAMPLE_SECONDS)

    async def view(self) -> StatusView:
        """Return the status."""
        sources = self._sources
        freshness = sources.freshness()
        if not freshness.unread:
            await sources.metrics.refresh_counts()
            freshness = sources.freshness()  # the counts take a while, and the rest is read after them
        return status_parts(
            self._desired,
            StatusReadings(
                version=__version__,
                now=self._clock.monotonic(),
                started=self._started,
                in_sync_at=sources.reconciler.status.in_sync_at,
                source=self._source(synced=not freshness.unread),
                freshness=freshness,
                agent=sources.status(),
                problems=tuple(sources.problems()),
                denied=self._denied(),
                issues=sources.source.problems,
            ),
        )

    async def count_view(self) -> CountsView:
        """Return the packets by Pod and by policy."""
        metrics, unread = self._sources.metrics, self._sources.freshness().unknown
        if not unread and self._clock.monotonic() - metrics.counted_at > _FRESH_SECONDS:
            await metrics.refresh_counts()
        return counts_parts(
            self._desired,
            CountReadings(
                version=__version__,
                started=self._started,
                read_at=metrics.counted_at,
                problem=unread or metrics.uncounted,
                counts=metrics.counts,
            ),
        )

    def _source(self, *, synced: bool) -> SourceStatus:
        if self._folder:
            last = self._sources.reconciler.latency.trace.reply(self._clock.monotonic(), last=1).syncs
            age = round(self._clock.monotonic() - last[0].latest, 1) if last else None
            return SourceStatus(kind="manifests", name=str(Path(self._folder)), synced=synced, age_seconds=age)
        found = self._sources.source.status()["apiserver"]
        ages = [one["heard_seconds_ago"] for one in found["resources"].values()]
        heard = min((age for age in ages if age is not None), default=None)
        return SourceStatus(kind="apiserver", name=str(found["server"]), synced=synced, age_seconds=heard)

    def _denied(self) -> DeniedStatus:
        now = self._clock.monotonic()
        seconds, grown = self._window.increase(now, _denied(self._sources.metrics.counts))
        drops = [DeniedCount(packets=n, reason=key) for key, n in grown.items() if isinstance(key, str)]
        denies = self._desired.logging.deny
        by_log = denies.log and not denies.delegate
        top = [*(self._by_log(now) if by_log else self._by_counters(grown)), *drops]
        return DeniedStatus(
            seconds=round(seconds, 1),
            packets=sum(n for key, n in grown.items() if not isinstance(key, VerdictKey)),
            by="log" if by_log else "counters",
            top=sorted(top, key=lambda item: -item.packets)[:_TOP],
        )

    def _by_log(self, now: float) -> list[DeniedCount]:
        return [
            DeniedCount(packets=n, source=key.source, destination=key.destination, policies=list(key.policies))
            for key, n in self._sources.verdict_log.denied.top(now, _TOP)
        ]

    def _by_counters(self, grown: dict[_Counted, int]) -> list[DeniedCount]:
        return [
            DeniedCount(packets=n, policies=[ref.path if ref.namespace else str(ref) for ref in key.policies])
            for key, n in grown.items()
            if isinstance(key, VerdictKey)
        ]


def _denied(counts: CountedPackets) -> dict[_Counted, int]:
    """Return the totals of denied packets: by Pod, by policy, and by the reason of other drops."""
    found: dict[_Counted, int] = {key: n for key, n in counts.pods.items() if key[3] == "deny"}
    found.update((key, n) for key, n in counts.policies.items() if key.disposition == "deny")
    found.update((name.removeprefix("drop/"), n) for name, n in counts.drops.items())
    return found
