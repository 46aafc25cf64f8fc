"""Cost of policies that come together: all on one Pod, in one file."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator

from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from nfagent.desired.state import DesiredState
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer
from nfagent.model.objects import Pod
from nfagent.model.selectors import Requirement, Selector

COUNTS = (100, 200, 400)
_ROUNDS = 9
_WEB = Pod("shop", "web", (("app", "web"),), "a", ("10.64.0.10", "fd00::10"), workload_name="web")


def _labelled(value: str) -> Selector:
    return Selector((Requirement("app", "In", (value,)),))


def one_file(count: int) -> list[NetworkPolicy]:
    """Return policies on one Pod, each with a peer of its own."""
    return [
        NetworkPolicy(
            namespace="shop",
            name=f"p{number:04}",
            pods=_labelled("web"),
            ingress=(NetworkPolicyRule(peers=(PodPeer(_labelled(f"db{number}"), namespace="shop"),)),),
        )
        for number in range(count)
    ]


@bench("policy-batches", "policies of one file on one Pod: computing the one transaction that applies all of them")
def policy_batches(run: Run) -> Iterator[Row]:
    """Measure growing files; the reference is twice the cost of half the length: a ratio of 1 is linear."""
    taken: dict[int, list[float]] = {count: [] for count in COUNTS}
    longest: dict[int, float] = dict.fromkeys(COUNTS, 0.0)
    for number in range(3 if run.quick else _ROUNDS):
        run.progress(f"round {number + 1}")
        for count in COUNTS:
            total, step = _measure(count)
            taken[count].append(total)
            longest[count] = max(longest[count], step)
    for count in COUNTS:
        half = [2 * value for value in taken.get(count // 2, ())]
        yield Row(
            name=f"{count} policies of one file on one Pod",
            unit="ms",
            values=taken[count],
            reference=half or None,
            reference_name=f"twice {count // 2} policies" if half else "",
            paired=bool(half),
            targets=(at_most("p50", 50),) if count == COUNTS[-1] else (),
            note=f"CPU; longest step without a turn of the event loop: {longest[count]:.1f} ms",
        )


def _measure(count: int) -> tuple[float, float]:
    """Return the CPU time of all of it, and of its longest step, in ms."""
    desired = DesiredState("a")
    desired.put(_WEB)
    desired.drain_changes()
    policies = one_file(count)
    gc.collect()
    clock = time.thread_time
    began = clock()
    for policy in policies:
        desired.put(policy)
    moments = [clock()]
    moments += [clock() for _ in desired.prepare()]
    desired.drain_changes()
    moments.append(clock())
    steps = [after - before for before, after in itertools.pairwise(moments)]
    return (moments[-1] - began) * 1e3, max(steps) * 1e3
