"""12,000 packet counters that all have counted: the longest turn of the event loop while they become totals.

The agent's own code adds a reading, keeps it on disk and publishes it; the reading itself, which a thread makes, is a
value. Turns are in CPU time of the thread; the reference is the whole refresh.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from benchmarks.suites.introspection import MeteredLoop
from nfagent.clock import SystemClock
from nfagent.desired.state import DesiredState
from nfagent.kernel.packet_counters import CounterReading, CounterSource
from nfagent.lab.objects.synthetic import Size, synthetic
from nfagent.metrics.packet_counts import PacketCounts
from nfagent.model.netaddr import family_of
from nfagent.nftables.pod_counts import counted_sets
from nfagent.nftables.retired_counters import element_counter
from nfagent.nftables.verdict_keys import denied_by
from nfagent.system.gc_tuning import collect_and_freeze, relax_collection

_PODS, _POLICIES, _COUNTERS = 250, 1_000, 12_000
_ROUNDS, _QUICK_ROUNDS = 30, 5
_LONGEST_MS = 20


@bench("packet-counts", "12,000 packet counters become totals: the longest turn of the event loop")
def packet_counts(run: Run) -> Iterator[Row]:
    """Refresh one agent's totals again and again."""
    cluster = synthetic(Size(5_000, _POLICIES, _PODS, 100), run.seed)
    desired = DesiredState(cluster.node)
    for item in cluster.items():
        desired.put(item)
    desired.ruleset()
    names = _counters(desired)
    relax_collection()
    collect_and_freeze()
    turns, whole, packets = list[float](), list[float](), 0
    loop = MeteredLoop()
    with tempfile.TemporaryDirectory() as folder:
        counts = PacketCounts(
            desired,
            Path(folder),
            SystemClock(),
            boot="",
            synced=lambda: True,
            source=CounterSource(lambda: CounterReading(dict.fromkeys(names, packets)), lambda _: {}),
        )
        for number in range(_QUICK_ROUNDS if run.quick else _ROUNDS):
            run.progress(f"refresh {number}")
            packets += 5
            loop.longest, began = 0.0, time.thread_time()
            loop.run_until_complete(counts.refresh())
            whole.append((time.thread_time() - began) * 1e3)
            turns.append(loop.longest * 1e3)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    yield Row(
        name=f"longest turn of the event loop, {len(names):,} counters",
        unit="ms",
        values=turns,
        reference=whole,
        reference_name="the whole refresh",
        targets=(at_most("max", _LONGEST_MS),),
        note=f"{len(counts.values.pods) + len(counts.values.policies):,} totals",
    )


def _counters(desired: DesiredState) -> list[str]:
    """Return as many names: the elements of all Pods, and named counters of pairs of policies."""
    addresses = [address for pod in desired.cluster.local.values() for address in pod.addresses]
    found = [element_counter(name, address) for address in addresses for name in counted_sets(family_of(address))]
    policies = [ref for ref in desired.index.policies if ref.kind == "NetworkPolicy"]
    steps = product(range(1, 13), range(len(policies)))
    pairs = ((policies[first], policies[(first + step) % len(policies)]) for step, first in steps)
    return found + [denied_by("ingress", pair).name for pair in islice(pairs, _COUNTERS - len(found))]
