"""Established connections while policies change: revoked ones end with the commit, others lose no packet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

import msgspec
from hypothesis import event, given, settings

from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.netaddr import FAMILIES, Family, family_of
from nfagent.model.objects import ObjectRef, Pod
from nfagent.nftables.base_chains import REVOKED_COUNTER
from nfagent.nftables.objects import Element, Ruleset
from nfagent.policy.evaluator import Flow
from nfagent.state.cluster import ClusterState
from tests.properties import verdict_flips
from tests.properties.strategies import PROTOCOLS, RANDOM, catch_up, flows, histories
from tests.support.fake_nftables import FakeNftables
from tests.support.nft_interpreter import HookName, HookPacket, later, opening, reply, run, seen_at
from tests.support.two_node_cluster import hops

_WATCHED = 40
CLIENT_PORT = 40_000
Ways = tuple[tuple[HookName, HookPacket], ...]
"""Where node `a` sees a connection's packets: those of the client, those of the server."""
History = tuple[list[Item], list[Item | ObjectRef]]
"""The objects at the start, and the events."""


def ways(flow: Flow, cluster: ClusterState) -> Ways:
    """Return the flows of a connection that node `a` evaluates; none of those that its own processes opened."""
    there = dict(hops(flow, cluster)).get("a")
    if there is None or there == "output":
        return ()
    back = dict(hops(Flow(flow.destination, flow.source, flow.protocol, flow.port), cluster)).get("a")
    if back is None or back == "output":
        return ((there, later(flow)),)
    return ((there, later(flow)), (back, reply(flow)))


class Node:
    """Node `a`: the desired ruleset, the kernel's table, and the conntrack entries."""

    def __init__(self, first: Iterable[Item], watched: list[Flow]) -> None:
        self.view = DesiredState("a")
        self.kernel = FakeNftables()
        self.watched = watched
        self.live: dict[Flow, Ways] = {}
        self.judged: dict[str, int] = {}
        for item in first:
            self.view.put(item)
        catch_up(self.view, self.kernel)
        self.judge()
        self.clear_recheck()

    def happen(self, item: Item | ObjectRef) -> None:
        if isinstance(item, ObjectRef):
            self.view.remove(item)
        else:
            self.view.put(item)

    def commit(self) -> None:
        """Commit the changes, and check every connection right afterwards."""
        self.kernel.apply(self.view.drain_changes())
        self.look()

    def restart(self) -> None:
        """Restart with the table that the previous agent left: the events in between are unknown."""
        self.view, self.judged = self.view.rebuilt(), {}
        catch_up(self.view, self.kernel)
        self.look()

    def judge(self) -> None:
        """Delete the conntrack entries of denied connections of addresses to re-check."""
        self.judged = self.view.recheck_addresses
        for flow in [flow for flow in self.live if {flow.source, flow.destination} & self.judged.keys()]:
            if not self.view.is_allowed(flow):
                del self.live[flow]

    def clear_recheck(self) -> None:
        """Clear the addresses that were re-checked, with all that changed since."""
        if self.judged:
            self.view.clear_recheck(self.judged)
            self.judged = {}
            self.commit()

    def look(self) -> None:
        """Compare the result of every packet with the present verdict, and open every allowed connection."""
        for flow in self.watched:
            seen, permitted = ways(flow, self.view.cluster), self.view.is_allowed(flow)
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

    def packets(self) -> Iterator[tuple[Flow, HookName, HookPacket]]:
        """Return the flows of every watched connection that this node sees, established or not."""
        for flow in self.watched:
            yield from ((flow, hook, packet) for hook, packet in ways(flow, self.view.cluster))


def watched(history: History, protocol: tuple[str, int | None], random: Random) -> list[Flow]:
    """Choose connections with an end that a Pod of node `a` has at some time; of one family, to see more of them."""
    pods = [item for part in history for item in part if isinstance(item, Pod)]
    here = {address for pod in pods if pod.node == "a" for address in pod.addresses}
    family: Family = random.choice(FAMILIES)
    every = flows({address for pod in pods for address in pod.addresses}, *protocol)
    found = [flow for flow in every if {flow.source, flow.destination} & here and family_of(flow.source) == family]
    return random.sample(found, min(_WATCHED, len(found)))


# Mostly all addresses are cleared before the next event: one that is still re-checked would hide an omission.
FATES = ["commit", "wait", "restart", *["judge"] * 4, *["clear"] * 6]


def live_through(history: History, protocol: tuple[str, int | None], random: Random) -> None:
    """Run a history with commits, re-checks and restarts at random points.

    Evaluated addresses are cleared at once, or after the next event, which may concern them again.
    """
    first, changes = history
    node = Node(first, watched(history, protocol, random))
    for item in changes:
        node.happen(item)
        fate = random.choice(FATES)
        if fate == "restart":
            node.restart()
        elif fate != "wait":
            node.commit()
            node.clear_recheck()
        if fate in {"judge", "clear"}:
            node.judge()
        if fate == "clear":
            node.clear_recheck()
    node.clear_recheck()


@settings(max_examples=2 * settings().max_examples)
@given(verdict_flips.histories(), RANDOM)
def test_a_revoked_connection_has_ended_with_the_commit_and_an_allowed_one_loses_no_packet(
    history: History, random: Random
) -> None:
    live_through(history, (verdict_flips.PROTOCOL, verdict_flips.PORT), random)


@given(histories(), PROTOCOLS, RANDOM)
def test_the_same_holds_for_unreadable_policies(
    history: list[Item | ObjectRef], protocol: tuple[str, int | None], random: Random
) -> None:
    live_through(([], history), protocol, random)


@given(verdict_flips.histories(), RANDOM)
def test_connections_that_are_not_re_checked_bypass_the_policies_uncounted(history: History, random: Random) -> None:
    first, changes = history
    node = Node(first, watched(history, (verdict_flips.PROTOCOL, verdict_flips.PORT), random))
    for item in changes:
        node.happen(item)
        node.kernel.apply(node.view.drain_changes())
    for flow, hook, packet in node.packets():
        if not {flow.source, flow.destination} & node.view.recheck_addresses.keys():
            assert run(node.kernel.ruleset, hook, packet).counters == ()
    node.judge()
    node.clear_recheck()
    assert node.view.recheck_addresses == {}
    for _, hook, packet in node.packets():
        result = run(node.kernel.ruleset, hook, packet)
        assert (result.verdict, result.counters, result.logs) == ("accept", (), ())


def going_on(flow: Flow) -> HookPacket:
    """Return a packet of a server that goes on after its connection's entry was deleted: it looks like a new client."""
    sent = opening(Flow(flow.destination, flow.source, flow.protocol, CLIENT_PORT))
    return sent._replace(sport=flow.port or 0)


def remembering(ruleset: Ruleset, flows: Iterable[Flow]) -> Ruleset:
    """Add the reply tuples of ended connections to their sets."""
    sets = dict(ruleset.sets)
    for flow in flows:
        name = f"revoked{family_of(flow.source)}"
        way: Element = (flow.destination, "tcp", verdict_flips.PORT, flow.source, CLIENT_PORT)
        sets[name] = msgspec.structs.replace(sets[name], elements=sets[name].elements | {way})
    return msgspec.structs.replace(ruleset, sets=sets)


@given(verdict_flips.histories(), RANDOM)
def test_a_server_that_goes_on_with_an_ended_connection_is_stopped_and_no_other(
    history: History, random: Random
) -> None:
    node = Node(history[0], watched(history, (verdict_flips.PROTOCOL, verdict_flips.PORT), random))
    judged = [flow for flow in node.watched if ways(flow, node.view.cluster)]
    ended = set(random.sample(judged, len(judged) // 2))
    ruleset = node.view.ruleset()
    knowing = remembering(ruleset, ended)
    for flow in judged:
        back = Flow(flow.destination, flow.source, flow.protocol, flow.port)
        hook = dict(hops(back, node.view.cluster)).get("a")
        if hook is None or hook == "input":
            continue
        packet = seen_at(hook, going_on(flow))
        if flow in ended:
            assert run(knowing, hook, packet).counters == (REVOKED_COUNTER,)
        else:
            assert run(knowing, hook, packet) == run(ruleset, hook, packet)
        another_call = packet._replace(sport=50_000)
        assert run(knowing, hook, another_call) == run(ruleset, hook, another_call)
