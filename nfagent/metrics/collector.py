"""The custom collector of prometheus_client: metrics made from the agent's readings when they are scraped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from nfagent.desired.state import DesiredState
from nfagent.metrics.families import BY_NAME, MOST_SERIES, MetricFamily
from nfagent.metrics.readings import Readings
from nfagent.metrics.values import Series, family_series
from nfagent.model.histogram import Histogram
from nfagent.model.printable import printable

_PART = 100
"""Series of a part of a family: its text takes about 1 ms."""
_OMITTED = "nfagent_metrics_omitted_series"


class NodeCollector(Collector):
    """The metrics of one scrape."""

    def __init__(self, readings: Readings, desired: DesiredState) -> None:
        """Store what the values are read from; nothing is computed yet."""
        self._readings = readings
        self._desired = desired

    def collect(self) -> Iterator[Metric]:
        """Yield each family as a whole."""
        before: Metric | None = None
        for part in self.parts():
            if part is None:
                continue
            if before is not None and before.name == part.name:
                before.samples += part.samples
                continue
            if before is not None:
                yield before
            before = part
        if before is not None:
            yield before

    def parts(self) -> Iterator[Metric | None]:
        """Yield families in steps: a family of many series in several parts, and None where none is ready yet."""
        omitted: Counter[str] = Counter()
        for name, series in family_series(self._readings, self._desired):
            yield from _family_parts(BY_NAME[name], series, omitted)
        yield from _family_parts(BY_NAME[_OMITTED], (((name,), count) for name, count in omitted.items()), Counter())
        yield from ProcessCollector(registry=None).collect()


def _family_parts(
    family: MetricFamily, series: Iterable[Series | None], omitted: Counter[str]
) -> Iterator[Metric | None]:
    """Yield a family in parts, the first one without series too; count the series beyond the limit."""
    part = _new_part(family)
    is_first, count = True, 0
    for item in _with_known(family, series):
        if item is None:
            yield None
        elif count >= MOST_SERIES:
            omitted[family.name] += 1
        else:
            count += 1
            _add(part, tuple(map(printable, item[0])), item[1])
        if len(part.samples) >= _PART:
            yield part
            part, is_first = _new_part(family), False
    if part.samples or is_first:
        yield part


def _with_known(family: MetricFamily, series: Iterable[Series | None]) -> Iterator[Series | None]:
    """Yield series with those that exist from the start: rate() and increase() don't see a counter's first value."""
    if not family.labels or set(family.labels) != set(family.known) or family.type == "histogram":
        yield from series
        return
    found: dict[tuple[str, ...], float | Histogram] = dict.fromkeys(product(*family.known.values()), 0.0)
    for item in series:
        if item is None:
            yield None
        else:
            found[item[0]] = item[1]
    yield from found.items()


def _new_part(family: MetricFamily) -> Metric:
    match family.type:
        case "counter":
            return CounterMetricFamily(family.name, family.help, labels=family.labels)
        case "gauge":
            return GaugeMetricFamily(family.name, family.help, labels=family.labels)
        case "histogram":
            return HistogramMetricFamily(family.name, family.help, labels=family.labels)
        case "untyped":
            return UnknownMetricFamily(family.name, family.help, labels=family.labels)


def _add(part: Metric, labels: tuple[str, ...], value: float | Histogram) -> None:
    match part, value:
        case HistogramMetricFamily(), Histogram():
            bounds = [*map(floatToGoString, value.bounds), "+Inf"]
            part.add_metric(labels, list(zip(bounds, value.cumulative(), strict=True)), value.total)
        case ((CounterMetricFamily() | GaugeMetricFamily() | UnknownMetricFamily()), int() | float()):
            part.add_metric(labels, value)
        case _:
            raise TypeError(f"{part.name}: {type(value).__name__} is no value of a {part.type}")
