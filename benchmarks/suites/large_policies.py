"""Cost of one tenant's policies: many peers and ports in one policy, and many policies on one Pod, one by one."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.harness.process_usage import rss_mib
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from nfagent.desired.state import DesiredState
from nfagent.kernel.nft_client import NftClient
from nfagent.lab.topology import netns
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer, PolicyPort
from nfagent.model.objects import Pod
from nfagent.model.selectors import Requirement, Selector
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT
from nfagent.system.gc_tuning import malloc_trim

SIZES = (100, 200, 400)
_ROUNDS = 9
_POLICIES, _PEERS = 100, 100
_WEB = Pod("shop", "web", (("app", "web"),), "a", ("10.64.0.10", "fd00::10"), workload_name="web")


def _labelled(value: str) -> Selector:
    return Selector((Requirement("app", "In", (value,)),))


def policy(name: str, peers: int, ports: int) -> NetworkPolicy:
    """Return a policy on the Pod, of one rule with so many peers and ports; no two ports are adjacent."""
    rule = NetworkPolicyRule(
        tuple(PodPeer(_labelled(f"{name}-{number}"), namespace="shop") for number in range(peers)),
        tuple(PolicyPort("tcp", 2 * number + 1, 2 * number + 1) for number in range(ports)),
    )
    return NetworkPolicy(namespace="shop", name=name, pods=_labelled("web"), ingress=(rule,))


class _Node:
    """A node with one Pod: its desired state, and the kernel's table."""

    def __init__(self) -> None:
        self.desired = DesiredState("a")
        self.desired.put(_WEB)
        self.kernel = NftClient()
        self.kernel.commit_now(diff(ABSENT, self.desired.ruleset()))
        self.desired.mark_synced()

    def commit(self) -> None:
        transaction = self.desired.drain_changes()
        if transaction:
            self.kernel.commit_now(transaction)

    def cpu_ms(self, *changes: Callable[[], object]) -> float:
        """Return the CPU time of changes and their commit."""
        gc.collect()
        began = time.thread_time()
        for change in changes:
            change()
        self.commit()
        return (time.thread_time() - began) * 1e3

    @property
    def rules(self) -> int:
        return sum(len(chain.rules) for chain in self.desired.ruleset().chains.values())


@contextmanager
def _namespace() -> Iterator[str]:
    name = f"{netns.prefix('large', os.getpid())}node"
    netns.make([name])
    try:
        yield name
    finally:
        netns.remove([name])


@bench(
    "large-policies",
    "one policy of many peers and ports, and many policies on one Pod: to the kernel's commit, and memory",
)
def large(run: Run) -> Iterator[Row]:
    """Measure growing policies; the reference is twice the cost of half the size: a ratio of 1 is linear."""
    with _namespace() as name:
        yield from netns.inside(name, lambda: list(_measure(run)))


def _measure(run: Run) -> Iterator[Row]:
    node = _Node()
    try:
        yield from _products(run, node)
        yield from _one_by_one(run, node)
    finally:
        node.kernel.close()


def _products(run: Run, node: _Node) -> Iterator[Row]:
    taken: dict[int, list[float]] = {size: [] for size in SIZES}
    rules: dict[int, int] = {}
    malloc_trim()
    before = rss_mib()
    for number in range(3 if run.quick else _ROUNDS):
        run.progress(f"peers and ports: round {number + 1}")
        for size in SIZES:
            one = policy("large", size, size)
            taken[size].append(node.cpu_ms(lambda one=one: node.desired.put(one)))  # type: ignore[misc]
            rules[size] = node.rules
            node.desired.remove(one.ref)
            node.commit()
    for size in SIZES:
        half = [2 * value for value in taken.get(size // 2, ())]
        yield Row(
            name=f"a policy of {size} peers and {size} ports",
            unit="ms",
            values=taken[size],
            reference=half or None,
            reference_name=f"twice {size // 2} peers and ports" if half else "",
            paired=bool(half),
            targets=(at_most("p50", 50),) if size == SIZES[-1] else (),
            note=f"CPU, commit included; {rules[size]} rules in the table",
        )
    malloc_trim()
    yield Row(
        name="memory growth after these policies were deleted",
        unit="MiB",
        values=[rss_mib() - before],
        targets=(at_most("max", 20),),
    )


def _one_by_one(run: Run, node: _Node) -> Iterator[Row]:
    run.progress(f"{_POLICIES} policies")
    policies = [policy(f"p{number:03}", _PEERS, 1) for number in range(_POLICIES)]
    taken = [node.cpu_ms(lambda one=one: node.desired.put(one)) for one in policies]  # type: ignore[misc]
    half = len(taken) // 2
    yield Row(
        name=f"the last {half} of {_POLICIES} policies of {_PEERS} peers on one Pod, one by one",
        unit="ms",
        values=taken[half:],
        reference=taken[:half],
        reference_name=f"the first {half}",
        targets=(at_most("p50", 100),),
        note=f"CPU of each, commit included; all: {sum(taken) / 1e3:.1f} s, {node.rules} rules in the table",
    )
