"""Rates through a policy that allows, for each path and for none: throughput, connections, CPU of a packet, memory.

The labs are measured in turns, in another order each round, from the client Pod to the server Pod of another node.
Both ends run on one core: rates are those of one core.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from nfagent.lab.latency.cluster import LatencyCluster
from nfagent.lab.latency.samples import Rate, RatePath
from nfagent.lab.latency.traffic_rates import Client, Traffic
from nfagent.lab.topology.netns_topology import NetnsTopology

ROUNDS = 20
"""Measurements of each quantity in each lab, after one to warm up."""

_SECONDS = 0.1
_PACKETS_A_SECOND = 50_000
_MEASURES: dict[str, Callable[[Client], float]] = {
    "tcp_bits_per_second": lambda client: client.stream_bits(_SECONDS),
    "connections_per_second": lambda client: client.connection_rate(_SECONDS),
    "cpu_ns_per_packet": lambda client: client.packet_cpu_ns(_SECONDS, _PACKETS_A_SECOND),
}


def measure_rates(
    topologies: Mapping[RatePath, NetnsTopology],
    cluster: LatencyCluster,
    size: tuple[int, int],
    order: random.Random,
    *,
    rounds: int = ROUNDS,
) -> list[Rate]:
    """Return the rates of all labs. size: numbers of policies and Pods. Raises HostError, KernelError."""
    policies, pods = size
    values: dict[tuple[RatePath, str], list[float]] = {}
    with ExitStack() as stack:
        traffic = stack.enter_context(Traffic())
        clients: dict[RatePath, Client] = {}
        for path, topology in topologies.items():
            client, server = (topology.pod_namespace(*pod.key) for pod in (cluster.client, cluster.server))
            clients[path] = stack.enter_context(traffic.pair(client, server, cluster.server.addresses[0]))
        for turn, quantity in product(range(rounds + 1), _MEASURES):
            for path in order.sample(list(clients), len(clients)):
                value = _MEASURES[quantity](clients[path])
                if turn:
                    values.setdefault((path, quantity), []).append(value)
    return [
        Rate(path=path, quantity=quantity, policies=policies, pods=pods, values=found)
        for (path, quantity), found in values.items()
    ]


def resident_bytes(pid: int) -> float:
    """Return a process's resident memory."""
    found = re.search(r"^VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"), re.MULTILINE)
    return float(found[1]) * 1024 if found else 0.0
