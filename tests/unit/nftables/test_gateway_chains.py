"""The chains of the gateway path: what becomes of a packet on its Pod's node, on the holder, and elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nfagent.egress.gateways import FloatingAddress, MarkBits
from nfagent.egress.masquerade import MasqueradePlan
from nfagent.egress.tunnel import TUNNEL_PORT
from nfagent.model.netaddr import FAMILIES, Family, family_of, parse_cidr
from nfagent.model.objects import ObjectRef
from nfagent.nftables import names
from nfagent.nftables.gateway_chains import (
    GATEWAY_COUNTERS,
    GatewayDestinations,
    gateway_chains,
    gateway_nat_rules,
    gateway_policies_chain,
    gateway_set,
    gateway_sets,
)
from nfagent.nftables.interface_chains import TUNNEL_COUNTER
from nfagent.nftables.interface_sets import NODES
from nfagent.nftables.masquerade_chains import UNTRANSLATED_COUNTER, cluster_pods_set, masquerade_sets, nat_chains
from nfagent.nftables.objects import NamedSet, Ruleset, VerdictMap
from nfagent.policy.evaluator import Flow
from tests.support.nft_interpreter import HookPacket, PacketResult, State, later, opening, reply, run, stray

MARK = MarkBits(0x0FF0_0000)
GROUP, POLICIES = ObjectRef("NetworkGatewayGroup", "kube-system", "gw"), ("payments",)
HELD: dict[Family, str] = {4: "192.0.2.10", 6: "2001:db8::10"}
NUMBER = 5
POD: dict[Family, str] = {4: "10.64.1.2", 6: "fd00:64:1::2"}
"""Of node a; node b holds the floating addresses, node c neither."""
OTHER_POD: dict[Family, str] = {4: "10.64.1.3", 6: "fd00:64:1::3"}
POD_ELSEWHERE: dict[Family, str] = {4: "10.64.2.2", 6: "fd00:64:2::2"}
NODE: dict[Family, str] = {4: "192.0.2.3", 6: "2001:db8::3"}
"""The address of node c."""
OWN: dict[Family, str] = {4: "192.0.2.1", 6: "2001:db8::1"}
"""An address of the node itself."""
OUTSIDE: dict[Family, str] = {4: "203.0.113.5", 6: "2001:db8:99::5"}
BEYOND: dict[Family, str] = {4: "198.51.100.5", 6: "2001:db8:50::5"}
RANGES = (
    *map(parse_cidr, ("203.0.113.0/24", "2001:db8:99::/48", "169.254.0.0/16", "224.0.0.0/3")),
    parse_cidr("fc00::/6"),
)
PODS = {
    "a": ("10.64.1.0/24", "fd00:64:1::/48"),
    "b": ("10.64.2.0/24", "fd00:64:2::/48"),
    "c": ("10.64.3.0/24", "fd00:64:3::/48"),
}
CLUSTER = ("10.64.0.0/16", "10.96.0.0/16", "fd00:64::/24")


def ruleset(node: str, *, holder: str = "b", number: int = NUMBER, selected: str = "", empty: bool = False) -> Ruleset:
    """Return a node's ruleset; `selected`: a further address of a Pod; `empty`: the group has no usable address."""
    addresses = [FloatingAddress(HELD[family], family, GROUP, holder, number) for family in FAMILIES]
    plan = MasqueradePlan(
        sources=tuple(map(parse_cidr, PODS[node])),
        cluster=tuple(map(parse_cidr, CLUSTER)),
        outside=(4,) if selected else (),
        exempt=(),
        random_fully=True,
    )
    chains = dict(gateway_chains(addresses, node, MARK, FAMILIES, plan.outside))
    chains |= dict(nat_chains(plan, gateways=gateway_nat_rules(MARK)))
    used, sets = [], dict(masquerade_sets(plan, FAMILIES)) | dict(gateway_sets(addresses, FAMILIES))
    for family in FAMILIES:
        sets[names.set_name(NODES, family)] = NamedSet("address", family, frozenset((NODE[family], OWN[family])))
    for family in FAMILIES:
        name = names.gateway_set(POLICIES, GROUP, family)
        sets[name] = gateway_set(POLICIES, GROUP, family, RANGES)
        used.append(GatewayDestinations(name, family, "" if empty else HELD[family]))
    if selected:
        outside = cluster_pods_set(4)
        sets[names.set_name("clusterpods", 4)] = NamedSet("address", 4, frozenset((selected,)), outside.comment)
    chain = names.gateway_policies_chain(POLICIES, tuple(HELD.values()), 4)
    chains[chain] = gateway_policies_chain(used)
    pods = (*POD.values(), *POD_ELSEWHERE.values(), *((selected,) if selected else ()))
    maps = {
        names.gateway_map(family): VerdictMap(family, {pod: chain for pod in pods if family_of(pod) == family})
        for family in FAMILIES
    }
    return Ruleset(sets, maps, chains, frozenset((UNTRANSLATED_COUNTER, TUNNEL_COUNTER, *GATEWAY_COUNTERS)))


def routed_through(rules: Ruleset, packet: HookPacket) -> tuple[PacketResult, PacketResult | None]:
    """Return what prerouting makes of a packet, and forward and postrouting behind it; None if it was dropped."""
    before = run(rules, "prerouting", packet)
    return before, run(rules, "forward", packet._replace(mark=before.mark)) if before.accepted else None


def flow(source: str, destination: str) -> Flow:
    return Flow(source, destination, "tcp", 443)


each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
@pytest.mark.parametrize("packet", [opening, later], ids=["first packet", "later packet"])
def test_the_pods_node_marks_packets_for_the_holder_and_never_translates(
    packet: Callable[[Flow], HookPacket], family: Family
) -> None:
    before, after = routed_through(ruleset("a"), packet(flow(POD[family], OUTSIDE[family])))
    assert before.mark == MARK.of_routed(NUMBER)
    assert after is not None
    assert (after.translated, after.source) == (False, "")


@each_family
@pytest.mark.parametrize("pod", [POD, POD_ELSEWHERE], ids=["of another node", "of its own"])
def test_the_holder_translates_to_the_floating_address(pod: dict[Family, str], family: Family) -> None:
    before, after = routed_through(ruleset("b"), opening(flow(pod[family], OUTSIDE[family])))
    assert before.mark == MARK.of_held(NUMBER)
    assert after is not None
    assert (after.translated, after.source) == (False, HELD[family])


@each_family
def test_a_node_beside_the_holder_drops_packets_of_other_nodes_pods(family: Family) -> None:
    before, _ = routed_through(ruleset("c"), opening(flow(POD[family], OUTSIDE[family])))
    assert (before.verdict, before.counters) == ("drop", ("drop/not-holder",))


@each_family
@pytest.mark.parametrize(
    "rules",
    [
        pytest.param({"holder": ""}, id="no node holds it"),
        pytest.param({"number": 0}, id="no number is left"),
        pytest.param({"empty": True}, id="the group has no address of the family"),
    ],
)
@pytest.mark.parametrize("node", ["a", "b"])
def test_without_a_gateway_packets_are_dropped(rules: dict[str, Any], node: str, family: Family) -> None:
    before, _ = routed_through(ruleset(node, **rules), opening(flow(POD[family], OUTSIDE[family])))
    assert (before.verdict, before.counters) == ("drop", ("drop/no-gateway",))


@each_family
@pytest.mark.parametrize("state", ["invalid", "untracked"])
@pytest.mark.parametrize("node", ["a", "b", "c"])
def test_what_nat_cannot_translate_is_dropped(node: str, state: State, family: Family) -> None:
    before, _ = routed_through(ruleset(node), stray(flow(POD[family], OUTSIDE[family]), state))
    assert (before.verdict, before.counters) == ("drop", (UNTRANSLATED_COUNTER,))


@each_family
def test_a_connection_older_than_the_address_here_never_leaves_with_the_pods_address(family: Family) -> None:
    rules, packet = ruleset("b"), later(flow(POD_ELSEWHERE[family], OUTSIDE[family]))
    before, _ = routed_through(rules, packet)
    assert (before.verdict, before.counters) == ("drop", (UNTRANSLATED_COUNTER,))
    translated = packet._replace(conntrack=packet.conntrack._replace(translated=True))
    before, _ = routed_through(rules, translated)
    assert (before.verdict, before.mark) == ("accept", 0), "a live connection keeps its translation"


UNMARKED: dict[str, Callable[[Family], HookPacket]] = {
    "a destination in the cluster": lambda family: opening(flow(POD[family], POD_ELSEWHERE[family])),
    "a destination of no gateway policy": lambda family: opening(flow(POD[family], BEYOND[family])),
    "a Pod that no policy selects": lambda family: opening(flow(OTHER_POD[family], OUTSIDE[family])),
    "a reply to an outside host's connection": lambda family: reply(flow(OUTSIDE[family], POD[family])),
    "a packet from outside": lambda family: opening(flow(OUTSIDE[family], POD[family])),
    "a live translated connection": lambda family: later(flow(POD[family], OUTSIDE[family]))._replace(
        conntrack=later(flow(POD[family], OUTSIDE[family])).conntrack._replace(translated=True)
    ),
    "the link's own destinations": lambda family: stray(
        flow(POD[family], {4: "169.254.1.1", 6: "fe80::1"}[family]), "untracked"
    ),
    "a multicast destination": lambda family: stray(
        flow(POD[family], {4: "224.0.0.1", 6: "ff02::1:ff00:1"}[family]), "untracked"
    ),
}


@each_family
@pytest.mark.parametrize("node", ["a", "b", "c"])
@pytest.mark.parametrize("packet", UNMARKED.values(), ids=UNMARKED)
def test_other_packets_pass_without_a_mark(packet: Callable[[Family], HookPacket], node: str, family: Family) -> None:
    before = run(ruleset(node), "prerouting", packet(family))
    assert (before.verdict, before.mark, before.counters) == ("accept", 0, ())


@each_family
def test_a_dnated_connection_counts_by_its_final_destination(family: Family) -> None:
    """At this hook the packet has the destination that DNAT gave it: a hairpin by a Service stays in the cluster."""
    hairpin = opening(flow(POD[family], POD[family]))
    before, after = routed_through(ruleset("a"), hairpin)
    assert before.mark == 0
    assert after is not None
    assert not after.translated
    before, _ = routed_through(ruleset("a"), opening(flow(POD[family], OUTSIDE[family])))
    assert before.mark == MARK.of_routed(NUMBER), "an endpoint outside"


@each_family
@pytest.mark.parametrize("node", ["a", "b"])
def test_bits_of_the_mark_outside_the_mask_stay(node: str, family: Family) -> None:
    others = 0xFFFF_FFFF & ~MARK.mask
    before, _ = routed_through(ruleset(node), opening(flow(POD[family], OUTSIDE[family]))._replace(mark=others))
    assert before.mark & ~MARK.mask == others
    assert before.mark & MARK.mask in {MARK.of_held(NUMBER), MARK.of_routed(NUMBER)}


@each_family
@pytest.mark.parametrize("mark", [MARK.of_held(NUMBER), MARK.of_routed(NUMBER), MARK.mask])
@pytest.mark.parametrize("destination", [POD_ELSEWHERE, BEYOND], ids=["in the cluster", "outside"])
def test_the_mark_of_another_program_moves_no_pod(destination: dict[Family, str], mark: int, family: Family) -> None:
    packet = opening(flow(OTHER_POD[family], destination[family]))._replace(mark=mark | 1)
    before, after = routed_through(ruleset("b"), packet)
    assert before.mark == 1
    assert after is not None
    assert after.source == ""


@each_family
def test_a_mark_that_is_set_later_translates_nothing_from_outside_the_cluster(family: Family) -> None:
    packet = opening(flow(BEYOND[family], OUTSIDE[family]))._replace(mark=MARK.of_held(NUMBER))
    assert run(ruleset("b"), "forward", packet).source == ""


@each_family
@pytest.mark.parametrize("node", ["a", "c"])
def test_a_packet_that_was_marked_before_its_address_moved_away_is_dropped(node: str, family: Family) -> None:
    """By the rules before, this node held the address; postrouting is by those after."""
    packet = opening(flow(POD[family], OUTSIDE[family]))._replace(mark=MARK.of_held(NUMBER))
    after = run(ruleset(node), "forward", packet)
    assert (after.verdict, after.counters) == ("drop", (UNTRANSLATED_COUNTER,))


def test_a_pod_outside_the_clusters_ranges_is_translated_and_reached() -> None:
    pod = "240.1.0.2"
    rules = ruleset("b", selected=pod)
    before, after = routed_through(rules, opening(flow(pod, OUTSIDE[4])))
    assert after is not None
    assert (before.mark, after.source) == (MARK.of_held(NUMBER), HELD[4])
    assert run(rules, "prerouting", opening(flow(POD[4], pod))).mark == 0


@each_family
def test_packets_to_a_held_address_meet_no_service_of_the_node(family: Family) -> None:
    to_address = flow(OUTSIDE[family], HELD[family])
    dropped = run(ruleset("b"), "input", opening(to_address))
    assert (dropped.verdict, dropped.counters) == ("drop", ("drop/to-gateway",))
    assert run(ruleset("a"), "input", opening(to_address)).verdict == "drop", "it was this node's a moment ago"
    ping = opening(Flow(OUTSIDE[family], HELD[family], "icmp" if family == 4 else "icmpv6", None))
    assert run(ruleset("b"), "input", ping).accepted


@each_family
@pytest.mark.parametrize("node", ["a", "b"], ids=["another node", "the holder"])
def test_packets_from_outside_to_a_floating_address_are_not_forwarded(node: str, family: Family) -> None:
    """Those that arrive while the address moves would begin conntrack entries of their own."""
    late = run(ruleset(node), "forward", later(flow(OUTSIDE[family], HELD[family])))
    assert (late.verdict, late.counters) == ("drop", ("drop/to-gateway",))
    assert run(ruleset(node), "forward", opening(flow(POD[family], HELD[family]))).accepted, "from a Pod to its holder"
    assert run(ruleset(node), "forward", opening(flow(OUTSIDE[family], BEYOND[family]))).accepted


@each_family
@pytest.mark.parametrize("packet", [opening, later], ids=["first packet", "later packet"])
def test_a_pod_of_another_node_never_leaves_unmarked_by_a_holder(
    packet: Callable[[Flow], HookPacket], family: Family
) -> None:
    """A Pod that this node doesn't know yet, or a destination that its policies don't have: no floating address."""
    node = "b"
    for unknown in (flow(OTHER_POD[family], OUTSIDE[family]), flow(POD[family], BEYOND[family])):
        _, after = routed_through(ruleset(node), packet(unknown))
        assert after is not None
        assert (after.verdict, after.counters) == ("drop", ("drop/not-holder",))
    _, after = routed_through(ruleset(node), packet(flow(NODE[family], BEYOND[family])))
    assert after is not None, "another node, which this one routes for"
    assert after.accepted
    _, after = routed_through(ruleset(node), packet(flow(POD[family], POD_ELSEWHERE[family])))
    assert after is not None, "Pod to Pod"
    assert after.accepted
    answer = run(ruleset(node), "forward", reply(flow(BEYOND[family], POD[family])))
    assert answer.accepted, "an answer to a connection from outside"


@each_family
def test_a_node_that_holds_no_address_routes_for_the_pods_of_others(family: Family) -> None:
    _, after = routed_through(ruleset("c"), opening(flow(POD[family], BEYOND[family])))
    assert after is not None
    assert after.accepted


def test_a_pod_outside_the_clusters_ranges_never_leaves_unmarked_by_a_holder() -> None:
    pod = "240.1.0.2"
    _, after = routed_through(ruleset("b", selected=pod), opening(flow(pod, BEYOND[4])))
    assert after is not None
    assert (after.verdict, after.counters) == ("drop", ("drop/not-holder",))


@each_family
def test_a_pods_packet_to_the_floating_address_is_dropped_by_its_holder(family: Family) -> None:
    assert run(ruleset("b"), "input", opening(flow(POD[family], HELD[family]))).verdict == "drop"


@each_family
@pytest.mark.parametrize("node", ["a", "b"], ids=["on the Pod's node", "on the holder"])
def test_only_nodes_speak_to_the_tunnel(node: str, family: Family) -> None:
    def sent(source: str) -> PacketResult:
        return run(ruleset(node), "input", opening(Flow(source, OWN[family], "udp", TUNNEL_PORT)))

    assert sent(NODE[family]).accepted
    for source in (OUTSIDE[family], POD_ELSEWHERE[family]):
        assert (sent(source).verdict, sent(source).counters) == ("drop", (TUNNEL_COUNTER,))


@each_family
def test_the_tunnel_receives_by_the_addresses_of_nodes_alone(family: Family) -> None:
    """A Pod's packet to another address of a node is masqueraded, and comes from a Node's address."""
    masqueraded = opening(Flow(NODE[family], BEYOND[family], "udp", TUNNEL_PORT))
    dropped = run(ruleset("b"), "input", masqueraded)
    assert (dropped.verdict, dropped.counters) == ("drop", (TUNNEL_COUNTER,))


@each_family
@pytest.mark.parametrize("node", ["a", "b"], ids=["another node", "the holder"])
def test_packets_to_a_floating_address_come_to_no_service_before_dnat(node: str, family: Family) -> None:
    rules = ruleset(node)
    arrived = run(rules, "prerouting", opening(flow(OUTSIDE[family], HELD[family])))
    assert (arrived.verdict, arrived.counters) == ("drop", ("drop/to-gateway",))
    ping = opening(Flow(OUTSIDE[family], HELD[family], "icmp" if family == 4 else "icmpv6", None))
    assert run(rules, "prerouting", ping).accepted
    assert run(rules, "prerouting", reply(flow(POD[family], OUTSIDE[family]))).accepted
    assert run(rules, "prerouting", opening(flow(OUTSIDE[family], OWN[family]))).accepted


def test_a_family_without_masquerade_has_no_chains_of_its_addresses() -> None:
    addresses = [FloatingAddress(HELD[family], family, GROUP, "b", NUMBER) for family in FAMILIES]
    chains = dict(gateway_chains(addresses, "b", MARK, (6,)))
    assert names.floating_chain(HELD[4]) not in chains
    assert {name for name, _ in gateway_sets(addresses, (6,))} == {"floating6"}
