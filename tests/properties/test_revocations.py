"""Live connections, whatever happens to the policies: those that are revoked have ended, the others lose no packet."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from hypothesis import event, given, settings
from hypothesis import strategies as st

from nfagent.cluster.model import Pod, Ref
from nfagent.cluster.state import ClusterState
from nfagent.policy.evaluate import Flow
from nfagent.ruleset.desired import Desired, Item
from tests.fake_kernel import FakeKernel
from tests.interpreter import HookName, Seen, later, reply, run
from tests.properties import sharp
from tests.properties.strategies import PROTOCOLS, catch_up, flows, histories
from tests.scene import hops

_WATCHED = 60
Ways = tuple[tuple[HookName, Seen], ...]
"""Where node `a` sees a connection's packets: those of the client, those of the server."""


def ways(flow: Flow, cluster: ClusterState) -> Ways:
    """Give what node `a` judges of a connection; nothing of those that its own processes opened."""
    there = dict(hops(flow, cluster)).get("a")
    if there is None or there == "output":
        return ()
    back = dict(hops(Flow(flow.destination, flow.source, flow.protocol, flow.port), cluster)).get("a")
    if back is None or back == "output":
        return ((there, later(flow)),)
    return ((there, later(flow)), (back, reply(flow)))


class Node:
    """Node `a`: what is wanted, what the kernel holds, and the connections that conntrack knows there."""

    def __init__(self, watched: list[Flow]) -> None:
        self.view = Desired("a")
        self.kernel = FakeKernel()
        self.watched = watched
        self.live: dict[Flow, Ways] = {}
        self.judged: dict[str, int] = {}
        catch_up(self.view, self.kernel)

    def happen(self, item: Item | Ref) -> None:
        if isinstance(item, Ref):
            self.view.remove(item)
        else:
            self.view.put(item)

    def commit(self) -> None:
        """Tell the kernel what happened; look at every connection right afterwards."""
        self.kernel.apply(self.view.take())
        self.look()

    def restart(self) -> None:
        """Start anew, on a kernel that holds what the agent before left: what happened meanwhile is unknown."""
        self.view, self.judged = self.view.rebuilt(), {}
        catch_up(self.view, self.kernel)
        self.look()

    def judge(self) -> None:
        """Delete the conntrack entries of suspects' connections that are denied."""
        self.judged = self.view.suspects
        for flow in self.of_suspects(self.judged):
            if not self.view.permits(flow):
                del self.live[flow]

    def absolve(self) -> None:
        """Take those out who were judged, whatever happened since; all of it again is one transaction."""
        self.view.absolve(self.judged)
        self.judged = {}
        self.commit()

    def of_suspects(self, suspects: dict[str, int]) -> list[Flow]:
        return [flow for flow in self.live if {flow.source, flow.destination} & suspects.keys()]

    def look(self) -> None:
        """Hold every packet against the verdict of now, and have every connection made that can be."""
        for flow in self.watched:
            seen, permitted = ways(flow, self.view.cluster), self.view.permits(flow)
            if self.live.get(flow) != seen:  # its ends have moved: what is known of it here is of no connection
                self.live.pop(flow, None)
            for hook, packet in seen:
                passes = run(self.kernel.ruleset, hook, packet).accepted
                assert passes or not permitted, f"lost a packet of {flow} at {hook}"
                assert permitted or not passes or flow not in self.live, f"{flow} goes on at {hook}"
            if flow in self.live and not permitted:
                event("a connection is revoked")
            if permitted and seen:
                self.live[flow] = seen


def watched(history: list[Item | Ref], protocol: tuple[str, int | None], random: Random) -> list[Flow]:
    """Choose connections with an end that a Pod of node `a` has at some time."""
    pods = [item for item in history if isinstance(item, Pod)]
    here = {address for pod in pods if pod.node == "a" for address in pod.addresses}
    every = flows({address for pod in pods for address in pod.addresses}, *protocol)
    found = [flow for flow in every if {flow.source, flow.destination} & here]
    return random.sample(found, min(_WATCHED, len(found)))


# Mostly everybody is absolved before the next event: who is still under re-check would hide whom it forgets.
FATES = ["commit", "wait", "judge", "absolve late", "restart", *["absolve"] * 8]


def live_through(history: list[Item | Ref], node: Node, random: Random) -> None:
    """Have a history happen, with commits, judgements and restarts wherever they come."""
    for item in history:
        node.happen(item)
        match random.choice(FATES):
            case "commit":
                node.commit()
            case "judge":
                node.commit()
                node.judge()
            case "absolve":
                node.commit()
                node.judge()
                node.absolve()
            case "absolve late":
                node.commit()
                node.absolve()
            case "restart":
                node.restart()
    node.absolve()


@settings(max_examples=2 * settings().max_examples)
@given(sharp.histories(), st.randoms(use_true_random=False))
def test_a_revoked_connection_has_ended_with_the_commit_and_an_allowed_one_loses_no_packet(
    history: list[Item | Ref], random: Random
) -> None:
    live_through(history, Node(watched(history, (sharp.PROTOCOL, sharp.PORT), random)), random)


@given(histories(), PROTOCOLS, st.randoms(use_true_random=False))
def test_so_it_is_whatever_the_policies_and_their_flaws(
    history: list[Item | Ref], protocol: tuple[str, int | None], random: Random
) -> None:
    live_through(history, Node(watched(history, protocol, random)), random)


def all_packets(node: Node) -> Iterator[tuple[HookName, Seen]]:
    for flow in node.watched:
        yield from ways(flow, node.view.cluster)


@given(sharp.histories(), st.randoms(use_true_random=False))
def test_once_judged_every_live_connection_takes_the_short_way_out_uncounted(
    history: list[Item | Ref], random: Random
) -> None:
    node = Node(watched(history, (sharp.PROTOCOL, sharp.PORT), random))
    for item in history:
        node.happen(item)
        if random.randrange(2):
            node.commit()
    node.commit()
    node.judge()
    node.absolve()
    assert node.view.suspects == {}
    for hook, packet in all_packets(node):
        result = run(node.kernel.ruleset, hook, packet)
        assert (result.verdict, result.counters, result.logs) == ("accept", (), ())


@given(sharp.histories(), st.randoms(use_true_random=False))
def test_a_live_connection_of_nobody_under_re_check_takes_the_short_way_out(
    history: list[Item | Ref], random: Random
) -> None:
    node = Node(watched(history, (sharp.PROTOCOL, sharp.PORT), random))
    for item in history:
        node.happen(item)
        if random.randrange(3):
            node.commit()
    node.commit()
    for flow in node.watched:
        if not {flow.source, flow.destination} & node.view.suspects.keys():
            for hook, packet in ways(flow, node.view.cluster):
                assert run(node.kernel.ruleset, hook, packet).counters == ()
