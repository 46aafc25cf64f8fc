"""The agent's CPU for a change that blocks, when changes come singly and in a stream; also beside an earlier version.

    python -m benchmarks --only revocation-cpu
    NFAGENT_BENCH_BEFORE=../before python -m benchmarks --only revocation-cpu

In a lab of one node the Pods that a policy lets in change again and again: each change revokes from those of before.
After a change the kernel walks its conntrack table on the agent's account, however few entries it has. A second lab
has an agent of the earlier checkout, if there is one; both are measured in turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness.earlier_checkout import VARIABLE, agent_environment, earlier_checkout, has_earlier_checkout
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from nfagent.errors import KernelError
from nfagent.kernel.conntrack import ConntrackClient
from nfagent.lab.cluster.agents import LabCluster
from nfagent.lab.latency.process_cpu import cpu_seconds
from nfagent.lab.objects.documents import Document
from nfagent.lab.topology.netns import inside
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import PodPlan, grid

_NOW, _BEFORE = "now", "before"
_NODE = "n1"
_SINGLY_SECONDS = 2.5
"""Between changes that come singly: every round has ended, and the pause after it."""
_STREAMS = (0.5, 0.05)
"""Between the changes of a stream."""
_STREAM_SECONDS = 10.0
_WALKS = 20
_NO_ONE = frozenset({"203.0.113.1"})
_LIMIT_MS = 5.0
_MS = 1e3


class Spent(msgspec.Struct, frozen=True):
    """Changes in a row.

    cpu:    ms for each change
    rounds: rounds of the revoker after the first one, each second; None for a version that doesn't count them
    """

    cpu: float
    rounds: float | None


class RevokingLab:
    """A node with an agent, and the policy that changes."""

    def __init__(self, stack: ExitStack, name: str, checkout: Path | None) -> None:
        """Build it, and return when the agent enforces; checkout: an earlier version, for its agent."""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-revocation-cpu-")))
        nodes, pods, _ = grid(nodes=1)
        topology = stack.enter_context(NetnsTopology(nodes, pods, tag=f"cpu{name}"))
        self._namespace = topology.node_namespace(_NODE)
        manifests = folder / "manifests"
        manifests.mkdir()
        self._cluster = LabCluster(topology, manifests, folder / "agents")
        self._agent = self._cluster.agent(_NODE)
        if checkout is not None:
            self._agent.environment |= agent_environment(checkout)
        self._cluster.place("cluster.json", _list([_node(topology), *map(pod_document, topology.pods.values())]))
        self._allowed = 0
        self._change()
        stack.enter_context(self._cluster)
        self._cluster.wait_for_recheck()

    def spend(self, changes: int, interval: float) -> Spent:
        """Make so many changes, each an interval after the last, and wait for the end of what they cause."""
        rounds, used, began = self._rounds(), cpu_seconds(self._agent.process.pid), time.monotonic()
        for number in range(1, changes + 1):
            self._change()
            time.sleep(max(0.0, began + number * interval - time.monotonic()))
        seconds, ended = time.monotonic() - began, self._rounds()
        time.sleep(_SINGLY_SECONDS)
        cpu = (cpu_seconds(self._agent.process.pid) - used) * _MS / changes
        if not self._agent.recheck_is_done():
            raise KernelError(f"addresses are still under re-check {_SINGLY_SECONDS:g} s after the last change")
        return Spent(cpu, None if rounds is None or ended is None else (ended - rounds - 1) / seconds)

    def walks(self, count: int) -> list[float]:
        """Return the CPU time of so many dumps of the conntrack table, in ms."""
        with closing(inside(self._namespace, ConntrackClient)) as connections:
            return [_cpu_ms(lambda: connections.entries(_NO_ONE)) for _ in range(count)]

    def _change(self) -> None:
        """Let other Pods in than before."""
        self._allowed = 1 - self._allowed
        self._cluster.place("policy.json", _list([policy("ab"[self._allowed])]))

    def _rounds(self) -> int | None:
        status: dict[str, Any] = self._agent.ask("/v1/dump/state")["agent"]["revoke"]
        return status.get("rounds")


@bench("revocation-cpu", f"the agent's CPU for a change that blocks; beside an earlier version: {VARIABLE}=CHECKOUT")
def revocation_cpu(run: Run) -> Iterator[Row]:
    """Measure 15 changes that come singly, and each stream three times; in a quick run 4, and once."""
    earlier = {_BEFORE: earlier_checkout()} if has_earlier_checkout() else {}
    with ExitStack() as stack:
        run.progress("labs")
        labs = {name: RevokingLab(stack, name, folder) for name, folder in ({_NOW: None} | earlier).items()}
        for interval in (_SINGLY_SECONDS, *_STREAMS):
            singly = interval == _SINGLY_SECONDS
            changes, rounds = (1, 15) if singly else (round(_STREAM_SECONDS / interval), 3)
            found: dict[str, list[Spent]] = {name: [] for name in labs}
            for turn in range(4 if singly and run.quick else 1 if run.quick else rounds):
                run.progress(f"a change every {interval:g} s, round {turn}")
                for name, lab in labs.items():
                    found[name].append(lab.spend(changes, interval))
            yield from _rows("changes that come singly" if singly else f"a change every {interval:g} s", found)
        yield Row(
            name="a walk of the conntrack table: part of a change that comes singly",
            unit="ms",
            values=labs[_NOW].walks(_WALKS),
        )


def _cpu_ms(function: Callable[[], object]) -> float:
    began = time.thread_time()
    function()
    return (time.thread_time() - began) * _MS


def _rows(words: str, found: dict[str, list[Spent]]) -> Iterator[Row]:
    before = found.get(_BEFORE)
    yield Row(
        name=f"{words}: agent's CPU for a change that blocks",
        unit="ms",
        values=[one.cpu for one in found[_NOW]],
        reference=None if before is None else [one.cpu for one in before],
        reference_name="" if before is None else _BEFORE,
        paired=before is not None,
        targets=(at_most("p50", _LIMIT_MS),),
    )
    rates = [one.rounds for one in found[_NOW] if one.rounds is not None]
    if not words.endswith("singly"):
        yield Row(
            name=f"{words}: walks of the conntrack table",
            unit="1/s",
            values=rates,
            targets=(at_most("max", 1),),
            note="after the first one, which follows the first change at once",
        )


def _list(documents: list[Document]) -> str:
    return msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": documents}).decode()


def _node(topology: NetnsTopology) -> Document:
    node = topology.nodes[_NODE]
    addresses = [{"type": "InternalIP", "address": address} for address in node.addresses]
    metadata, spec = {"name": node.name}, {"podCIDRs": list(node.pod_cidrs)}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec, "status": {"addresses": addresses}}


def pod_document(pod: PodPlan) -> Document:
    """Return the document of a Pod; its label has its name."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": {"pod": pod.name}},
        "spec": {"nodeName": pod.node, "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in pod.addresses]},
    }


def policy(allowed: str) -> Document:
    """Return the policy that lets only Pods of one name in."""
    peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": allowed}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "x", "name": "changing"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [peer]}]},
    }
