"""Two judges without packets: `evaluate`, and the rules of both nodes, interpreted; fed the same files, step by step.

Each node has what its agent has: the objects as the folder's bookkeeping gives them, the ruleset that is wanted, a
kernel that its transactions have led there, and the connections that conntrack knows there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from nfagent.desired.state import DesiredState
from nfagent.manifests.index import ManifestEvent, ManifestIndex
from nfagent.model.objects import ObjectRef
from nfagent.policy.evaluator import Flow, evaluate
from nfagent.state.cluster import ClusterState
from tests.fuzz.case import Fate, Finding, Question, Step, in_words
from tests.fuzz.stats import Tally
from tests.properties.strategies import catch_up
from tests.support.fake_nftables import FakeKernel
from tests.support.nft_interpreter import HookName, Seen, later, opening, reply, run, seen_at
from tests.support.two_node_cluster import NODES, hops

Make: TypeAlias = Callable[[str], DesiredState]
"""Makes a node's state, empty, for the node of that name."""

Ways: TypeAlias = tuple[tuple[HookName, Seen], ...]
"""Where a node sees the packets of a living connection: the client's, then the server's."""


class Readings:
    """Both judges.

    watched: connections that are made as soon as they are allowed, and looked at after every step
    step:    the number of the step that was taken last, -1 before the first
    told:    whether the kernels hold what is wanted: not while a step waits
    tally:   where questions are counted
    """

    def __init__(self, watched: Iterable[Flow] = (), make: Make = DesiredState, tally: Tally | None = None) -> None:
        """Start with an empty folder."""
        self._folder = ManifestIndex()
        chosen = tuple(watched)
        self._nodes = {name: _Node(make(name), chosen) for name in NODES}
        self.step = -1
        self.told = True
        self.tally = tally or Tally()

    def take(self, step: Step) -> None:
        """Have a step happen on both nodes."""
        self.step += 1
        for change in step.changes:
            for event in self._folder.update(change.file, change.text):
                for node in self._nodes.values():
                    node.happen(event)
        for node in self._nodes.values():
            node.follow(step.then)
        self.told = step.then != "wait"

    def allowed(self, flow: Flow) -> bool:
        """Ask `evaluate`."""
        view = self._nodes[NODES[0]].view
        return evaluate(view.cluster, view.index.policies.values(), flow, view.choices).allowed

    def told_otherwise(self, flow: Flow, called: str) -> bool:
        """Ask `evaluate` about a flow that calls its destination by another address, which is everybody's on the link.

        The client may have to call that address; the server has to be allowed to hear of this client.
        """
        view = self._nodes[NODES[0]].view
        judged = evaluate(view.cluster, view.index.policies.values(), flow, view.choices)
        calling = Flow(flow.source, called, flow.protocol, flow.port)
        egress = evaluate(view.cluster, view.index.policies.values(), calling, view.choices)
        return egress.allowed and (judged.ingress is None or judged.ingress.allowed)

    def passes(self, flow: Flow) -> bool:
        """Ask the rules about a flow's first packet."""
        return not self._dropping(flow)

    def first(self, flows: Iterable[Flow]) -> Iterator[Finding]:
        """Ask both about first packets; give those on which they differ, or on which one of them fails."""
        for flow in flows:
            self.tally.first += 1
            try:
                allowed, dropping = self.allowed(flow), self._dropping(flow)
            except Exception as error:  # noqa: BLE001 - whatever a judge ends with is what the fuzzer looks for
                yield Finding(self.step, Question(flow), {"rules": type(error).__name__}, str(error))
                continue
            if allowed == bool(dropping):
                verdicts = {"evaluate": in_words(allowed), "rules": in_words(not dropping)}
                yield Finding(self.step, Question(flow), verdicts, dropping)

    def established(self) -> Iterator[Finding]:
        """Ask both about the living connections; give those on which they differ, and make those that can be made."""
        for name, node in self._nodes.items():
            for flow, permitted, hook in node.look():
                verdicts = {"evaluate": in_words(permitted), "rules": in_words(not permitted)}
                yield Finding(self.step, Question(flow, "established"), verdicts, f"{hook} of node {name}")
            self.tally.established += len(node.live)

    def restarted(self) -> Iterator[Finding]:
        """Hold what each kernel has come to against what a fresh start would give; nobody is under re-check after."""
        for name, node in self._nodes.items():
            if not node.is_as_fresh():
                yield Finding(self.step, None, {"rules": "not those of a fresh start"}, f"node {name}")

    def _dropping(self, flow: Flow) -> str:
        """Name the hook that drops a flow's first packet; '' where none does."""
        packet = opening(flow)
        for name, hook in hops(flow, self._nodes[NODES[0]].view.cluster):
            if not run(self._nodes[name].kernel.ruleset, hook, seen_at(hook, packet)).accepted:
                return f"{hook} of node {name}"
        return ""


class _Node:
    """One node: what is wanted, what the kernel holds, the connections that conntrack knows, and who was judged."""

    def __init__(self, view: DesiredState, watched: tuple[Flow, ...]) -> None:
        self.view = view
        self.kernel = FakeKernel()
        self.live: dict[Flow, Ways] = {}
        self._watched = watched
        self._judged: dict[str, int] = {}
        catch_up(self.view, self.kernel)

    def happen(self, event: ManifestEvent) -> None:
        if isinstance(event, ObjectRef):
            self.view.remove(event)
        else:
            self.view.put(event)

    def follow(self, fate: Fate) -> None:
        if fate == "restart":
            self.view, self._judged = self.view.rebuilt(), {}
            catch_up(self.view, self.kernel)
        elif fate != "wait":
            self.kernel.apply(self.view.take())
        if fate in {"judge", "absolve"}:
            self._judge()
        if fate in {"absolve", "absolve late"}:
            self.view.absolve(self._judged)
            self._judged = {}
            self.kernel.apply(self.view.take())

    def look(self) -> Iterator[tuple[Flow, bool, HookName]]:
        """Hold every packet of the living connections against the verdict of now; give flow, verdict and hook."""
        for flow in self._watched:
            ways, permitted = _ways(flow, self.view.cluster), self.view.permits(flow)
            if self.live.get(flow) != ways:  # its ends have moved: what is known of it here is of no connection
                self.live.pop(flow, None)
            for hook, packet in ways:
                passes = run(self.kernel.ruleset, hook, packet).accepted
                if passes != permitted and (permitted or flow in self.live):
                    yield flow, permitted, hook
                    break
            if ways and permitted:
                self.live[flow] = ways

    def is_as_fresh(self) -> bool:
        self.kernel.apply(self.view.take())
        self.view.absolve(self.view.suspects)
        self.kernel.apply(self.view.take())
        return self.kernel.ruleset == self.view.rebuilt().ruleset()

    def _judge(self) -> None:
        """Forget the denied connections of those under re-check, as the agent does by ctnetlink."""
        self._judged = self.view.suspects
        for flow in [flow for flow in self.live if {flow.source, flow.destination} & self._judged.keys()]:
            if not self.view.permits(flow):
                del self.live[flow]


def _ways(flow: Flow, cluster: ClusterState) -> Ways:
    """Give what a node judges of a living connection; nothing of those that its own processes opened."""
    there = dict(hops(flow, cluster)).get(cluster.node)
    if there is None or there == "output":
        return ()
    back = dict(hops(Flow(flow.destination, flow.source, flow.protocol, flow.port), cluster)).get(cluster.node)
    answers: Ways = ((back, seen_at(back, reply(flow))),) if back is not None else ()
    return ((there, later(flow)), *answers)
