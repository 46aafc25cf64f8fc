"""Rules of iptables give a packet the verdict that the nftables ruleset gives, of which they were made."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from hypothesis import assume, event, given
from hypothesis import strategies as st

from nfagent.desired.node_interfaces import NodeInterfaces
from nfagent.desired.state import DesiredState
from nfagent.model.netaddr import FAMILIES
from nfagent.nftables.gateway_chains import GATEWAYS_CHAIN
from nfagent.nftables.matches import NextHopInSet
from nfagent.nftables.objects import Log, ProtocolPort, Ruleset
from nfagent.policy.evaluator import Flow
from nfagent.policy.options import PolicyOptions
from nfagent.xtables.lowering import lower
from nfagent.xtables.names import account_name, log_prefix
from nfagent.xtables.options import LoweringOptions, Unavailable
from tests.properties import verdict_flips
from tests.properties.strategies import PROTOCOLS, flows, worlds
from tests.support.nft_interpreter import (
    Conntrack,
    HookName,
    HookPacket,
    PacketResult,
    later,
    opening,
    reply,
    run,
    stray,
)
from tests.support.xtables_interpreter import XtMachine

_OPTIONS = LoweringOptions()
HOOKS: tuple[HookName, ...] = ("prerouting", "forward", "input", "output")


def has_floating_addresses(unavailable: Iterable[Unavailable]) -> bool:
    return any(item.chain == GATEWAYS_CHAIN or item.rule == NextHopInSet.__name__ for item in unavailable)


def lowered(ruleset: Ruleset) -> XtMachine:
    """Lower a ruleset; one with floating addresses, which iptables can't have, is drawn again."""
    found, unavailable = lower(ruleset, _OPTIONS)
    assume(not has_floating_addresses(unavailable))
    assert unavailable == ()
    return XtMachine(found)


def expected(result: PacketResult, packet: HookPacket) -> PacketResult:
    """Return the result of an nftables ruleset with the names that iptables has for it."""
    return result._replace(
        logs=tuple(Log(log_prefix(log.prefix), log.group) for log in result.logs),
        counters=tuple(account_name(name, packet.family) for name in result.counters),
    )


LINKS = NodeInterfaces(
    frozenset({"veth1"}), frozenset({ProtocolPort("udp", 53), ProtocolPort("tcp", 80)}), portless=True, bridged=True
)


@st.composite
def views(draw: st.DrawFn) -> DesiredState:
    """Draw a node of a cluster, with any settings and interfaces, at rest or with every address under re-check."""
    choices: dict[str, list[str]] = {
        "own_node": ["judged", "allowed"],
        "unrouted_sources": ["dropped", "judged"],
        "unknown_pods": ["passed", "held"],
    }
    options = PolicyOptions(**{name: draw(st.sampled_from(values)) for name, values in choices.items()})  # type: ignore[arg-type]
    view = DesiredState("a", policy_options=options)
    for item in draw(worlds() | verdict_flips.crowded_clusters() | verdict_flips.audited_clusters()):
        view.put(item)
    if draw(st.booleans()):
        view.follow_links(LINKS)
    if draw(st.booleans()):
        view.recheck_all()
    return view


def between(packet: HookPacket, source: str, destination: str) -> HookPacket:
    """Return a packet with other addresses, which its connection has too: but for errors, it is found by the header."""
    conntrack = packet.conntrack
    if conntrack.state in {"new", "established"}:
        ends = {packet.saddr: source, packet.daddr: destination}
        client, server = (ends.get(end, end) for end in (conntrack.client, conntrack.server))
        conntrack = conntrack._replace(client=client, server=server)
    return packet._replace(saddr=source, daddr=destination, conntrack=conntrack)


def whole_if_tracked(packet: HookPacket) -> HookPacket:
    """Return a packet that is no fragment where it has a connection: conntrack puts fragments together first."""
    return packet._replace(fragment=packet.fragment and packet.conntrack.state in {"invalid", "untracked"})


def sent(flow: Flow) -> st.SearchStrategy[HookPacket]:
    """Draw a packet of a flow in any state, from any interface, with any header."""
    first = opening(flow)
    icmp = flow.protocol in {"icmp", "icmpv6"}
    states = [first, later(flow), reply(flow), *(stray(flow, state) for state in ("invalid", "untracked"))]
    if icmp:
        about = Conntrack("related", flow.source, flow.destination, confirmed=True)
        other = Conntrack("related", flow.destination, flow.source, confirmed=True, way="reply")
        quiet = about._replace(answered=False)
        states += [first._replace(conntrack=conntrack) for conntrack in (about, other, quiet)]
    if flow.protocol == "icmpv6":
        states += [stray(flow, "untracked", kind) for kind in ("nd-neighbor-solicit", "nd-router-advert")]
        states += [item._replace(hop_limit=1, icmpv6_type="mld-listener-report") for item in states[3:5]]
        states += [between(item, "fe80::1", item.daddr) for item in states]
        states += [between(item, item.saddr, "ff02::1") for item in states]
    return st.builds(
        lambda packet, **changed: whole_if_tracked(packet._replace(**changed)),
        st.sampled_from(states),
        link=st.sampled_from(["", "veth1", "eth0"]),
        unrouted=st.booleans(),
        group_frame=st.sampled_from([False, False, True]),
        reset=st.booleans(),
        loopback=st.booleans(),
        local_source=st.sampled_from([False, False, True]),
        fragment=st.sampled_from([False, False, False, True]),
        mark=st.sampled_from([0, 0x40, 0x1000, 0x1040, 0xFFFF_FFFF]),
        payload=st.sampled_from([64, 1000]),
    )


@given(views(), PROTOCOLS, st.data())
def test_every_packet_has_verdict_logs_and_counters_of_the_nftables_rules(
    view: DesiredState, protocol: tuple[str, int | None], data: st.DataObject
) -> None:
    ruleset = view.ruleset()
    machine = lowered(ruleset)
    every = list(flows(view.cluster.by_address, *protocol))
    for flow in data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=30)):
        packet = data.draw(sent(flow))
        for hook in HOOKS:
            result = run(ruleset, hook, packet)
            found = machine.run(hook, packet)
            event(f"{hook} {result.verdict}")
            assert found._replace(mark=0) == expected(result, packet)._replace(mark=0), (hook, packet)
            if found.accepted:
                kept = ~(_OPTIONS.accepted_bit | _OPTIONS.unrouted_bit)
                assert found.mark & kept == packet.mark & kept


@given(
    view=views(),
    protocol=PROTOCOLS,
    lacking=st.sets(st.sampled_from(["sctp", "hl", "length", "ipv6header", "statistic", "SET"]), min_size=1),
    data=st.data(),
)
def test_what_a_kernel_lacks_allows_nothing_more(
    view: DesiredState, protocol: tuple[str, int | None], lacking: set[str], data: st.DataObject
) -> None:
    ruleset = view.ruleset()
    gone = frozenset((family, name) for family in FAMILIES for name in lacking)
    found, unavailable = lower(ruleset, msgspec.structs.replace(_OPTIONS, lacking=gone))
    assume(not has_floating_addresses(unavailable))  # their rules are in another hook there: see xtables.hooks
    machine = XtMachine(found)
    every = list(flows(view.cluster.by_address, *protocol))
    for flow in data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=30)):
        packet = data.draw(sent(flow))
        for hook in HOOKS:
            if machine.run(hook, packet).accepted:
                assert run(ruleset, hook, packet).accepted, (hook, packet)
