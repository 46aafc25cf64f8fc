"""The third oracle: a lab that lives through many cases, with agents on both nodes that follow one source of objects.

Every slot is a permanent network namespace, with servers: a Pod that comes or goes is a document.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from nfagent.errors import NfagentError
from nfagent.kernel.backend_choice import BackendName
from nfagent.lab.cluster.agents import LabAgent, LabAgents
from nfagent.lab.probes.listeners import Endpoint, Listeners, ProbeProtocol
from nfagent.lab.probes.probe import Probe, run_probes
from nfagent.lab.topology import netns
from nfagent.lab.topology.netns_topology import NetnsTopology
from nfagent.lab.topology.plan import Attachment, NodePlan, OutsideHost, PodPlan
from nfagent.model.netaddr import family_of
from nfagent.policy.evaluator import Flow
from tests.fuzz.case import Case, Document, Finding, LinkDestination, Question, Step, verdict_text
from tests.fuzz.folder_objects import FolderObjects, LabObjects
from tests.fuzz.link_scope import LinkScope, destination_address
from tests.fuzz.long_lived import LongLivedConnections
from tests.fuzz.oracles import Oracles
from tests.fuzz.topology import AT, GATEWAYS, PLACES, SENDABLE, Place
from tests.properties.objects import NODE_CIDRS
from tests.support.two_node_cluster import NODE_ADDRESSES, NODES, OUTSIDE

TAG = "fuzz"
_SLOTS = "slots"
_SECONDS = 0.25
_LIVING = 24
_FRESH = 8
_PROTOCOLS: dict[str, ProbeProtocol] = {"tcp": "tcp", "udp": "udp", "sctp": "sctp", "icmp": "icmp", "icmpv6": "icmp"}
# Thousands of probes: their conntrack entries must expire before their source ports are used again.
_SHORT_TIMEOUTS = {
    "netfilter/nf_conntrack_udp_timeout": "5",
    "netfilter/nf_conntrack_udp_timeout_stream": "60",
    "netfilter/nf_conntrack_tcp_timeout_close": "1",
}


class PacketLab:
    """The lab; a context manager in which it runs."""

    def __init__(
        self,
        scratch: Path,
        attachment: Attachment = "routed",
        objects: LabObjects | None = None,
        settings: Mapping[str, str] | None = None,
        backend: BackendName = "nftables",
    ) -> None:
        """Build nothing yet.

        scratch:  an empty folder, for objects and agents
        objects:  what the agents follow: a folder of manifests by default
        settings: of the agents, as environment variables
        backend:  where agents that follow a folder write rules
        """
        self._scratch = scratch
        self.objects = objects or FolderObjects(backend)
        # A case starts with an empty cluster, without a Node of the agent's name.
        self._settings = {"NFAGENT_ALLOW_UNKNOWN_NODE": "true", **self.objects.settings, **(settings or {})}
        self._topology = NetnsTopology(
            [
                NodePlan(name, NODE_ADDRESSES[name], NODE_CIDRS[name], attachment, gateways=GATEWAYS[name])
                for name in NODES
            ],
            [PodPlan(_SLOTS, place.name, place.node, place.addresses) for place in PLACES if place.slot],
            [OutsideHost("outside", OUTSIDE), *self.objects.hosts],
            TAG,
        )
        self._servers = Listeners()
        self._cluster: LabAgents
        self._connections = LongLivedConnections(lambda address: self._namespace(AT[address]), self._servers.wait_idle)
        self._link_scope = LinkScope(self._namespace, attachment)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Build it, and return when both agents enforce an empty cluster.

        Raises HostError, ClusterError, KernelError.
        """
        netns.sweep(TAG)
        with contextlib.ExitStack() as unless_all_run:
            unless_all_run.enter_context(self._topology)
            unless_all_run.enter_context(self._servers)
            self._servers.listen(self._endpoints(*PLACES))
            unless_all_run.callback(self._link_scope.close, *PLACES)
            self._link_scope.open(*PLACES)
            for name in NODES:
                netns.write_sysctls(self._topology.node_namespace(name), _SHORT_TIMEOUTS)
            self._cluster = self.objects.open(self._topology, self._scratch, unless_all_run)
            for agent in self._cluster.agents.values():
                agent.environment |= self._settings
            unless_all_run.enter_context(self._cluster)
            unless_all_run.callback(self._connections.close)
            self._stack = unless_all_run.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the lab."""
        self._stack.close()

    @property
    def agents(self) -> Mapping[str, LabAgent]:
        """The agents, by node."""
        return self._cluster.agents

    def node_namespace(self, node: str) -> str:
        """Return the network namespace of a node."""
        return self._topology.node_namespace(node)

    def replace(self, place: Place) -> None:
        """Remove the network namespace and the link of a slot, and make both anew, with their servers.

        Connections of the slot are closed before. Raises KernelError.
        """
        ends = set(place.addresses)
        self._connections.drop([flow for flow in self._connections.flows if {flow.source, flow.destination} & ends])
        self._link_scope.close(place)
        self._servers.stop(self._namespace(place))
        self._topology.remove_pod(_SLOTS, place.name)
        self._topology.add_pod(PodPlan(_SLOTS, place.name, place.node, place.addresses))
        self._servers.listen(self._endpoints(place))
        self._link_scope.open(place)

    def clear(self) -> None:
        """Delete all objects. Agents that don't sync are restarted."""
        self._connections.close()
        self.objects.discard(())
        try:
            self.settle()
        except NfagentError:
            self._cluster.stop()
            self._start()

    def take(self, step: Step) -> Step:
        """Apply a step; return what the agents' source has of it, when both enforce it unless it waits.

        At a restart the agents are killed, and started again after all changes. Raises KernelError, ClusterError.
        """
        if step.then == "restart":
            for agent in self._cluster.agents.values():
                agent.stop(kill=True)
        placed = self.objects.place(step)
        if step.then == "restart":
            self._start()
        elif step.then != "wait":
            self.settle()
        return placed

    def settle(self) -> None:
        """Wait until the running agents enforce their source's objects, know their Pods' interfaces, re-check nothing.

        Raises KernelError.
        """
        self.objects.await_enforced()
        self._cluster.wait_for_links()
        self._cluster.wait_for_recheck()

    def seen_from(self, flows: Iterable[Flow], deadline: float) -> dict[Flow, str | None]:
        """Send first packets; return the source address that each server saw, None where no packet arrived."""
        probes = {flow: self._probe(flow) for flow in flows}
        outcomes = run_probes(self._servers, probes.values(), deadline)
        return {flow: outcomes[probe].seen_from for flow, probe in probes.items()}

    def first(self, oracles: Oracles, flows: Iterable[Flow], patience: float) -> Iterator[Finding]:
        """Send first packets; yield the flows with another result than the evaluator's verdict, also when repeated.

        patience: seconds that an answer may take when repeated
        """
        expected = {flow: oracles.allowed(flow) for flow in flows}
        wrong = self._wrong(expected, _SECONDS)
        oracles.counts.probes += len(expected)
        if wrong:
            oracles.counts.again += len(wrong)
            self.settle()
            wrong = self._wrong({flow: expected[flow] for flow in wrong}, patience)
        yield from (_finding(oracles, Question(flow)) for flow in wrong)

    def established(self, oracles: Oracles, patience: float, *, lone: bool) -> Iterator[Finding]:
        """Probe the open connections; yield those that work although denied, or don't although allowed.

        patience: as for `first`
        lone:     there was one change since the last probe: an allowed connection was never denied in between
        """
        expected = {flow: oracles.allowed(flow) for flow in self._connections.flows}
        answered = self._connections.answered(expected, _SECONDS)
        oracles.counts.long_lived += len(expected)
        # Between two changes TCP may have been denied, and have ended rightly. UDP continues by itself.
        counts = [flow for flow, allowed in expected.items() if lone or not allowed or flow.protocol == "udp"]
        wrong = [flow for flow in counts if expected[flow] != (flow in answered)]
        if wrong:
            oracles.counts.again += len(wrong)
            self.settle()
            patient = self._connections.answered(wrong, patience)
            wrong = [flow for flow in wrong if expected[flow] != (flow in patient)]
            answered |= patient
        self._connections.drop(flow for flow in expected if flow.protocol == "tcp" and flow not in answered)
        yield from (_finding(oracles, Question(flow, "established")) for flow in wrong)

    def link_scope(self, oracles: Oracles, calls: Iterable[tuple[Flow, LinkDestination]]) -> Iterator[Finding]:
        """Send denied flows to addresses of their link; yield those that arrive, also when repeated."""
        denied = [(flow, to) for flow, to in calls if not _is_allowed_by_address(oracles, flow, to)]
        oracles.counts.link_scope += len(denied)
        wrong = self._link_scope.reached(denied, _SECONDS)
        if wrong:
            oracles.counts.again += len(wrong)
            self.settle()
            wrong = self._link_scope.reached(wrong, _SECONDS)
        yield from (_finding(oracles, Question(flow, to)) for flow, to in wrong)

    def arrived(self, calls: Iterable[tuple[Flow, LinkDestination]]) -> tuple[tuple[Flow, LinkDestination], ...]:
        """Send flows to addresses of the link, allowed or not; return those that arrive."""
        return tuple(self._link_scope.reached(calls, _SECONDS))

    def compared(self, oracles: Oracles) -> Iterator[Finding]:
        """Compare both agents' kernel tables with the desired rulesets; yield the differences."""
        for name, agent in self._cluster.agents.items():
            view = agent.ask("/v1/dump/diff")
            if not view["equal"]:
                verdicts = {"packets": "the kernel has other rules"}
                yield Finding(oracles.step, None, verdicts, f"node {name}: {'; '.join(view['differences'])}")

    def make(self, flows: Iterable[Flow]) -> None:
        """Open connections of a few of these flows, in place of the oldest."""
        open_flows = self._connections.flows
        fresh = [flow for flow in flows if flow.protocol in {"tcp", "udp"} and flow not in open_flows][:_FRESH]
        self._connections.drop(open_flows[: max(0, len(open_flows) + len(fresh) - _LIVING)])
        self._connections.make(fresh, _SECONDS)

    def _wrong(self, expected: Mapping[Flow, bool], deadline: float) -> list[Flow]:
        probes = {flow: self._probe(flow) for flow in expected}
        outcomes = run_probes(self._servers, probes.values(), deadline)
        return [flow for flow, allowed in expected.items() if outcomes[probes[flow]].reached != allowed]

    def _probe(self, flow: Flow) -> Probe:
        return Probe(self._namespace(AT[flow.source]), flow.destination, _PROTOCOLS[flow.protocol], flow.port or 0)

    def _start(self) -> None:
        for agent in self._cluster.agents.values():
            agent.start()
        self.settle()

    def _namespace(self, place: Place) -> str:
        if place.slot:
            return self._topology.pod_namespace(_SLOTS, place.name)
        return self._topology.node_namespace(place.node) if place.node else self._topology.outside_namespace(place.name)

    def _endpoints(self, *places: Place) -> Iterator[Endpoint]:
        for place in places:
            for address in place.addresses:
                for protocol, port in SENDABLE:
                    yield Endpoint(self._namespace(place), address, _PROTOCOLS[protocol], port or 0)


def _is_allowed_by_address(oracles: Oracles, flow: Flow, to: LinkDestination) -> bool:
    """Return whether a packet may arrive: for IPv4 broadcast and multicast, policies apply to that address."""
    called = destination_address(flow, to)
    if family_of(flow.source) == 6 or called == flow.destination:
        return oracles.allowed(flow)
    return oracles.is_allowed_by_address(flow, called)


def _finding(oracles: Oracles, question: Question) -> Finding:
    """Return the finding that packets differ from the evaluator's verdict."""
    flow = question.flow
    allowed = oracles.allowed(flow) if question.kind in {"first", "established"} else False
    rules = {"rules": verdict_text(oracles.passes(flow))} if question.kind == "first" else {}
    verdicts = {"evaluate": verdict_text(allowed), **rules, "packets": verdict_text(not allowed)}
    return Finding(oracles.step, question, verdicts, f"{AT[flow.source].name} to {AT[flow.destination].name}")


def fits(case: Case) -> bool:
    """Return whether a lab can run a case: its Nodes are those of the lab, and every Pod is where its addresses are."""
    nodes = {change.file for change in case.steps[0].changes if change.document and change.document["kind"] == "Node"}
    changes = [change for step in case.steps for change in step.changes]
    gone = {change.file for change in changes if change.document is None}
    documents = [change.document for change in changes if change.document is not None]
    return nodes == {f"node-{name}.yaml" for name in NODES} - gone and all(map(_is_in_place, documents))


def _is_in_place(document: Document) -> bool:
    spec, status = document.get("spec", {}), document.get("status", {})
    match document["kind"]:
        case "Node":
            name = document["metadata"]["name"]
            addresses = tuple(entry.get("address") for entry in status.get("addresses", ()))
            return addresses == NODE_ADDRESSES.get(name) and tuple(spec.get("podCIDRs", ())) == NODE_CIDRS[name]
        case "Pod":
            node, slot = spec.get("nodeName"), not spec.get("hostNetwork", False)
            places = [AT.get(entry.get("ip", "")) for entry in status.get("podIPs", ())]
            return all(place is not None and (place.node, place.slot) == (node, slot) for place in places)
    return True
