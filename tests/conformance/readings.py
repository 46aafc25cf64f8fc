"""The verdicts of a case without packets: by `evaluate`, and by both nodes' rulesets, interpreted."""

from __future__ import annotations

from nfagent.decode.registry import DECODERS
from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.nftables.objects import Ruleset
from nfagent.policy.evaluator import Flow, evaluate
from tests.conformance.results import NO_PACKET, Result, ResultBuilder
from tests.conformance.suites import Case, Document, Suite, flows, places, states
from tests.support.nft_interpreter import HookName, opening, run, seen_at
from tests.support.two_node_cluster import hops


def decode(document: Document) -> Item:
    item = DECODERS[document["apiVersion"], document["kind"]](document)
    assert item is not None, f"an object that nfagent doesn't read: {document}"
    return item


class _Cluster:
    """The state of each node's agent, updated by the steps like by its watches."""

    def __init__(self, suite: Suite) -> None:
        self._views = {node.name: DesiredState(node.name) for node in suite.nodes}
        self._any = self._views[suite.nodes[0].name]
        self._hops: dict[tuple[str, str], list[tuple[str, HookName]]] = {}
        self._rulesets: dict[str, Ruleset] = {}
        for document in suite.base.values():
            self.put(document)

    def put(self, document: Document) -> None:
        item = decode(document)
        self._changed()
        for view in self._views.values():
            view.put(item)

    def remove(self, ref: ObjectRef) -> None:
        self._changed()
        for view in self._views.values():
            assert view.remove(ref), f"{ref} was there to be removed"

    def _changed(self) -> None:
        self._hops.clear()
        self._rulesets.clear()

    def evaluated(self, flow: Flow) -> str:
        allowed = evaluate(self._any.cluster, self._any.index.policies.values(), flow).allowed
        return "allowed" if allowed else "denied"

    def accepted(self, flow: Flow) -> str:
        """Return the verdict on the first packet, by the rules of every node on its path."""
        packet, ends = opening(flow), (flow.source, flow.destination)
        if ends not in self._hops:
            self._hops[ends] = list(hops(flow, self._any.cluster))
        for node, hook in self._hops[ends]:
            if node not in self._rulesets:
                self._rulesets[node] = self._views[node].ruleset()
            if not run(self._rulesets[node], hook, seen_at(hook, packet)).accepted:
                return "denied"
        return "allowed"


def judge(suite: Suite, case: Case) -> tuple[Result, Result]:
    """Return the results of a case by `evaluate` and by the rules."""
    cluster = _Cluster(suite)
    by_evaluate, by_rules = ResultBuilder(case, "evaluate"), ResultBuilder(case, "rules")
    for step, state in states(suite, case):
        for document in step.apply:
            cluster.put(document)
        for ref in step.delete:
            cluster.remove(ref)
        for probe, flow in flows(case, step, places(suite, state)):
            by_evaluate.judged(step.number, probe, flow, cluster.evaluated(flow))
            if probe.itself:
                by_rules.put_aside(NO_PACKET)
            else:
                by_rules.judged(step.number, probe, flow, cluster.accepted(flow))
    return by_evaluate.result(), by_rules.result()
