"""The third judge: a lab that lives through many cases, with an agent on both nodes that follow one folder.

Every slot is a network namespace that is there for good, with servers: a Pod that comes or goes is a document.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from nfagent.errors import NfagentError
from nfagent.lab import netns
from nfagent.lab.agents import LabCluster
from nfagent.lab.listeners import Endpoint, Listeners, Protocol
from nfagent.lab.probe import Probe, run_probes
from nfagent.lab.topology import NetnsTopology
from nfagent.lab.topology_plan import Attachment, NodePlan, OutsideHost, PodPlan
from nfagent.model.netaddr import family_of
from nfagent.policy.evaluator import Flow
from tests.fuzz.case import Case, Document, Finding, Question, Step, Way, in_words
from tests.fuzz.link_scope import LinkScope, called_by
from tests.fuzz.long_lived import Standing
from tests.fuzz.oracles import Readings
from tests.fuzz.topology import AT, GATEWAYS, PLACES, SENDABLE, Place
from tests.properties.objects import NODE_CIDRS
from tests.support.two_node_cluster import NODE_ADDRESSES, NODES, OUTSIDE

TAG = "fuzz"
_SLOTS = "slots"
_SECONDS = 0.25
_STANDING = 24
_FRESH = 8
_PROTOCOLS: dict[str, Protocol] = {"tcp": "tcp", "udp": "udp", "sctp": "sctp", "icmp": "icmp", "icmpv6": "icmp"}
# Thousands of probes: what they leave in conntrack goes before their source ports come round again.
_FORGETFUL = {
    "netfilter/nf_conntrack_udp_timeout": "5",
    "netfilter/nf_conntrack_udp_timeout_stream": "60",
    "netfilter/nf_conntrack_tcp_timeout_close": "1",
}


class PacketLab:
    """The lab; a context manager that has it running inside."""

    def __init__(self, scratch: Path, attachment: Attachment = "routed") -> None:
        """Plan it; `scratch` is an empty folder, for manifests and agents."""
        self._manifests = scratch / "manifests"
        self._fabric = NetnsTopology(
            [
                NodePlan(name, NODE_ADDRESSES[name], NODE_CIDRS[name], attachment, gateways=GATEWAYS[name])
                for name in NODES
            ],
            [PodPlan(_SLOTS, place.name, place.node, place.addresses) for place in PLACES if place.slot],
            [OutsideHost("outside", OUTSIDE)],
            TAG,
        )
        self._servers = Listeners()
        self._cluster = LabCluster(self._fabric, self._manifests, scratch / "agents")
        for agent in self._cluster.agents.values():
            # A case begins with an empty folder, in which no Node has the agent's name.
            agent.environment["NFAGENT_ALLOW_UNKNOWN_NODE"] = "true"
        self._lines = Standing(lambda address: self._namespace(AT[address]))
        self._link_scope = LinkScope(self._namespace, attachment)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Build it, and return when both agents enforce an empty folder. Raises MachineError, KernelError."""
        netns.sweep(TAG)
        self._manifests.mkdir()
        with contextlib.ExitStack() as unless_all_run:
            unless_all_run.enter_context(self._fabric)
            unless_all_run.enter_context(self._servers)
            self._servers.listen(self._endpoints())
            unless_all_run.callback(self._link_scope.close)
            self._link_scope.open()
            for name in NODES:
                netns.write_sysctls(self._fabric.node_namespace(name), _FORGETFUL)
            unless_all_run.enter_context(self._cluster)
            unless_all_run.callback(self._lines.close)
            self._stack = unless_all_run.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it away."""
        self._stack.close()

    def clear(self) -> None:
        """Empty the folder. Agents that don't follow any more begin anew."""
        self._lines.close()
        for path in list(self._manifests.iterdir()):
            path.unlink()
        try:
            self._settle()
        except NfagentError:
            self._cluster.stop()
            self._start()

    def take(self, step: Step) -> None:
        """Have a step happen, and return when both agents enforce what it left, unless it waits. Raises KernelError.

        At a restart the agents are killed, and begin anew when all has happened.
        """
        if step.then == "restart":
            for agent in self._cluster.agents.values():
                agent.stop(kill=True)
        for change in step.changes:
            text = change.text
            if text is None:
                (self._manifests / change.file).unlink(missing_ok=True)
            else:
                self._cluster.place(change.file, text)
        if step.then == "restart":
            self._start()
        elif step.then != "wait":
            self._settle()

    def first(self, readings: Readings, flows: Iterable[Flow], patience: float) -> Iterator[Finding]:
        """Send first packets, and give the flows that end otherwise than `evaluate` says, also when asked again.

        patience: how many seconds an answer may take then
        """
        expected = {flow: readings.allowed(flow) for flow in flows}
        wrong = self._wrong(expected, _SECONDS)
        readings.tally.probes += len(expected)
        if wrong:
            readings.tally.again += len(wrong)
            self._settle()
            wrong = self._wrong({flow: expected[flow] for flow in wrong}, patience)
        yield from (_otherwise(readings, Question(flow)) for flow in wrong)

    def established(self, readings: Readings, patience: float, *, lone: bool) -> Iterator[Finding]:
        """Ask the living connections; give those that go on although they are denied, or don't though they may.

        patience: as of `first`
        lone:     one change has happened since they were asked last: who is allowed now was never anything else
        """
        expected = {flow: readings.allowed(flow) for flow in self._lines.flows}
        answered = self._lines.answered(expected, _SECONDS)
        readings.tally.standing += len(expected)
        # Between two changes TCP may have been denied, and so have ended for good reason. UDP begins anew by itself.
        counts = [flow for flow, allowed in expected.items() if lone or not allowed or flow.protocol == "udp"]
        wrong = [flow for flow in counts if expected[flow] != (flow in answered)]
        if wrong:
            readings.tally.again += len(wrong)
            self._settle()
            patient = self._lines.answered(wrong, patience)
            wrong = [flow for flow in wrong if expected[flow] != (flow in patient)]
            answered |= patient
        self._lines.drop(flow for flow in expected if flow.protocol == "tcp" and flow not in answered)
        yield from (_otherwise(readings, Question(flow, "established")) for flow in wrong)

    def link_scope(self, readings: Readings, asked: Iterable[tuple[Flow, Way]]) -> Iterator[Finding]:
        """Call those who are denied by addresses of their link; give the calls that arrive, also when asked again."""
        denied = [(flow, way) for flow, way in asked if not _may_be_called(readings, flow, way)]
        readings.tally.link_scope += len(denied)
        wrong = self._link_scope.reached(denied, _SECONDS)
        if wrong:
            readings.tally.again += len(wrong)
            self._settle()
            wrong = self._link_scope.reached(wrong, _SECONDS)
        yield from (_otherwise(readings, Question(flow, way)) for flow, way in wrong)

    def arrived(self, calls: Iterable[tuple[Flow, Way]]) -> tuple[tuple[Flow, Way], ...]:
        """Make calls by addresses of the link alone, whatever policies say; give those that arrive."""
        return tuple(self._link_scope.reached(calls, _SECONDS))

    def compared(self, readings: Readings) -> Iterator[Finding]:
        """Have both agents compare their kernel's table with what it must hold; give those where it isn't so."""
        for name, agent in self._cluster.agents.items():
            view = agent.ask("/v1/dump/diff")
            if not view["equal"]:
                verdicts = {"packets": "the kernel holds other rules"}
                yield Finding(readings.step, None, verdicts, f"node {name}: {'; '.join(view['differences'])}")

    def make(self, flows: Iterable[Flow]) -> None:
        """Have a few of these flows live on, in the place of the oldest that do."""
        living = self._lines.flows
        fresh = [flow for flow in flows if flow.protocol in {"tcp", "udp"} and flow not in living][:_FRESH]
        self._lines.drop(living[: max(0, len(living) + len(fresh) - _STANDING)])
        self._lines.make(fresh, _SECONDS)

    def _wrong(self, expected: Mapping[Flow, bool], deadline: float) -> list[Flow]:
        probes = {flow: self._probe(flow) for flow in expected}
        outcomes = run_probes(self._servers, probes.values(), deadline)
        return [flow for flow, allowed in expected.items() if outcomes[probes[flow]].reached != allowed]

    def _probe(self, flow: Flow) -> Probe:
        return Probe(self._namespace(AT[flow.source]), flow.destination, _PROTOCOLS[flow.protocol], flow.port or 0)

    def _start(self) -> None:
        for agent in self._cluster.agents.values():
            agent.start()
        self._settle()

    def _settle(self) -> None:
        self._cluster.settle()
        self._cluster.calm()

    def _namespace(self, place: Place) -> str:
        if place.slot:
            return self._fabric.pod_namespace(_SLOTS, place.name)
        return self._fabric.node_namespace(place.node) if place.node else self._fabric.outside_namespace(place.name)

    def _endpoints(self) -> Iterator[Endpoint]:
        for place in PLACES:
            for address in place.addresses:
                for protocol, port in SENDABLE:
                    yield Endpoint(self._namespace(place), address, _PROTOCOLS[protocol], port or 0)


def _may_be_called(readings: Readings, flow: Flow, way: Way) -> bool:
    """Tell whether a call may arrive: by IPv4's broadcast and groups, policies know the address that is called."""
    called = called_by(flow, way)
    if family_of(flow.source) == 6 or called == flow.destination:
        return readings.allowed(flow)
    return readings.told_otherwise(flow, called)


def _otherwise(readings: Readings, question: Question) -> Finding:
    """Give what packets have shown to be otherwise than `evaluate` says."""
    flow = question.flow
    allowed = readings.allowed(flow) if question.kind in {"first", "established"} else False
    rules = {"rules": in_words(readings.passes(flow))} if question.kind == "first" else {}
    verdicts = {"evaluate": in_words(allowed), **rules, "packets": in_words(not allowed)}
    return Finding(readings.step, question, verdicts, f"{AT[flow.source].name} to {AT[flow.destination].name}")


def fits(case: Case) -> bool:
    """Tell whether a lab can show a case: its Nodes are those of the lab, and every Pod is where its addresses are."""
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
