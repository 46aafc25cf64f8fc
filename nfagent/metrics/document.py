"""docs/metrics.md, generated from the table of families."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from math import prod

from nfagent.metrics.families import FAMILIES, MOST_SERIES, MetricFamily

_HEAD = """# Metrics

Generated from `metrics/families.py`: `NFAGENT_REGOLD=1 pytest tests/unit/metrics/test_document.py` writes it anew.

The agent serves them in Prometheus' text format, version 0.0.4:

- on its unix socket, always: `curl --unix-socket /run/nfagent/agent.sock http://agent/metrics`;
- over TCP where `[metrics] listen` has an address, like `"127.0.0.1:9464"`. There is no TLS and no password, and
  nothing but these routes is served there. An address that can't be bound is retried every 5 s, and stops nothing else.

| route | answer |
|---|---|
| `/metrics` | the families below |
| `/healthz` | 200 while the agent's event loop runs; 503 and the reason where a round of its reconciler takes 300 s |
| `/readyz` | 200 where all objects were read once and the kernel holds their rules; otherwise 503 and the reason |

## Cost and bounds

A page is made when it is asked for, in slices of 3 ms of the event loop, and kept for a second: scrapes that come
together, or more often than that, get the same page. `make bench ONLY=metrics` measures size and time.

A label has values of a fixed list, or names of this node's Pods and of the policies that select them: never addresses,
ports or names that packets bring. A family has MOST_SERIES series at most; what is left out beyond that is counted
by `nfagent_metrics_omitted_series`. A series with labels of a fixed list exists from the start, with the value 0. What
isn't known has no series: `nfagent_conntrack_entries` where the kernel has no conntrack.

`nfagent_sync_duration_seconds` counts commits: a stage is counted when the transaction that it leads to is committed.
Control characters in names are escaped.

Packets are counted by the kernel, and read at each scrape and every 30 s. A counter that a change of rules, a Pod's or
a policy's end leaves without use stays until it was read once more, some seconds later: none of its packets is missing.
The totals of a Pod or policy that is gone are served for five minutes (2,000 of them at most), so that a scrape sees
the last ones. Where an address passes to another Pod at once, packets of that moment may count for either.

What other programs take away is missing from the last reading on: where they delete the table, its counters or
elements, and where they set counters back (`nft reset counters`). No total decreases, the agent's log says it of a
counter that is seen to be set back, and counts by policy are lower than those by Pod from then on: only named counters
were reset, and nothing tells how many of the packets in between were of which policy.
"""


def document() -> str:
    """Return the document."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield _HEAD.replace("MOST_SERIES", f"{MOST_SERIES:,}")
    for section, families in groupby(FAMILIES, lambda family: family.section):
        yield f"\n## {section}\n\n| name | type | labels | series | meaning |\n|---|---|---|---|---|\n"
        for family in families:
            yield f"| `{family.name}` | {family.type} | {_labels(family)} | {_series(family)} | {family.help} |\n"


def _labels(family: MetricFamily) -> str:
    return ", ".join(
        f"`{label}` ({', '.join(family.known[label])})" if label in family.known else f"`{label}`"
        for label in family.labels
    )


def _series(family: MetricFamily) -> str:
    return family.series or str(prod(len(values) for values in family.known.values()))
