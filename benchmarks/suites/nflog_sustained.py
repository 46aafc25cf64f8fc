"""A running agent while denied packets of different connections come in without pause.

A Pod that may not send them sends datagrams to random ports of another one. The kernel counts what it denied, the
agent what it read; every packet that was sent has to be in a count of the agent.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness.process_usage import Usage, metered
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_least, at_most
from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.latency.traffic_rates import Traffic
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan, PodPlan

RATE = 50_000
_SECONDS, _QUICK_SECONDS = 120.0, 10.0
_SETTLED_SECONDS = 10.0
_POLL_SECONDS = 0.2
_NODE = NodePlan("n1", ("192.0.2.1",), ("10.244.1.0/24",))
_PODS = [PodPlan("bench", name, "n1", (f"10.244.1.{host}",)) for host, name in enumerate(("a", "b"), 10)]
_DEFAULTS = {f"NFAGENT_LOGGING_{key}": value for key, value in (("AGGREGATION_SECONDS", "5"), ("BURST", "500"))}
_DEFAULTS["NFAGENT_LOGGING_RECORDS_PER_SECOND"] = "500"


@bench("nflog-sustained", "a running agent under two minutes of denied packets of different connections")
def nflog_sustained(run: Run) -> Iterator[Row]:
    """Send at an even rate, and compare what was sent with what was counted."""
    seconds = _QUICK_SECONDS if run.quick else _SECONDS
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        traffic = stack.enter_context(Traffic())
        topology = stack.enter_context(NetnsTopology([_NODE], _PODS, tag="denied"))
        agent = LabAgent(topology, _NODE.name, ("--manifests", str(_manifests(folder))), folder / "agent")
        agent.start(_DEFAULTS)
        stack.callback(agent.stop)
        client = stack.enter_context(traffic.client(topology.pod_namespace("bench", "a"), _PODS[1].addresses[0]))
        run.progress(f"{RATE:,} packets a second for {seconds:g} s")
        with metered(agent.process.pid) as usage:
            client.send_datagrams(seconds, RATE, scatter=True)
            sent, nanoseconds = client.answer(seconds)
        log = _settled(agent, sent)
        lines = sum(1 for path in agent.verdict_log.parent.iterdir() for _line in path.open("rb"))
    yield from _rows(sent, sent / nanoseconds * 1e9, log, usage, lines)


def _manifests(folder: Path) -> Path:
    """Write two Pods, a policy that isolates them, and the log of what it denies; return the folder."""
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": _NODE.name},
            "spec": {"podCIDRs": list(_NODE.pod_cidrs)},
            "status": {"addresses": [{"type": "InternalIP", "address": address} for address in _NODE.addresses]},
        },
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}},
        *(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": pod.name, "namespace": pod.namespace},
                "spec": {"nodeName": pod.node, "containers": []},
                "status": {"phase": "Running", "podIPs": [{"ip": address} for address in pod.addresses]},
            }
            for pod in _PODS
        ),
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "closed", "namespace": "bench"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
        },
        {
            "apiVersion": "networking.gke.io/v1alpha1",
            "kind": "NetworkLogging",
            "metadata": {"name": "default"},
            "spec": {"cluster": {"allow": {"log": False}, "deny": {"log": True}}},
        },
    ]
    manifests = folder / "manifests"
    manifests.mkdir()
    listed = {"apiVersion": "v1", "kind": "List", "items": documents}
    (manifests / "cluster.json").write_text(json.dumps(listed), encoding="utf-8")
    return manifests


def _settled(agent: LabAgent, sent: int) -> Mapping[str, Any]:
    """Return the counts of the verdict log, once all packets are counted and no record waits, or some seconds later."""
    end = time.monotonic() + _SETTLED_SECONDS
    while True:
        log: Mapping[str, Any] = agent.ask("/v1/dump/state")["agent"]["verdict_log"]
        if (log["received"] == sent and not log["waiting_packets"]) or time.monotonic() > end:
            return log
        time.sleep(_POLL_SECONDS)


def _rows(sent: int, rate: float, log: Mapping[str, Any], usage: Usage, lines: int) -> Iterator[Row]:
    dropped = log["dropped_packets"]
    counted = log["packets"].get("deny", 0) + sum(dropped.values()) + log["waiting_packets"]
    records = log["records"].get("deny", 0)
    where = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()))
    yield Row(
        name="denied packets sent and not counted",
        unit="packets",
        values=[sent - counted],
        targets=(at_most("max", 0),),
        note=f"{sent:,} sent, {log['received']:,} read, {log['lost']:,} lost, {log['overruns']:,} overruns",
    )
    yield Row(
        name="denied packets of different connections, even rate",
        unit="packets/s",
        values=[rate],
        targets=(at_least("max", RATE * 0.99),),
        better="higher",
        note=f"for {usage.seconds:.0f} s; sender, kernel and agent share this machine's cores",
    )
    yield Row(
        name="agent's CPU",
        unit="% of a core",
        values=[usage.cores * 100],
        targets=(at_most("max", 100),),
        note=f"{usage.cpu_seconds / sent * 1e6:.1f} us a packet",
    )
    yield Row(
        name="records not in the file",
        unit="records",
        values=[records - lines],
        targets=(at_most("max", 0),),
        note=f"{records:,} records written for {log['packets'].get('deny', 0):,} packets; dropped: {where}",
    )
