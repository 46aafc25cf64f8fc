"""A scrape's text, in Prometheus' text format 0.0.4, made in steps and at most once a second.

The format is prometheus_client's own; a family of many series is written in parts, so that no step holds the event
loop for long. Scrapes that come together, or within a second, get the same page: clients that ask
again and again cost the agent no more than a few per cent of a core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from nfagent.clock import MonotonicClock
from nfagent.metrics.collector import NodeCollector
from nfagent.time_slices import TimeSlices

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FRESH_SECONDS = 1.0
_HEADER_LINES = 2
"""HELP and TYPE, which every family begins with."""


class MetricsPage:
    """The page that is served at /metrics.

    collect: returns the collector of one scrape
    """

    def __init__(
        self, collect: Callable[[], Awaitable[NodeCollector]], clock: MonotonicClock, time_slices: TimeSlices
    ) -> None:
        """Store the arguments; nothing is read yet."""
        self._collect = collect
        self._clock = clock
        self._time_slices = time_slices
        self._making = asyncio.Lock()
        self._made_at = -_FRESH_SECONDS
        self._page = b""

    async def read(self) -> bytes:
        """Return the page, at most a second old."""
        async with self._making:
            if not self._page or self._clock.monotonic() - self._made_at >= _FRESH_SECONDS:
                parts: list[bytes] = []
                async for made in self._time_slices.slices(text_parts(await self._collect())):
                    parts += made
                self._page, self._made_at = b"".join(parts), self._clock.monotonic()
                asyncio.get_running_loop().call_later(_FRESH_SECONDS, self._forget)
            return self._page

    def _forget(self) -> None:
        """Free the page's memory: the next scrape is usually far away."""
        if self._clock.monotonic() - self._made_at >= _FRESH_SECONDS:
            self._page = b""


class _OnePart(Collector):
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def text_parts(collector: NodeCollector) -> Iterator[bytes]:
    """Yield the text in steps; the parts joined are the page, and a part may be empty."""
    name = ""
    for part in collector.parts():
        if part is None:
            yield b""
            continue
        text = generate_latest(_OnePart(part))
        yield text.split(b"\n", _HEADER_LINES)[_HEADER_LINES] if part.name == name else text
        name = part.name
