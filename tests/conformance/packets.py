"""A case by packets: a lab with an agent on every node, fed from a folder with a file for each object."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self, TypeAlias

from nfagent.errors import NfagentError, UsageError
from nfagent.lab.cluster.agents import LabCluster
from nfagent.lab.ebpf.state import EbpfState
from nfagent.lab.probes.listeners import Endpoint, Listeners
from nfagent.lab.probes.probe import Probe as Sent
from nfagent.lab.probes.probe import ProbeResult, run_probes
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import Attachment, NodePlan, PodPlan
from tests.conformance.readings import decode
from tests.conformance.replay import file_name
from tests.conformance.results import NOT_COVERED, Reading, Result, ResultBuilder
from tests.conformance.suites import Case, Node, Place, State, Step, Suite, flows, places, states
from tests.support.packet_labs import as_text

TAG = "conformance"
"""Part of the names of the labs' network namespaces."""

SILENCE_SECONDS = 0.3
"""How long a probe waits for a reply."""
_LATE_SECONDS = 3.0
"""The same in a second try, after a missing reply: the machine may have been busy."""

# Among thousands of probes a source port is used twice: the earlier conntrack entry must have expired by then.
_SHORT_TIMEOUTS = {
    "netfilter/nf_conntrack_udp_timeout": "1",
    "netfilter/nf_conntrack_udp_timeout_stream": "1",
    "netfilter/nf_conntrack_tcp_timeout_close": "1",
}


def uncovered(suite: Suite, case: Case) -> str:
    """Return why the eBPF path doesn't cover a case; '' if it does."""
    for _, state in states(suite, case):
        cluster = EbpfState("")
        for document in state.values():
            cluster.put(decode(document))
        cluster.drain()
        if cluster.coverage.refusals:
            return NOT_COVERED
    return ""


PacketPath: TypeAlias = Literal["nftables", "iptables", "ebpf"]
"""What enforces in a lab: nfagent by either backend, or the lab's eBPF programs."""


def reading_of(attachment: Attachment, path: PacketPath) -> Reading:
    """Return the reading that packets in such a lab are."""
    if path == "iptables":
        return "iptables-routed" if attachment == "routed" else "iptables-bridge"
    if path == "nftables":
        return attachment
    return "ebpf-routed" if attachment == "routed" else "ebpf-bridge"


class ConformanceLab:
    """A lab that runs one case after another, of any suite with its nodes."""

    def __init__(
        self,
        nodes: tuple[Node, ...],
        attachment: Attachment,
        folder: Path,
        path: PacketPath = "nftables",
    ) -> None:
        """Plan the lab; `folder` is empty, and gets the manifests and the agents' folders."""
        self.nodes = nodes
        self._path: PacketPath = path
        self._reading = reading_of(attachment, path)
        self._manifests = folder / "manifests"
        self._manifests.mkdir()
        plans = [NodePlan(node.name, node.addresses, node.cidrs, attachment) for node in nodes]
        self._fabric = NetnsTopology(plans, tag=TAG)
        self._servers = Listeners()
        agents = folder / "agents"
        if path == "ebpf":
            self._cluster = LabCluster(self._fabric, self._manifests, agents, kind="ebpf")
        else:
            self._cluster = LabCluster(self._fabric, self._manifests, agents, backend=path)
        self._state: State = {}
        self._pods: dict[str, Place] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Build the lab, and remove it on exit. Raises HostError, KernelError."""
        with self._fabric, self._servers, self._cluster:
            for node in self.nodes:
                netns.write_sysctls(self._fabric.node_namespace(node.name), _SHORT_TIMEOUTS)
            yield self

    def judge(self, suite: Suite, case: Case) -> Result:
        """Send every probe of a case. A step that the lab can't make is a failure, and ends the case.

        Raises UsageError for a suite with other nodes.
        """
        if suite.nodes != self.nodes:
            raise UsageError(f"{suite.name} has other nodes than this lab: build one of its own for it")
        builder = ResultBuilder(case, self._reading)
        if self._path == "ebpf" and (reason := uncovered(suite, case)):
            builder.put_aside(reason, sum(len(step.probes) for step in case.steps))
            return builder.result()
        for step, state in states(suite, case):
            try:
                self._apply(state, places(suite, state))
                self._probe(case, step, builder)
            except NfagentError as error:
                builder.broke(step.number, str(error))
                break
        return builder.result()

    def _apply(self, state: State, pods: dict[str, Place]) -> None:
        """Write the files and create the Pods of a state; return when every agent enforces it."""
        for ref in self._state.keys() - state.keys():
            (self._manifests / file_name(ref)).unlink()
        for ref, document in state.items():
            if self._state.get(ref) != document:
                self._cluster.place(file_name(ref), as_text([document]))
        self._state = state
        for path, place in list(self._pods.items()):
            if pods.get(path) != place:
                self._end(path)
        for path, place in pods.items():
            if path not in self._pods:
                self._begin(path, place)
        self._cluster.wait_until_enforced()

    def _begin(self, path: str, place: Place) -> None:
        # A host-network Pod is no more than what listens in its node's namespace.
        if not place.host:
            self._fabric.add_pod(PodPlan(place.namespace, place.name, place.node, place.addresses))
        self._pods[path] = place
        self._servers.listen(
            Endpoint(self._namespace(place), address, protocol, port)
            for address in place.addresses
            for protocol, port in place.listens
        )

    def _end(self, path: str) -> None:
        place = self._pods.pop(path)
        self._servers.stop(self._namespace(place))
        if not place.host:
            self._fabric.remove_pod(place.namespace, place.name)

    def _namespace(self, place: Place) -> str:
        if place.host:
            return self._fabric.node_namespace(place.node)
        return self._fabric.pod_namespace(place.namespace, place.name)

    def _probe(self, case: Case, step: Step, builder: ResultBuilder) -> None:
        asked = [
            (probe, flow, Sent(self._namespace(self._pods[probe.source]), flow.destination, probe.protocol, probe.port))
            for probe, flow in flows(case, step, self._pods)
        ]
        outcomes = run_probes(self._servers, (sent for _, _, sent in asked), SILENCE_SECONDS)
        if any(probe.allowed and not outcomes[sent].reached for probe, _, sent in asked):
            # Then a missing reply proves nothing about the other probes either.
            silent = [sent for sent, outcome in outcomes.items() if not outcome.reached]
            outcomes |= run_probes(self._servers, silent, _LATE_SECONDS)
        for probe, flow, sent in asked:
            builder.judged(step.number, probe, flow, _found(outcomes[sent]))


def _found(outcome: ProbeResult) -> str:
    """Return the result of a probe: denied means no reply and no error."""
    if outcome.reached:
        return "allowed"
    if outcome.error:
        return f"refused: {outcome.error}"
    return "denied" if outcome.seen_from is None else "no answer, though the server saw it"
