"""The demo's step on egress NAT by labels: source addresses that an outside host sees, and how soon a change shows."""

from __future__ import annotations

import statistics
import time
from typing import Any

from nfagent.lab.cluster.agents import LabCluster
from nfagent.lab.demo.output import DemoOutput
from nfagent.lab.machine.patience import patient
from nfagent.lab.probes.listeners import Listeners
from nfagent.lab.probes.probe import Probe, run_probes
from nfagent.lab.topology.netns_topology import NetnsTopology

_PODS = (("shop", "web"), ("shop", "api"))
_PORT = 443
_ROUNDS = 10
_DEADLINE = patient(30.0)


class EgressNatStep:
    """Adds an EgressNATPolicy with sources, and watches an outside host.

    result:   the source addresses seen, and the times, for `-o json`
    failures: what isn't as expected
    """

    def __init__(
        self, printer: DemoOutput, servers: Listeners, topology: NetnsTopology, cluster: LabCluster, outside: str
    ) -> None:
        """Use the demo's running topology and agents; outside: an address of the outside host."""
        self.result: dict[str, Any] = {}
        self.failures: list[str] = []
        self._printer = printer
        self._servers = servers
        self._topology = topology
        self._cluster = cluster
        self._outside = outside

    def run(self, name: str, text: str) -> None:
        """Add the manifest `name`, and remove it again."""
        before = self._views()
        self._cluster.write(name, text)
        after = self._views()
        rows = [[f"{pod[0]}/{pod[1]}", before[pod], after[pod], self._reason(pod)] for pod in _PODS]
        self._printer.table(["from", "seen before as", "then as", ""], rows)
        self.result["seen"] = {row[0]: row[1:3] for row in rows}
        web = self._topology.pods[_PODS[0]].addresses[0]
        self._expect(after == {**before, _PODS[0]: web}, "the EgressNATPolicy isn't enforced for its Pods alone")
        self._cluster.delete(name)
        self._times(name, text, (web, before[_PODS[0]]))

    def _views(self) -> dict[tuple[str, str], str]:
        """Return the source address of each Pod that the outside host sees."""
        probes = {pod: self._probe(pod) for pod in _PODS}
        outcomes = run_probes(self._servers, probes.values())
        return {pod: outcomes[probe].seen_from or "nothing" for pod, probe in probes.items()}

    def _probe(self, pod: tuple[str, str]) -> Probe:
        return Probe(self._topology.pod_namespace(*pod), self._outside, "tcp", _PORT)

    def _reason(self, pod: tuple[str, str]) -> str:
        """Return the reason that `nfagent explain` gives."""
        agent = self._cluster.agent(self._topology.pods[pod].node)
        asked = {"source": "/".join(pod), "destination": f"{self._outside}:{_PORT}"}
        found: str = agent.ask("/v1/explain", **asked)["translation"]["words"]
        return found.partition(": ")[2]

    def _times(self, name: str, text: str, sources: tuple[str, str]) -> None:
        """Time changes of the manifest, and the repair of a flushed chain, up to the first packet that shows them."""
        own, node = sources
        agent = self._cluster.agent(self._topology.pods[_PODS[0]].node)
        took: dict[str, list[float]] = {"policy created": [], "policy deleted": [], "flushed chain repaired": []}
        for turn in range(_ROUNDS):
            self._printer.progress(f"egress NAT, {turn + 1} of {_ROUNDS}")
            began = time.monotonic()
            self._cluster.place(name, text)
            took["policy created"].append(self._until_seen_as(own, began))
            self._cluster.wait_until_enforced()
            began = time.monotonic()
            (self._cluster.manifests / name).unlink()
            took["policy deleted"].append(self._until_seen_as(node, began))
            self._cluster.wait_until_enforced()
            began = time.monotonic()
            agent.nft("flush chain inet nfagent masquerade-pods")
            took["flushed chain repaired"].append(self._until_seen_as(node, began))
        self._printer.progress("")
        rows = [[what, f"{statistics.median(times):.0f} ms", f"{max(times):.0f} ms"] for what, times in took.items()]
        self._printer.table(["from the change to a packet that shows it", "median", "slowest"], rows)
        self.result["ms"] = {what: [round(value, 1) for value in times] for what, times in took.items()}

    def _until_seen_as(self, wanted: str, began: float) -> float:
        """Open connections until the outside host sees `wanted`; return the milliseconds since `began`."""
        probe = self._probe(_PODS[0])
        while time.monotonic() < began + _DEADLINE:
            if run_probes(self._servers, [probe])[probe].seen_from == wanted:
                return (time.monotonic() - began) * 1000
        self.failures.append(f"no packet had the source {wanted} within {_DEADLINE:.0f} s")
        return _DEADLINE * 1000

    def _expect(self, condition: bool, otherwise: str) -> None:  # noqa: FBT001 - the condition is what it is about
        if not condition:
            self.failures.append(otherwise)
