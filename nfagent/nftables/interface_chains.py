"""Rules about packets by the interface that they came in by: what no policy can judge by an address.

- From a Pod's interface comes what has a Pod's source: the node would send answers back there (`fib`). Else nobody
  would be judged for it. On a bridge this holds for the bridge as a whole.
- Nobody but Nodes speaks to a Node's tunnels: what a Pod put there would come out as anybody's packet.
- An IPv6 link-local source is nobody's: from Pods the node takes neighbour discovery, and nothing else.

All stand behind the short way of established packets, but for the last, which costs an IPv6 packet to the node one
comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from nfagent.model.netaddr import FAMILIES, Family
from nfagent.nftables import names
from nfagent.nftables.interface_sets import NODES, POD_LINKS, POD_RANGES, PORTLESS, TUNNELS
from nfagent.nftables.link_scope import GROUP_COUNTER, LINK_LOCAL, LINK_LOCAL_COUNTER, LONGEST_SOLICITATION, SANE
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtDirectionIs,
    FibLocalSource,
    FibUnrouted,
    FromInterface,
    HopLimit,
    Icmpv6Code,
    Icmpv6Type,
    IpAddress,
    L4Proto,
    LongestPayload,
    Match,
    MulticastFrame,
    OnesAddress,
    PacketPort,
    ToPort,
    Within,
)
from nfagent.nftables.objects import Accept, Chain, Drop, Goto, Hook, Jump, Return, Rule
from nfagent.policy.options import PolicyOptions

SPOOFED_COUNTER = "drop/spoofed"
UNROUTED_COUNTER = "drop/unrouted"
TUNNEL_COUNTER = "drop/tunnel"
LINK_COUNTERS = (UNROUTED_COUNTER, TUNNEL_COUNTER, LINK_LOCAL_COUNTER)
_FORWARD = "podlinks-forward"
_LINK_LOCAL = "podlinks-link-local"
_UNROUTED = "podlinks-unrouted"
_TUNNELS_FORWARD, _TUNNELS_INPUT = "tunnels-forward", "tunnels-input"
_DHCPV6_SERVER = 547
_BEFORE_CONNTRACK = -300  # NF_IP_PRI_RAW of linux/netfilter_ipv4.h
_ANSWERED = ("nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert")
_LISTENERS = ("mld-listener-report", "mld-listener-done", "mld2-listener-report")


def forward_rules() -> Iterator[Rule]:
    """Give the rules for packets that are forwarded, which stand behind the short ways."""
    yield Rule((FromInterface(POD_LINKS),), verdict=Jump(_FORWARD))


def first_input_rules(choices: PolicyOptions) -> Iterator[Rule]:
    """Give the rules for packets to the node itself that stand before the short ways.

    A Pod that always reaches its node needs no way around that.
    """
    if choices.own_node == "judged":
        yield Rule((Within(IpAddress("saddr", 6), (LINK_LOCAL,)), FromInterface(POD_LINKS)), verdict=Jump(_LINK_LOCAL))


def input_rules(choices: PolicyOptions) -> Iterator[Rule]:
    """Give the rules for packets to the node itself that stand behind the short ways."""
    yield from _tunnelled(_TUNNELS_INPUT)
    if choices.drops_unrouted:
        yield _unrouted(FromInterface(POD_LINKS), FibUnrouted())


def link_chains(choices: PolicyOptions, priority: int) -> Iterator[tuple[str, Chain]]:
    """Give the chains that these rules lead to, and the base chain that has them where no policy judges the input.

    priority: of that base chain
    """
    yield _FORWARD, Chain((*_tunnelled(_TUNNELS_FORWARD), *_search(choices)))
    if choices.drops_unrouted:
        yield _UNROUTED, Chain((spoofed(), _unrouted()))
    yield _TUNNELS_FORWARD, Chain(tuple(_closed(_node("daddr", family)) for family in FAMILIES))
    yield _TUNNELS_INPUT, Chain((_closed(FromInterface(POD_LINKS)), *map(_from_pods, FAMILIES)))
    if choices.own_node == "judged":
        yield _LINK_LOCAL, _link_local_chain()
    else:
        settled = Rule((ConntrackState(("established",)),), verdict=Accept())
        yield "input-podlinks", Chain((settled, *input_rules(choices)), Hook("filter", "input", priority))


def frames_chain() -> Chain:
    """Give the chain that stops what is for one host and came in a frame for many, before conntrack knows it.

    A bridge gives such a frame to its node too, which makes the connection known whatever the forward hook did with the
    other copies: what pretends to be its answer would then make it established.
    """
    stopped = Rule(
        (MulticastFrame(), FromInterface(POD_LINKS), OnesAddress()),
        counter=GROUP_COUNTER,
        verdict=Drop(),
        comment="for one host, in a frame for many",
    )
    return Chain((stopped,), Hook("filter", "prerouting", _BEFORE_CONNTRACK))


def _tunnelled(chain: str) -> Iterator[Rule]:
    """Send what looks like a tunnel's packets to a chain."""
    yield Rule((ToPort(TUNNELS),), verdict=Jump(chain))
    yield Rule((L4Proto(PORTLESS),), verdict=Jump(chain))


def spoofed(*matches: Match) -> Rule:
    """Give the rule against packets whose source is the node's own."""
    comment = "says that this node has sent it, and it has not"
    return Rule((*matches, FibLocalSource()), counter=SPOOFED_COUNTER, verdict=Drop(), comment=comment)


def not_looked_at(choices: PolicyOptions) -> tuple[Match, ...]:
    """Match what `forward_rules` leave out: a source of the node's own is no Pod's route, and one look is enough."""
    return (FromInterface(POD_LINKS, negated=True),) if choices.drops_unrouted else ()


def _search(choices: PolicyOptions) -> Iterator[Rule]:
    if choices.drops_unrouted:
        yield Rule((FibUnrouted(),), verdict=Goto(_UNROUTED))


def _unrouted(*matches: Match) -> Rule:
    comment = "no answer would leave by the interface that it came in by"
    return Rule(matches, counter=UNROUTED_COUNTER, verdict=Drop(), comment=comment)


def _closed(*matches: Match) -> Rule:
    return Rule(matches, counter=TUNNEL_COUNTER, verdict=Drop(), comment="only Nodes speak to Nodes' tunnels")


def _node(side: Literal["saddr", "daddr"], family: Family, *, negated: bool = False) -> Match:
    return AddressInSet(IpAddress(side, family), names.set_name(NODES, family), negated)


def _from_pods(family: Family) -> Rule:
    """Stop what other nodes' Pods have sent. A Node, which is asked for first, may lie in a range of Pods."""
    pods = AddressInSet(IpAddress("saddr", family), names.set_name(POD_RANGES, family))
    return _closed(_node("saddr", family, negated=True), pods)


def _link_local_chain() -> Chain:
    return Chain(
        (
            Rule(
                (Icmpv6Type(_ANSWERED), *SANE, LongestPayload(LONGEST_SOLICITATION)),
                verdict=Return(),
                comment="neighbour discovery",
            ),
            Rule(
                (Icmpv6Type(_LISTENERS), Icmpv6Code(0), HopLimit(1)),
                verdict=Return(),
                comment="groups that a Pod listens to",
            ),
            Rule((PacketPort("udp", _DHCPV6_SERVER, _DHCPV6_SERVER),), verdict=Return(), comment="DHCPv6"),
            Rule(
                (ConntrackState(("established",)), CtDirectionIs("reply")),
                verdict=Return(),
                comment="the node's own connections",
            ),
            Rule(counter=LINK_LOCAL_COUNTER, verdict=Drop(), comment="a link-local source is no Pod's to any policy"),
        )
    )
