"""Memory and CPU of a running agent while nothing changes.

The agent is the real process with a folder of manifests as its source, in a network namespace of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.harness.process_usage import metered, rss_mib
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from nfagent.lab.cluster.agents import LabAgent
from nfagent.lab.objects.documents import document
from nfagent.lab.objects.synthetic import NODE, Size, synthetic
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import NodePlan

_A_FILE = 50
SIZE = Size(pods=5_000, policies=1_000, local=100, farm=40)


@bench("idle", "a running agent's memory, and its CPU while nothing changes")
def idle(run: Run) -> Iterator[Row]:
    """Start an agent on 5,000 Pods, and leave it idle."""
    cluster = synthetic(SIZE, run.seed)
    node = NodePlan(NODE, ("192.0.2.1", "2001:db8:ffff::1"), ("10.0.1.0/24", "fd00:10:1::/64"))
    with tempfile.TemporaryDirectory() as folder, NetnsTopology([node], tag="rest") as topology:
        manifests = Path(folder) / "manifests"
        manifests.mkdir()
        documents = [document(item) for item in cluster.items()]
        for number, start in enumerate(range(0, len(documents), _A_FILE)):
            listed = {"apiVersion": "v1", "kind": "List", "items": documents[start : start + _A_FILE]}
            (manifests / f"{number:04d}.json").write_bytes(msgspec.json.encode(listed))
        agent = LabAgent(topology, NODE, ("--manifests", str(manifests)), Path(folder) / "agent")
        try:
            began = time.monotonic()
            agent.start()
            took = time.monotonic() - began
            pid = agent.process.pid
            with metered(pid) as usage:
                time.sleep(5.0 if run.quick else 20.0)
            name = f"idle agent, {SIZE.pods:,} Pods, {SIZE.policies:,} policies"
            yield Row(
                name=f"{name}: memory",
                unit="MiB",
                values=[rss_mib(pid)],
                targets=(at_most("max", 100),),
                note=f"ready {took:.1f} s after its start, from JSON files of 50 objects",
            )
            yield Row(
                name=f"{name}: CPU",
                unit="% of a core",
                values=[usage.cores * 100],
                targets=(at_most("max", 0.5),),
                note=f"over {usage.seconds:.0f} s, to a hundredth of a CPU second",
            )
        finally:
            agent.stop()
