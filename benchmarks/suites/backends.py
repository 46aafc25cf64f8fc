"""Rules in nftables, in iptables and ipset, and in kube-router's layout, side by side, with 250 Pods of the node.

What a packet costs, what a policy and a label change cost, and how long a flush is in force.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import yaml

from benchmarks.harness import kube_router
from benchmarks.harness.child_process import ChildProcess
from benchmarks.harness.packet_labs import NEAR, NO_RULES, NODES, PacketLab, load, plan_topology, ruleset_of
from benchmarks.registry import Run, bench
from benchmarks.results import Row
from benchmarks.suites.backends_child import Restores
from benchmarks.suites.commits_child import EventCosts, LoadedTable
from benchmarks.suites.flushes import NODES as FLUSHED_NODES
from benchmarks.suites.flushes import PODS, objects
from nfagent.cli.yaml_writer import KubectlDumper
from nfagent.errors import KernelError
from nfagent.kernel.xt_features import open_xt_kernel
from nfagent.kernel.xt_programs import programs_of
from nfagent.kernel.xt_writer import XtWriter
from nfagent.lab.cluster.agents import LabAgent, LabCluster
from nfagent.lab.latency.traffic_rates import PORT, Client, Traffic
from nfagent.lab.objects.synthetic import Size, node_name, synthetic
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.nftables.objects import Ruleset
from nfagent.xtables.listing import XtListing
from nfagent.xtables.lowering import lower
from nfagent.xtables.options import LoweringOptions

NFTABLES, IPTABLES, KUBE_ROUTER = "nftables", "iptables", "kube-router's layout"
_LOCAL = 250
_SIZE = Size(5_000, 500, _LOCAL, 100)
_QUICK_SIZE = Size(1_000, 100, _LOCAL, 50)
_SECONDS = 0.012
_CHILD = "benchmarks.suites.backends_child"
_AWAIT_SECONDS = 60.0
_PAIRS = 2
"""Of events that each backend commits in its turn."""


@bench("backends", "nftables beside iptables with ipset, and beside kube-router's layout: packets, commits, flushes")
def backends(run: Run) -> Iterator[Row]:
    """Measure packets, then events, then flushes."""
    size = _QUICK_SIZE if run.quick else _SIZE
    yield from _packets(run, size)
    yield from _events(run, size)
    yield from _flushes(run)


def _packets(run: Run, size: Size) -> Iterator[Row]:
    kinds = {"connections": Client.connections, "TCP stream": Client.stream}
    rounds = 40 if run.quick else 300
    found: dict[str, dict[str, list[float]]] = {kind: {} for kind in kinds}
    with ExitStack() as stack:
        traffic = stack.enter_context(Traffic())
        run.progress("labs")
        clients = {lab.name: lab.client(stack, traffic, NEAR) for lab in _labs(stack, size, run.seed)}
        order = random.Random(run.seed)  # noqa: S311 - an order of measurements
        for kind, measure in kinds.items():
            for turn in range(rounds + 1):
                run.progress(f"{kind}: round {turn} of {rounds}")
                for lab in order.sample(list(clients), len(clients)):
                    value = measure(clients[lab], _SECONDS)
                    if turn:  # the first round warms up
                        found[kind].setdefault(lab, []).append(value)
    for kind, values in found.items():
        unit = "Gbit/CPU s" if kind == "TCP stream" else "1/CPU s"
        for lab, reference in (
            (NFTABLES, NO_RULES),
            (IPTABLES, NO_RULES),
            (KUBE_ROUTER, NO_RULES),
            (IPTABLES, NFTABLES),
            (IPTABLES, KUBE_ROUTER),
        ):
            yield Row(
                name=f"{kind}, one node, {_LOCAL} local Pods: {lab}",
                unit=unit,
                values=values[lab],
                reference=values[reference],
                reference_name=reference,
                paired=True,
                better="higher",
            )


def _labs(stack: ExitStack, size: Size, seed: int) -> Iterator[PacketLab]:
    cluster = synthetic(size, seed)
    # A second cluster's labs have the same names: numbers of their own.
    numbers = itertools.count(20)
    yield PacketLab(NO_RULES, stack.enter_context(plan_topology(next(numbers))))
    for name, write in ((NFTABLES, load), (IPTABLES, _load_iptables)):
        topology = stack.enter_context(plan_topology(next(numbers)))
        for node in NODES:
            ruleset = ruleset_of(cluster, topology, node)
            netns.inside(topology.node_namespace(node_name(node)), functools.partial(write, ruleset))
        yield PacketLab(name, topology)
    topology = stack.enter_context(plan_topology(next(numbers)))
    text = kube_router.restore_text(_walked(topology, seed), PORT)
    for node in NODES:
        netns.inside(topology.node_namespace(node_name(node)), functools.partial(_restore, text))
    yield PacketLab(KUBE_ROUTER, topology)


def _walked(topology: NetnsTopology, seed: int) -> list[str]:
    """Return the addresses of all Pods of a node, in a random order: the lab's own, and others that make 250."""
    own = [plan.addresses[0] for plan in topology.pods.values()]
    others = [f"10.200.0.{number}" for number in range(1, _LOCAL + 1 - len(own))]
    walked = own + others
    random.Random(seed).shuffle(walked)  # noqa: S311 - an order of rules
    return walked


def _load_iptables(ruleset: Ruleset) -> None:
    kernel, _features = open_xt_kernel(programs_of("legacy"))
    try:
        lowered, _unavailable = lower(ruleset, LoweringOptions(accounts=kernel.accounts is not None))
        XtWriter(kernel).write(XtListing(), lowered)
    finally:
        kernel.close()


def _restore(text: str) -> None:
    programs_of("legacy").restore(4, text)


def _events(run: Run, size: Size) -> Iterator[Row]:
    """Commit events, by both backends in turns; and the restore of an empty chain, beside the same rules."""
    for families in ("dual", "IPv4"):
        with ExitStack() as stack:
            names = {
                backend: f"{netns.prefix('backends', os.getpid())}{families}{backend}"
                for backend in (NFTABLES, IPTABLES)
            }
            stack.callback(netns.remove, list(names.values()))
            netns.make(names.values())
            numbers = families, str(size.pods), str(size.policies), str(run.seed)
            children = {
                backend: stack.enter_context(
                    ChildProcess(_CHILD, backend, *numbers, within=["ip", "netns", "exec", names[backend]])
                )
                for backend in names
            }
            loaded = [child.receive(LoadedTable) for child in children.values()]
            table = f"{loaded[0].chains} chains, {loaded[0].sets} sets, {loaded[0].elements:,} elements in nftables"
            yield from _event_rows(run, size, children, "both families" if families == "dual" else "IPv4 alone", table)
    yield from _kube_router_commit(run)


def _event_rows(run: Run, size: Size, children: dict[str, ChildProcess], families: str, note: str) -> Iterator[Row]:
    words = {
        "one": ("a policy created for one Pod that has others", "the policy of one Pod deleted"),
        "policy": (f"a policy created that isolates {size.farm} local Pods", f"the policy of {size.farm} Pods deleted"),
        "label": ("a label change that blocks", "a label change that allows"),
    }
    costs: dict[tuple[str, str], list[EventCosts]] = {}
    alone: list[float] = []
    for turn in range(5 if run.quick else 20):
        run.progress(f"events, {families}: turn {turn}")
        for stream, (backend, child) in itertools.product(words, children.items()):
            found = child.request(EventCosts, "events", stream=stream, count=2 * _PAIRS)
            costs.setdefault((stream, backend), []).append(found)
        alone += children[IPTABLES].request(Restores, "restores", count=_PAIRS).cpu
    for stream, names in words.items():
        for place, name in enumerate(names):
            here, there = (costs[stream, backend] for backend in (IPTABLES, NFTABLES))
            yield Row(
                name=f"{name}, {families}, bytes to commit: {IPTABLES}",
                unit="ms",
                values=[ms for each in here for ms in each.took[place::2]],
                reference=[ms for each in there for ms in each.took[place::2]],
                reference_name=NFTABLES,
                paired=True,
                note=note if name == "a policy created for one Pod that has others" else "",
            )
            yield Row(
                name=f"{name}, {families}, CPU time: {IPTABLES}",
                unit="ms",
                values=[ms for each in here for ms in each.cpu[place::2]],
                reference=[ms for each in there for ms in each.cpu[place::2]],
                reference_name=NFTABLES,
                paired=True,
            )
    yield Row(name=f"iptables-restore of one empty chain, {families}, CPU time", unit="ms", values=alone)


def _kube_router_commit(run: Run) -> Iterator[Row]:
    """Restore all chains of kube-router's layout, as each of its syncs does."""
    name = f"{netns.prefix('backends', os.getpid())}whole"
    text = kube_router.restore_text([f"10.200.0.{number}" for number in range(1, _LOCAL + 1)], PORT)
    took: list[float] = []
    netns.make([name])
    try:
        for _ in range(5 if run.quick else 20):
            began = time.perf_counter()
            netns.inside(name, functools.partial(_restore, text))
            took.append((time.perf_counter() - began) * 1e3)
    finally:
        netns.remove([name])
    yield Row(name=f"one restore of {KUBE_ROUTER}, {_LOCAL} Pods", unit="ms", values=took)


def _flushes(run: Run) -> Iterator[Row]:
    healed: dict[str, list[float]] = {}
    text = yaml.dump_all(objects(), Dumper=KubectlDumper, sort_keys=False)
    flush, is_there = (
        ("iptables-legacy", "-t", "mangle", "-F"),
        ("iptables-legacy", "-t", "mangle", "-S", "FORWARD", "1"),
    )
    flush_nftables, list_nftables = (
        ("nft", "flush", "ruleset"),
        ("nft", "list", "chain", "inet", "nfagent", "forward-ingress"),
    )
    for backend, flushes in (
        (NFTABLES, {NFTABLES: _Flush(flush_nftables, list_nftables)}),
        (
            IPTABLES,
            {
                f"{IPTABLES}, by a program that takes the node's lock": _Flush(flush, is_there),
                f"{IPTABLES}, by a program with a lock file of its own": _Flush(flush, is_there, shares_lock=False),
            },
        ),
    ):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-backends-")))
            manifests = folder / "manifests"
            manifests.mkdir()
            (manifests / "cluster.yaml").write_text(text, encoding="utf-8")
            topology = stack.enter_context(NetnsTopology(FLUSHED_NODES, PODS, tag="backends"))
            cluster = stack.enter_context(LabCluster(topology, manifests, folder / "agents", backend=backend))
            agent = cluster.agent(FLUSHED_NODES[0].name)
            for number, (words, one) in itertools.product(range(5 if run.quick else 20), flushes.items()):
                run.progress(f"flush {number} of {words}")
                healed.setdefault(words, []).append(_healed(agent, topology, one))
    for words, values in healed.items():
        yield Row(name=f"from a flush to the rules again: {words}", unit="ms", values=values)


class _Flush(msgspec.Struct, frozen=True):
    """A flush by another program.

    is_there:    a command whose output names us where the rules are there
    shares_lock: whether the program takes the lock of the node's other programs; one in a container may not
    """

    command: tuple[str, ...]
    is_there: tuple[str, ...]
    shares_lock: bool = True


def _healed(agent: LabAgent, topology: NetnsTopology, flush: _Flush) -> float:
    """Flush the rules; return the ms until they are there again."""
    others_lock = {"XTABLES_LOCKFILE": f"{agent.environment['XTABLES_LOCKFILE']}.other"}
    flushing = agent.environment if flush.shares_lock else {**agent.environment, **others_lock}

    def run(command: tuple[str, ...], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        words = topology.command(topology.node_namespace(agent.node), list(command))
        return subprocess.run(  # noqa: S603 - our own commands
            words, capture_output=True, text=True, check=False, env=environment
        )

    _await(agent.recheck_is_done)
    run(flush.command, flushing)
    began = time.perf_counter()
    # What looks doesn't take the lock that tells the agent of changes.
    _await(lambda: "nfa" in run(flush.is_there, {**agent.environment, **others_lock}).stdout)
    return (time.perf_counter() - began) * 1e3


def _await(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _AWAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise KernelError(f"not within {_AWAIT_SECONDS:.0f} s")
