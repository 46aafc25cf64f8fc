"""Rules that match the incoming interface, for packets to which policies can't apply by address.

- Spoofed sources: a packet from a Pod's interface must have a source that the node routes to this interface (`fib`).
  Otherwise no Pod's policies would apply to it. On a bridge the check holds for the bridge as a whole.
- Tunnels: only Nodes may send to a Node's tunnels. A Pod's packet would leave the tunnel with any source address.
- IPv6 link-local sources belong to no Pod: from Pods, the node accepts only neighbour discovery and the like.

All these rules come after the accept of established connections, except the last, which costs each IPv6 packet to the
node one comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from nfagent.model.netaddr import FAMILIES, Family
from nfagent.nftables import names
from nfagent.nftables.interface_sets import NODES, POD_LINKS, POD_RANGES, PORTLESS, TUNNELS
from nfagent.nftables.link_scope import LINK_LOCAL, LINK_LOCAL_COUNTER, LONGEST_SOLICITATION, MULTICAST_COUNTER, SANE
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
    Match,
    MaxPayload,
    MulticastFrame,
    PacketPort,
    ToPort,
    UnicastDestination,
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
_DISCOVERY = ("nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert")
_LISTENERS = ("mld-listener-report", "mld-listener-done", "mld2-listener-report")


def forward_rules() -> Iterator[Rule]:
    """Yield the rules for forwarded packets, which come after the early accepts."""
    yield Rule((FromInterface(POD_LINKS),), verdict=Jump(_FORWARD))


def first_input_rules(policy_options: PolicyOptions) -> Iterator[Rule]:
    """Yield the rules for packets to the node itself that come before the early accepts.

    None if Pods always reach their node: there is no policy to bypass.
    """
    if policy_options.own_node == "judged":
        yield Rule((Within(IpAddress("saddr", 6), (LINK_LOCAL,)), FromInterface(POD_LINKS)), verdict=Jump(_LINK_LOCAL))


def input_rules(policy_options: PolicyOptions) -> Iterator[Rule]:
    """Yield the rules for packets to the node itself that come after the early accepts."""
    yield from _tunnel_rules(_TUNNELS_INPUT)
    if policy_options.drops_unrouted:
        yield _unrouted(FromInterface(POD_LINKS), FibUnrouted())


def link_chains(policy_options: PolicyOptions, priority: int) -> Iterator[tuple[str, Chain]]:
    """Yield the chains that these rules refer to, and the input base chain if policies don't apply to input.

    priority: of this base chain
    """
    yield _FORWARD, Chain((*_tunnel_rules(_TUNNELS_FORWARD), *_source_check(policy_options)))
    if policy_options.drops_unrouted:
        yield _UNROUTED, Chain((spoofed(), _unrouted()))
    yield _TUNNELS_FORWARD, Chain(tuple(_tunnel_drop(_is_node("daddr", family)) for family in FAMILIES))
    yield _TUNNELS_INPUT, Chain((_tunnel_drop(FromInterface(POD_LINKS)), *map(_from_pods, FAMILIES)))
    if policy_options.own_node == "judged":
        yield _LINK_LOCAL, _link_local_chain()
    else:
        established = Rule((ConntrackState(("established",)),), verdict=Accept())
        yield "input-podlinks", Chain((established, *input_rules(policy_options)), Hook("filter", "input", priority))


def frames_chain() -> Chain:
    """Return the base chain that drops unicast packets in broadcast or multicast frames, before conntrack.

    A bridge delivers such a frame to its node too, and conntrack then has an entry for the connection even if the
    forward hook drops all other copies: a forged reply would make the connection established.
    """
    drop = Rule(
        (MulticastFrame(), FromInterface(POD_LINKS), UnicastDestination()),
        counter=MULTICAST_COUNTER,
        verdict=Drop(),
        comment="for one host, in a frame for many",
    )
    return Chain((drop,), Hook("filter", "prerouting", _BEFORE_CONNTRACK))


def _tunnel_rules(chain: str) -> Iterator[Rule]:
    """Yield the rules that send packets of tunnel protocols to a chain."""
    yield Rule((ToPort(TUNNELS),), verdict=Jump(chain))
    yield Rule((L4Proto(PORTLESS),), verdict=Jump(chain))


def spoofed(*matches: Match) -> Rule:
    """Return the rule that drops packets whose source is an address of the node."""
    comment = "says that this node has sent it, and it has not"
    return Rule((*matches, FibLocalSource()), counter=SPOOFED_COUNTER, verdict=Drop(), comment=comment)


def not_from_pod_link(policy_options: PolicyOptions) -> tuple[Match, ...]:
    """Return the match that excludes packets which `forward_rules` check already: one check of the source is enough."""
    return (FromInterface(POD_LINKS, negated=True),) if policy_options.drops_unrouted else ()


def _source_check(policy_options: PolicyOptions) -> Iterator[Rule]:
    if policy_options.drops_unrouted:
        yield Rule((FibUnrouted(),), verdict=Goto(_UNROUTED))


def _unrouted(*matches: Match) -> Rule:
    comment = "no answer would leave by the interface that it came in by"
    return Rule(matches, counter=UNROUTED_COUNTER, verdict=Drop(), comment=comment)


def _tunnel_drop(*matches: Match) -> Rule:
    return Rule(matches, counter=TUNNEL_COUNTER, verdict=Drop(), comment="only Nodes speak to Nodes' tunnels")


def _is_node(side: Literal["saddr", "daddr"], family: Family, *, negated: bool = False) -> Match:
    return AddressInSet(IpAddress(side, family), names.set_name(NODES, family), negated)


def _from_pods(family: Family) -> Rule:
    """Return the rule that drops packets of other nodes' Pods. The address of a Node may lie in a Pod range."""
    pods = AddressInSet(IpAddress("saddr", family), names.set_name(POD_RANGES, family))
    return _tunnel_drop(_is_node("saddr", family, negated=True), pods)


def _link_local_chain() -> Chain:
    return Chain(
        (
            Rule(
                (Icmpv6Type(_DISCOVERY), *SANE, MaxPayload(LONGEST_SOLICITATION)),
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
