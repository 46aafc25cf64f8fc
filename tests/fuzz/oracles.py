"""The oracles without packets: the evaluator, and the rules of both nodes, interpreted; they get the same files.

Where real tables are given, the nodes' transactions change them too, as text and as bytes.

Each node has the same parts as its agent: the objects of the manifest index, the desired ruleset, a kernel to which
all transactions were applied, and the connections in conntrack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from nfagent.desired.state import DesiredState
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.egress.translation import translation
from nfagent.manifests.index import ManifestIndex
from nfagent.model.gvk import ObjectChange
from nfagent.model.netaddr import family_of
from nfagent.model.objects import ObjectRef
from nfagent.policy.evaluator import Flow, evaluate
from nfagent.state.cluster import ClusterState
from tests.fuzz.case import Finding, Question, Step, StepAction, verdict_text
from tests.fuzz.stats import Counts
from tests.fuzz.tables import KernelTables
from tests.properties.strategies import catch_up
from tests.support.fake_nftables import FakeNftables
from tests.support.nft_interpreter import HookName, HookPacket, later, opening, reply, run, seen_at
from tests.support.two_node_cluster import NODES, hops

Make: TypeAlias = Callable[[str], DesiredState]
"""Returns the empty state of the node with that name."""

Hops: TypeAlias = tuple[tuple[HookName, HookPacket], ...]
"""Hooks at which a node sees the packets of an established connection: the client's, then the server's."""


class Oracles:
    """All oracles without packets.

    watched:   connections that are opened as soon as they are allowed, and checked after every step
    step:      number of the last step, -1 before the first
    committed: whether the kernels have the desired rulesets: not while a step waits
    counts:    counts of the questions
    """

    def __init__(
        self,
        watched: Iterable[Flow] = (),
        make: Make = DesiredState,
        counts: Counts | None = None,
        tables: KernelTables | None = None,
    ) -> None:
        """Start with an empty folder."""
        self._folder = ManifestIndex()
        chosen = tuple(watched)
        self._twinned = tables.kernels() if tables is not None else {}
        self._nodes = {name: _Node(make(name), chosen, self._twinned.get(name) or FakeNftables()) for name in NODES}
        self.step = -1
        self.committed = True
        self.counts = counts or Counts()

    def take(self, step: Step) -> None:
        """Apply a step on both nodes."""
        self.step += 1
        for change in step.changes:
            for event in self._folder.update(change.file, change.text):
                for node in self._nodes.values():
                    node.apply(event)
        for node in self._nodes.values():
            node.run_action(step.then)
        self.committed = step.then != "wait"

    def allowed(self, flow: Flow) -> bool:
        """Return the evaluator's verdict."""
        view = self._nodes[NODES[0]].view
        return evaluate(view.cluster, view.index.policies.values(), flow, view.policy_options).allowed

    def source_seen(self, flow: Flow) -> str | None:
        """Return the source address that the destination sees: the Pod's, or its node's where it is translated.

        None where no Pod has the source. Holds without gateways.
        """
        cluster, egress = self._nodes[NODES[0]].view.cluster, self._nodes[NODES[0]].view.egress
        pod = cluster.holder(flow.source)
        if pod is None:
            return None
        if translation(pod, flow.destination, cluster, egress, MasqueradeSettings()).kind != "node":
            return flow.source
        addresses = cluster.nodes[pod.node].addresses
        return next(address for address in addresses if family_of(address) == family_of(flow.source))

    def is_allowed_by_address(self, flow: Flow, called: str) -> bool:
        """Return the evaluator's verdict on a flow that is sent to an address of the link with several receivers.

        The client's egress applies to that address, the server's ingress to the client.
        """
        view = self._nodes[NODES[0]].view
        judged = evaluate(view.cluster, view.index.policies.values(), flow, view.policy_options)
        calling = Flow(flow.source, called, flow.protocol, flow.port)
        egress = evaluate(view.cluster, view.index.policies.values(), calling, view.policy_options)
        return egress.allowed and (judged.ingress is None or judged.ingress.allowed)

    def passes(self, flow: Flow) -> bool:
        """Return whether the rules accept a flow's first packet."""
        return not self._dropping(flow)

    def first(self, flows: Iterable[Flow]) -> Iterator[Finding]:
        """Check first packets; yield those on which the oracles differ, or on which one of them fails."""
        for flow in flows:
            self.counts.first += 1
            try:
                allowed, dropping = self.allowed(flow), self._dropping(flow)
            except Exception as error:  # noqa: BLE001 - any exception of an oracle is a finding
                yield Finding(self.step, Question(flow), {"rules": type(error).__name__}, str(error))
                continue
            if allowed == bool(dropping):
                verdicts = {"evaluate": verdict_text(allowed), "rules": verdict_text(not dropping)}
                yield Finding(self.step, Question(flow), verdicts, dropping)

    def established(self) -> Iterator[Finding]:
        """Check the established connections; yield differences, and open those that are allowed."""
        for name, node in self._nodes.items():
            for flow, allowed, hook in node.check_established():
                verdicts = {"evaluate": verdict_text(allowed), "rules": verdict_text(not allowed)}
                yield Finding(self.step, Question(flow, "established"), verdicts, f"{hook} of node {name}")
            self.counts.established += len(node.live)

    def restarted(self) -> Iterator[Finding]:
        """Compare each kernel with a fresh start, after which no address is under re-check."""
        for name, node in self._nodes.items():
            if not node.equals_fresh_start():
                yield Finding(self.step, None, {"rules": "not those of a fresh start"}, f"node {name}")

    def tables(self) -> Iterator[Finding]:
        """Compare the tables that text and bytes have made; yield differences."""
        for name, kernel in self._twinned.items():
            self.counts.tables += 1
            if difference := kernel.difference():
                yield Finding(self.step, None, {"text": "a table", "bytes": "another"}, f"node {name}: {difference}")

    def _dropping(self, flow: Flow) -> str:
        """Return the hook that drops a flow's first packet; '' where none does."""
        packet = opening(flow)
        for name, hook in hops(flow, self._nodes[NODES[0]].view.cluster):
            if not run(self._nodes[name].kernel.ruleset, hook, seen_at(hook, packet)).accepted:
                return f"{hook} of node {name}"
        return ""


class _Node:
    """One node: its desired state, kernel, connections in conntrack, and the addresses that were checked."""

    def __init__(self, view: DesiredState, watched: tuple[Flow, ...], kernel: FakeNftables) -> None:
        self.view = view
        self.kernel = kernel
        self.live: dict[Flow, Hops] = {}
        self._watched = watched
        self._checked: dict[str, int] = {}
        catch_up(self.view, self.kernel)

    def apply(self, event: ObjectChange) -> None:
        if isinstance(event, ObjectRef):
            self.view.remove(event)
        else:
            self.view.put(event)

    def run_action(self, action: StepAction) -> None:
        if action == "restart":
            self.view, self._checked = self.view.rebuilt(), {}
            catch_up(self.view, self.kernel)
        elif action != "wait":
            self.kernel.apply(self.view.drain_changes())
        if action in {"revoke", "clear"}:
            self._revoke()
        if action in {"clear", "clear late"}:
            self.view.clear_recheck(self._checked)
            self._checked = {}
            self.kernel.apply(self.view.drain_changes())

    def check_established(self) -> Iterator[tuple[Flow, bool, HookName]]:
        """Compare packets of the established connections with the current verdict; yield flow, verdict and hook."""
        for flow in self._watched:
            hops_of, allowed = _hops(flow, self.view.cluster), self.view.is_allowed(flow)
            if self.live.get(flow) != hops_of:  # its ends have moved: the node's entry belongs to no connection
                self.live.pop(flow, None)
            for hook, packet in hops_of:
                passes = run(self.kernel.ruleset, hook, packet).accepted
                if passes != allowed and (allowed or flow in self.live):
                    yield flow, allowed, hook
                    break
            if hops_of and allowed:
                self.live[flow] = hops_of

    def equals_fresh_start(self) -> bool:
        self.kernel.apply(self.view.drain_changes())
        self.view.clear_recheck(self.view.recheck_addresses)
        self.kernel.apply(self.view.drain_changes())
        return self.kernel.ruleset == self.view.rebuilt().ruleset()

    def _revoke(self) -> None:
        """Remove the denied connections of addresses under re-check, as the agent does by ctnetlink."""
        self._checked = self.view.recheck_addresses
        for flow in [flow for flow in self.live if {flow.source, flow.destination} & self._checked.keys()]:
            if not self.view.is_allowed(flow):
                del self.live[flow]


def _hops(flow: Flow, cluster: ClusterState) -> Hops:
    """Return where a node filters an established connection; () for one that its own processes opened."""
    there = dict(hops(flow, cluster)).get(cluster.node)
    if there is None or there == "output":
        return ()
    back = dict(hops(Flow(flow.destination, flow.source, flow.protocol, flow.port), cluster)).get(cluster.node)
    answers: Hops = ((back, seen_at(back, reply(flow))),) if back is not None else ()
    return ((there, later(flow)), *answers)
