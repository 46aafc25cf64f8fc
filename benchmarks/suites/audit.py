"""Cost of audit mode beside large tiers: one audited AdminNetworkPolicy, over Pods with a NetworkPolicy each."""

from __future__ import annotations

import gc
import itertools
import os
import time
from collections.abc import Callable, Iterator

import msgspec

from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from nfagent.desired.state import DesiredState
from nfagent.kernel.nft_client import NftClient
from nfagent.lab.topology import netns
from nfagent.model.admin_policy import TierAction, TierPolicy, TierRule
from nfagent.model.networkpolicy import NetworkPolicy, NetworkPolicyRule, PodPeer, PolicyPort
from nfagent.model.objects import Pod
from nfagent.model.selectors import Requirement, Selector
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT

_TIER, _RULES, _PODS = 20, 50, 50
_ROUNDS = 9
_EVERY = Selector()
_EVERY_POD = PodPeer(_EVERY, namespaces=_EVERY)
_ACTIONS: tuple[TierAction, ...] = ("allow", "deny", "pass")


def _labelled(value: str) -> Selector:
    return Selector((Requirement("app", "In", (value,)),))


def _pod(number: int) -> Pod:
    name = f"pod{number}"
    addresses = (f"10.64.0.{number + 10}", f"fd00::{number + 10:x}")
    return Pod("shop", name, (("app", name),), "a", addresses, workload_name=name)


def _network_policy(name: str, pods: Selector) -> NetworkPolicy:
    rule = NetworkPolicyRule((PodPeer(_labelled("web"), namespace="shop"),), (PolicyPort("tcp", 80, 80),))
    return NetworkPolicy(namespace="shop", name=name, pods=pods, ingress=(rule,))


def _tier_policy(number: int) -> TierPolicy:
    rules = tuple(
        TierRule(_ACTIONS[index % 3], (PodPeer(_labelled(f"peer{number}-{index}"), namespaces=_EVERY),))
        for index in range(_RULES)
    )
    return TierPolicy(
        kind="AdminNetworkPolicy",
        name=f"tier{number:02}",
        tier="admin",
        priority=number + 1,
        subject=_EVERY_POD,
        ingress=rules,
    )


def _tried(*, audit: bool) -> TierPolicy:
    """Return the policy that is tried: it denies, before all others."""
    rules = tuple(msgspec.structs.replace(rule, action="deny") for rule in _tier_policy(_TIER).ingress)
    return msgspec.structs.replace(_tier_policy(_TIER), name="tried", priority=0, ingress=rules, audit=audit)


class _Node:
    """A node: its desired state, and the kernel's table.

    load:         wall time of its first ruleset, from objects to the kernel's commit, in ms
    longest_turn: the CPU time of the longest step of preparing a transaction, in ms
    """

    def __init__(self, *, audit: bool) -> None:
        self.desired = DesiredState("a")
        self.kernel = NftClient()
        self.longest_turn = 0.0
        began = time.perf_counter()
        for number in range(_PODS):
            self.desired.put(_pod(number))
            self.desired.put(_network_policy(f"own{number}", _labelled(f"pod{number}")))
        for number in range(_TIER):
            self.desired.put(_tier_policy(number))
        self.desired.put(_tried(audit=audit))
        self.kernel.commit_now(diff(ABSENT, self.desired.ruleset()))
        self.load = (time.perf_counter() - began) * 1e3
        self.desired.mark_synced()

    def change(self, apply: Callable[[], object]) -> tuple[float, int]:
        """Return the time of a change until the kernel's commit, in ms, and the number of its commands."""
        gc.collect()
        began, clock = time.perf_counter(), time.thread_time
        moments = [clock()]
        apply()
        moments.append(clock())
        moments += [clock() for _ in self.desired.prepare()]
        transaction = self.desired.drain_changes()
        moments.append(clock())
        steps = (after - before for before, after in itertools.pairwise(moments))
        self.longest_turn = max(self.longest_turn, *(step * 1e3 for step in steps))
        self.kernel.commit_now(transaction)
        return (time.perf_counter() - began) * 1e3, len(transaction)

    @property
    def rules(self) -> int:
        return sum(len(chain.rules) for chain in self.desired.ruleset().chains.values())


@bench("audit", f"one audited AdminNetworkPolicy beside {_TIER} of {_RULES} rules, over {_PODS} Pods, and none audited")
def audit(run: Run) -> Iterator[Row]:
    """Measure the same cluster with and without the annotation, each in a network namespace of its own."""
    prefix = netns.prefix("audit", os.getpid())
    spaces = [f"{prefix}{name}" for name in ("yes", "no", "switch")]
    netns.make(spaces)
    try:
        yield from _rows(run, spaces)
    finally:
        netns.remove(spaces)


def _rows(run: Run, spaces: list[str]) -> Iterator[Row]:
    audited, plain, switching = (
        netns.inside(space, lambda audit=audit: _Node(audit=audit))  # type: ignore[misc]
        for space, audit in zip(spaces, (True, False, False), strict=True)
    )
    nodes = (audited, plain)
    events: dict[int, list[float]] = {0: [], 1: []}
    turns: dict[int, list[float]] = {0: [], 1: []}
    switches: list[float] = []
    commands = 0
    new = _network_policy("new", _EVERY)
    for number in range(3 if run.quick else _ROUNDS):
        run.progress(f"round {number + 1}")
        for index in (0, 1) if number % 2 else (1, 0):
            node = nodes[index]
            node.longest_turn = 0.0
            events[index].append(node.change(lambda node=node: node.desired.put(new))[0])  # type: ignore[misc]
            node.change(lambda node=node: node.desired.remove(new.ref))  # type: ignore[misc]
            turns[index].append(node.longest_turn)
        for audit in (True, False):
            taken, commands = switching.change(lambda audit=audit: switching.desired.put(_tried(audit=audit)))  # type: ignore[misc]
            switches.append(taken)
    for node in (*nodes, switching):
        node.kernel.close()
    yield Row(
        name="rules",
        unit="rules",
        values=[audited.rules],
        reference=[plain.rules],
        reference_name="not audited",
        targets=(at_most("ratio", 2),),
    )
    yield Row(
        name="load",
        unit="ms",
        values=[audited.load],
        reference=[plain.load],
        reference_name="not audited",
        note="objects to the kernel's commit of the whole table",
    )
    yield Row(
        name=f"a new NetworkPolicy for all {_PODS} Pods",
        unit="ms",
        values=events[0],
        reference=events[1],
        reference_name="not audited",
        paired=True,
        note="to the kernel's commit",
    )
    yield Row(
        name="longest step of it and of its end",
        unit="ms",
        values=turns[0],
        reference=turns[1],
        reference_name="not audited",
        paired=True,
        targets=(at_most("max", 20),),
        note="CPU without a turn of the event loop",
    )
    yield Row(
        name="audit mode of the policy begins or ends",
        unit="ms",
        values=switches,
        note=f"to the kernel's commit; {commands} commands, longest step {switching.longest_turn:.1f} ms",
    )
