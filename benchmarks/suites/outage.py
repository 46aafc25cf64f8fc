"""API server outages under traffic: wrong verdicts meanwhile, and the time until the agents follow again.

In a lab of two nodes the server is killed and started again, several times. Meanwhile new connections are probed again
and again, allowed ones and denied ones, and established ones carry traffic: no verdict may differ from the policies. As
soon as the server is ready, a policy is created: the time runs from there until every agent follows every kind, and
until the policy is enforced on both nodes.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeAlias

import msgspec

from benchmarks.registry import Run, bench
from benchmarks.results import Row, at_most
from nfagent.lab.apiserver.control_plane import ControlPlane
from nfagent.lab.cluster.agents_apiserver import ApiCluster, all_are_watching
from nfagent.lab.probes.continuous_probe import ContinuousProbe
from nfagent.lab.probes.listeners import Listeners, pod_endpoints
from nfagent.lab.probes.probe import Probe
from nfagent.lab.probes.traffic import StreamPlan, TrafficStream, TrafficStreams
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import OutsideHost, grid
from nfagent.model.netaddr import FAMILIES, family_of

Document: TypeAlias = dict[str, Any]

NODES, PODS, _ = grid()
API = OutsideHost("api", ("192.0.2.250", "2001:db8:ffff::250"))
_PAUSE = 0.01
_PATIENCE = 60.0
_INTERVAL = 0.005
_TARGET_SECONDS = 2.0
_APART_SECONDS = 12.0
"""Between outages: agents back off from a server whose watches break off within ten seconds again and again."""


class Outage(msgspec.Struct, frozen=True):
    """One outage: wrong verdicts, and seconds from the server's readiness."""

    wrong: list[str]
    probes: int
    lost: int
    sent: int
    followed: float
    enforced: float


@bench("outage", "the API server killed under traffic: verdicts meanwhile, and the time until agents follow again")
def outage(run: Run) -> Iterator[Row]:
    """Make one long outage, and several short ones."""
    lengths = [3.0] if run.quick else [60.0, *[5.0] * 4]
    with Lab() as lab:
        found = []
        for number, seconds in enumerate(lengths, start=1):
            run.progress(f"outage {number} of {len(lengths)}: {seconds:.0f} s")
            found.append(lab.outage(seconds))
    words = f"of {lengths[0]:.0f} s" + (f", {len(lengths) - 1} of {lengths[-1]:.0f} s" if lengths[1:] else "")
    yield Row(
        name=f"wrong verdicts on new connections, outages {words}",
        unit="probes",
        values=[float(len(one.wrong)) for one in found],
        targets=(at_most("max", 0),),
        note="; ".join(dict.fromkeys(words for one in found for words in one.wrong))
        or f"of {sum(one.probes for one in found):,} probes",
    )
    yield Row(
        name=f"lost packets of established connections, outages {words}",
        unit="packets",
        values=[float(one.lost) for one in found],
        targets=(at_most("max", 0),),
        note=f"of {sum(one.sent for one in found):,} packets",
    )
    yield Row(
        name="server ready to every kind followed again, on both nodes",
        unit="s",
        values=[one.followed for one in found],
        targets=(at_most("max", _TARGET_SECONDS),),
    )
    yield Row(
        name="server ready to a new policy enforced, on both nodes",
        unit="s",
        values=[one.enforced for one in found],
        targets=(at_most("max", _TARGET_SECONDS),),
    )


class Lab:
    """Two nodes whose agents follow an API server; a context manager that removes them."""

    def __init__(self) -> None:
        """Build nothing yet."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Build it. Raises HostError, KernelError, ClusterError."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfagent-outage-")))
            self._topology = stack.enter_context(NetnsTopology(NODES, PODS, [API], tag="outage"))
            self._servers = stack.enter_context(Listeners())
            self._plane = stack.enter_context(
                ControlPlane(
                    folder / "plane", address=API.addresses[0], netns=self._topology.outside_namespace(API.name)
                )
            )
            client = stack.enter_context(self._plane.client())
            client.put_all([*_objects(), _policy("kept", "a", "b")])
            self._cluster = stack.enter_context(
                ApiCluster(self._topology, self._plane.kubeconfig(), client, folder / "agents")
            )
            self._servers.listen(pod_endpoints(self._topology, [("tcp", 80), ("udp", 80)]))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove everything."""
        self._stack.close()

    def outage(self, seconds: float) -> Outage:
        """Kill the server, and start it again after so many seconds."""
        late, agents = _policy("late", "c"), list(self._cluster.agents.values())
        threading.Event().wait(_APART_SECONDS)
        with ContinuousProbe(self._servers, self._expected()) as probe, TrafficStreams(_INTERVAL) as streams:
            live = [streams.open(line) for line in self._lines()]
            self._plane.kill()
            threading.Event().wait(seconds)
            self._plane.start()
            ready = time.monotonic()
            self._cluster.client.put(late)
            self._cluster.wait_until_enforced([late])
            enforced = time.monotonic() - ready
            while not all_are_watching(agents) and time.monotonic() - ready < _PATIENCE:
                time.sleep(_PAUSE)
            followed = time.monotonic() - ready
            probe.wait_for(1)
            streams.close(*live)
            self._cluster.delete(late)
            self._cluster.wait_for_recheck()
        return Outage(
            probe.wrong, probe.asked, sum(map(_lost, live)), sum(stream.sent for stream in live), followed, enforced
        )

    def _expected(self) -> dict[Probe, bool]:
        """Return probes from both nodes to Pods of each node, by allowed and by denied callers."""
        return {
            Probe(self._topology.pod_namespace(*source), address, protocol, 80): source[1] == "b"
            for pod in PODS
            if pod.name == "a"
            for address in pod.addresses
            for source in (("x", "b"), ("y", "b"), ("x", "c"), ("y", "c"))
            for protocol in ("tcp", "udp")
        }

    def _lines(self) -> Iterator[StreamPlan]:
        called = [pod for pod in PODS if pod.name == "a"][:2]
        for number, pod in enumerate(called):
            for family in FAMILIES:
                yield StreamPlan(
                    client=self._topology.pod_namespace("z", "b"),
                    server=self._topology.pod_namespace(*pod.key),
                    address=next(one for one in pod.addresses if family_of(one) == family),
                    protocol="udp",
                    port=7000 + family,
                    speaker="client" if number else "server",
                )


def _lost(stream: TrafficStream) -> int:
    return len(set(range(1, stream.sent + 1)) - set(stream.numbers()))


def _objects() -> list[Document]:
    nodes = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name},
            "spec": {"podCIDRs": list(node.pod_cidrs)},
            "status": {"addresses": [{"type": "InternalIP", "address": address} for address in node.addresses]},
        }
        for node in NODES
    ]
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": {"pod": pod.name}},
            "spec": {"nodeName": pod.node, "containers": [{"name": "main"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": address} for address in pod.addresses]},
        }
        for pod in PODS
    ]
    return [*nodes, *pods, *(_policy("kept", "a", "b", space) for space in "yz")]


def _policy(name: str, pod: str, friend: str = "", namespace: str = "x") -> Document:
    """Return a policy that isolates the Pods of a name; friend: the Pods that may connect to them."""
    peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": friend}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "podSelector": {"matchLabels": {"pod": pod}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [peer]}] if friend else [],
        },
    }
