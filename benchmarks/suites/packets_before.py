"""Cost of a change of the rules for packets: the same traffic through this checkout's agents, and an earlier one's.

    git worktree add ../before v0.1.0
    NFAGENT_BENCH_BEFORE=../before python -m benchmarks --only packets-before

Each checkout has labs of its own, routed and with bridges, and real agents in them, so that rules which depend on the
machine are included. Labs are measured in turns, and compared round by round. A second lab of the earlier checkout
shows by how much two equal labs differ. Only the agents' process is the earlier one: labs, manifests and traffic are
of this checkout. So it can be any version that has `nfagent run --manifests --node`, the settings NFAGENT_RUNTIME_DIR,
NFAGENT_LOG_DIR and NFAGENT_STATE_DIR, and in `dump state` the keys `files`, `reconcile.in_sync` and `revoke.suspects`.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import yaml

from benchmarks.harness.earlier_checkout import VARIABLE, agent_environment, earlier_checkout
from benchmarks.harness.packet_labs import FAR, NEAR, PacketLab, items, plan_topology
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_least
from nfagent.lab.cluster.agents import LabCluster
from nfagent.lab.latency.traffic_rates import Client, Traffic
from nfagent.lab.objects.documents import document
from nfagent.lab.objects.synthetic import Size, synthetic
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import Attachment

_BEFORE, _BEFORE_SECOND_LAB, _NOW = "before", "before (second lab)", "now"
_STATES = (_BEFORE, _BEFORE_SECOND_LAB, _NOW)
_ATTACHMENTS: tuple[Attachment, ...] = ("routed", "bridge")
_SECONDS = 0.012
_ROUNDS = {"stream": 400, "connections": 400}
_MEASURES = {"stream": Client.stream, "connections": Client.connections}
_WORDS = {"stream": "TCP stream", "connections": "connections"}
_UNITS = {"stream": "Gbit/CPU s", "connections": "1/CPU s"}


@bench("packets-before", f"TCP streams and short connections, beside an earlier version's rules: {VARIABLE}=CHECKOUT")
def packets_before(run: Run) -> Iterator[Row]:
    """Measure the checkouts in turns, with routed Pods and then with bridges."""
    checkout = earlier_checkout()
    for attachment in _ATTACHMENTS:
        with ExitStack() as stack:
            traffic = stack.enter_context(Traffic())
            run.progress("labs")
            packet_labs = [_lab(stack, number, attachment, checkout, run.seed) for number in range(len(_STATES))]
            for server in (NEAR, FAR):
                clients = {lab.name: lab.client(stack, traffic, server) for lab in packet_labs}
                yield from _rows(run, clients, f"{attachment}, {'one node' if server == NEAR else 'two nodes'}")


def _lab(stack: ExitStack, number: int, attachment: Attachment, checkout: Path, seed: int) -> PacketLab:
    """Build a lab with agents of one of the checkouts, and return when they enforce."""
    name = _STATES[number]
    topology = stack.enter_context(plan_topology(number, attachment))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-bench-")))
    _write(topology, folder / "manifests", seed)
    cluster = LabCluster(topology, folder / "manifests", folder / "agents")
    if name != _NOW:
        for agent in cluster.agents.values():
            agent.environment |= agent_environment(checkout)
    stack.enter_context(cluster)
    cluster.wait_until_enforced()
    cluster.wait_for_recheck()
    return PacketLab(name, topology)


def _write(topology: NetnsTopology, folder: Path, seed: int) -> None:
    """Write the manifests: a cluster of ten policies, and those about the lab's Pods."""
    folder.mkdir()
    documents = [document(item) for item in items(synthetic(Size(100, 4, 20, 0), seed), topology)]
    (folder / "cluster.yaml").write_text(yaml.dump_all(documents, Dumper=yaml.CSafeDumper), encoding="utf-8")


def _rows(run: Run, clients: dict[str, Client], where: str) -> Iterator[Row]:
    order = random.Random(run.seed)  # noqa: S311 - an order of measurements
    for kind, measure in _MEASURES.items():
        rounds = _ROUNDS[kind] // (8 if run.quick else 1)
        values: dict[str, list[float]] = {state: [] for state in _STATES}
        for turn in range(rounds + 1):
            run.progress(f"{where}, {kind}: round {turn} of {rounds}")
            for state in order.sample(_STATES, len(_STATES)):
                value = measure(clients[state], _SECONDS)
                # The first round warms up.
                if turn:
                    values[state].append(value)
        for state in (_BEFORE_SECOND_LAB, _NOW):
            yield Row(
                name=f"{_WORDS[kind]}, {where}: {state}",
                unit=_UNITS[kind],
                values=values[state],
                reference=values[_BEFORE],
                reference_name=_BEFORE,
                paired=True,
                better="higher",
                targets=(at_least("ratio", 0.99),) if state == _NOW else (),
            )
