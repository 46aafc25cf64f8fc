"""What a change of the rules costs packets: the same traffic through this checkout's agents, and through another's.

    git worktree add ../before v0.1.0
    NFAGENT_BENCH_BEFORE=../before python -m benchmarks --only before

Each state has labs of its own, routed and with bridges, and real agents in them, so that rules which depend on the
machine are there too. They are measured in turns, and compared round by round. A second lab of the earlier state shows
what two equal labs differ by.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import yaml

from benchmarks.data.documents import document
from benchmarks.data.synthetic import Size, synthetic
from benchmarks.harness.packet_labs import FAR, NEAR, Way, fabric_of, items
from benchmarks.harness.traffic import Client, Traffic
from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_least
from nfagent.errors import HostError
from nfagent.lab.agents import LabCluster
from nfagent.lab.topology import NetnsTopology
from nfagent.lab.topology_plan import Attachment

_CHECKOUT = "NFAGENT_BENCH_BEFORE"
_BEFORE, _AGAIN, _NOW = "before", "before, again", "now"
_STATES = (_BEFORE, _AGAIN, _NOW)
_ATTACHMENTS: tuple[Attachment, ...] = ("routed", "bridge")
_SECONDS = 0.012
_ROUNDS = {"stream": 400, "connections": 400}
_MEASURES = {"stream": Client.stream, "connections": Client.connections}
_WORDS = {"stream": "TCP stream", "connections": "connections"}
_UNITS = {"stream": "Gbit/CPU s", "connections": "1/CPU s"}


@bench("before", f"TCP streams and short connections, beside an earlier state's rules: {_CHECKOUT}=its checkout")
def before(run: Run) -> Iterator[Row]:
    """Measure the states in turns, with routed Pods and then with bridges."""
    checkout = Path(os.environ.get(_CHECKOUT, ""))
    if not (checkout / "nfagent" / "__main__.py").exists():
        raise HostError(f"no earlier state to compare with: {_CHECKOUT}=FOLDER names a checkout of it")
    for attachment in _ATTACHMENTS:
        with ExitStack() as stack:
            traffic = stack.enter_context(Traffic())
            run.progress("labs")
            ways = [_way(stack, number, attachment, checkout.resolve(), run.seed) for number in range(len(_STATES))]
            for server in (NEAR, FAR):
                clients = {way.name: way.client(stack, traffic, server) for way in ways}
                yield from _rows(run, clients, f"{attachment}, {'one node' if server == NEAR else 'two nodes'}")


def _way(stack: ExitStack, number: int, attachment: Attachment, checkout: Path, seed: int) -> Way:
    """Build a lab with agents of one of the states, and return when they enforce."""
    name = _STATES[number]
    fabric = stack.enter_context(fabric_of(number, attachment))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-bench-")))
    _write(fabric, folder / "manifests", seed)
    cluster = LabCluster(fabric, folder / "manifests", folder / "agents")
    if name != _NOW:
        for agent in cluster.agents.values():
            # Without PYTHONSAFEPATH the folder that this runs in would be looked at first.
            agent.environment |= {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
    stack.enter_context(cluster)
    cluster.settle()
    cluster.calm()
    return Way(name, fabric)


def _write(fabric: NetnsTopology, folder: Path, seed: int) -> None:
    """Write the manifests: a cluster of ten policies, and what judges the lab's Pods."""
    folder.mkdir()
    documents = [document(item) for item in items(synthetic(Size(100, 4, 20, 0), seed), fabric)]
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
        for state in (_AGAIN, _NOW):
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
