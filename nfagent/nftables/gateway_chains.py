"""The nftables chains of the gateway path: they mark packets of Pods for the floating address that they leave under.

Every node classifies the packets of all Pods of the cluster, so that a node that doesn't hold an address never lets a
Pod out under another one. The chain runs after DNAT, so that the final destination counts, and before routing, which
sends marked packets to the node that holds the address. There the nat chain translates a connection's first packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from nfagent.egress.gateways import LINK_SCOPE, FloatingAddress, MarkBits
from nfagent.egress.tunnel import TUNNEL_LINK, TUNNEL_PORT
from nfagent.model.netaddr import FAMILIES, Family, Range
from nfagent.model.objects import ObjectRef
from nfagent.nftables import names
from nfagent.nftables.interface_chains import TUNNEL_COUNTER
from nfagent.nftables.interface_sets import NODES
from nfagent.nftables.masquerade_chains import CLUSTER_PODS, UNTRANSLATED_COUNTER
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtDirectionIs,
    CtTranslated,
    CtUnconfirmed,
    IpAddress,
    L4Proto,
    MarkIs,
    Match,
    NextHopInSet,
    PacketPort,
    ToInterface,
    Within,
)
from nfagent.nftables.objects import (
    Accept,
    Chain,
    Drop,
    Element,
    Goto,
    Hook,
    Jump,
    MarkSet,
    NamedSet,
    Rule,
    SourceNat,
    VmapLookup,
)

GATEWAYS_CHAIN = "prerouting-gateways"
INPUT_CHAIN = "input-gateways"
FORWARD_CHAIN = "forward-gateways"
ROUTED_CHAIN = "forward-routed"
ARRIVAL_CHAIN = "prerouting-floating"
HELD_CHAIN = "translate-floating"
FLOATING_SET = "floating"
NOT_HOLDER_COUNTER = "drop/not-holder"
NO_GATEWAY_COUNTER = "drop/no-gateway"
TO_GATEWAY_COUNTER = "drop/to-gateway"
GATEWAY_COUNTERS = (NOT_HOLDER_COUNTER, NO_GATEWAY_COUNTER, TO_GATEWAY_COUNTER)
_BEFORE_DNAT, _AFTER_DNAT = -110, -90
_FILTER_PRIORITY = 0


class GatewayDestinations(msgspec.Struct, frozen=True):
    """Destinations that Pods reach by one group.

    set:     its name
    address: the floating address that these Pods use; '' drops their packets
    """

    set: str
    family: Family
    address: str = ""


def gateway_chains(
    addresses: Iterable[FloatingAddress],
    node: str,
    mark: MarkBits,
    families: Iterable[Family],
    outside: Iterable[Family] = (),
) -> Iterator[tuple[str, Chain]]:
    """Yield the chains of floating addresses, those that others refer to first.

    node:     this node's name
    families: those that are masqueraded, and have the sets `cluster` and `pods`
    outside:  families with Pods outside the cluster's ranges, in the set `clusterpods`
    """
    families = tuple(families)
    in_cluster = _cluster_sets(families, outside)
    known = sorted((item for item in addresses if item.family in families), key=lambda item: item.address)
    yield names.floating_chain(""), Chain((*_untouched(families), _no_gateway()))
    for item in known:
        yield names.floating_chain(item.address), _floating_chain(item, node, mark)
    yield HELD_CHAIN, _held_chain(known, node, mark, in_cluster)
    yield GATEWAYS_CHAIN, _base_chain(mark, families, in_cluster)
    yield ARRIVAL_CHAIN, _arrival_chain(families)
    yield INPUT_CHAIN, _input_chain(families)
    yield ROUTED_CHAIN, _routed_chain(families, in_cluster)
    held = {item.family for item in known if _is_held(item, node)}
    yield FORWARD_CHAIN, _forward_chain(mark, families, in_cluster, held)


def gateway_nat_rules(mark: MarkBits) -> tuple[Rule, ...]:
    """Return the first rules of the nat chain: the holder alone translates packets that are marked for an address."""
    return (
        Rule((MarkIs(mark.routed, mark.routed),), verdict=Accept(), comment="another node holds the address"),
        Rule((MarkIs(mark.mask, 0, negated=True),), verdict=Jump(HELD_CHAIN)),
    )


def gateway_policies_chain(used: Iterable[GatewayDestinations]) -> Chain:
    """Return the chain of Pods that the same policies select and that use the same floating addresses."""
    return Chain(
        tuple(
            Rule(
                (AddressInSet(IpAddress("daddr", item.family), item.set),),
                verdict=Goto(names.floating_chain(item.address)),
            )
            for item in used
        )
    )


def gateway_set(policies: tuple[str, ...], group: ObjectRef, family: Family, ranges: Iterable[Range]) -> NamedSet:
    """Return the set of destinations of a family that these policies reach by a group."""
    elements: frozenset[Element] = frozenset(item for item in ranges if item.family == family)
    words = f"destinations that EgressNATPolicies {', '.join(policies)} reach by {group.path}"
    return NamedSet("range", family, elements, names.comment(words))


def gateway_sets(addresses: Iterable[FloatingAddress], families: Iterable[Family]) -> Iterator[tuple[str, NamedSet]]:
    """Yield the sets of floating addresses, those of all nodes."""
    known = tuple(addresses)
    for family in families:
        elements: frozenset[Element] = frozenset(item.address for item in known if item.family == family)
        yield names.set_name(FLOATING_SET, family), NamedSet("address", family, elements, "of all nodes")


def _is_held(item: FloatingAddress, node: str) -> bool:
    return item.holder == node and item.number > 0


def _cluster_sets(families: Iterable[Family], outside: Iterable[Family]) -> tuple[tuple[Family, str], ...]:
    """Return family and name of the sets that hold the cluster's addresses."""
    ranges, pods = ((family, names.set_name("cluster", family)) for family in families), set(outside)
    return (*ranges, *((family, names.set_name(CLUSTER_PODS, family)) for family in families if family in pods))


def _base_chain(mark: MarkBits, families: tuple[Family, ...], in_cluster: tuple[tuple[Family, str], ...]) -> Chain:
    """Return the chain that sends packets of Pods to the chains of their policies.

    Bits of another program are cleared: its mark must not send a Pod's packet out under a floating address.
    """
    marked = MarkIs(mark.mask, 0, negated=True)
    return Chain(
        (
            Rule((CtDirectionIs("reply"),), verdict=Accept()),
            *(
                Rule((marked, AddressInSet(IpAddress("saddr", family), name)), mark=MarkSet(mark.mask, 0))
                for family, name in in_cluster
            ),
            *(Rule((AddressInSet(IpAddress("daddr", family), name),), verdict=Accept()) for family, name in in_cluster),
            Rule((CtTranslated(),), verdict=Accept(), comment="live connections keep their translation"),
            *(Rule(verdict=VmapLookup(IpAddress("saddr", family), names.gateway_map(family))) for family in families),
        ),
        Hook("filter", "prerouting", _AFTER_DNAT),
    )


def _untouched(families: Iterable[Family]) -> Iterator[Rule]:
    for family in families:
        yield Rule((Within(IpAddress("daddr", family), LINK_SCOPE[family]),), verdict=Accept(), comment="link scope")


def _no_gateway() -> Rule:
    return Rule(counter=NO_GATEWAY_COUNTER, verdict=Drop(), comment="no node holds an address for it")


def _floating_chain(item: FloatingAddress, node: str, mark: MarkBits) -> Chain:
    """Return the chain of packets for one floating address.

    On the holder, NAT translates first packets, and those of translated connections don't come here. What is left is
    older than the address on this node: its packets would leave with the Pod's address.
    """
    untranslatable = Rule(
        (ConntrackState(("invalid", "untracked")),),
        counter=UNTRANSLATED_COUNTER,
        verdict=Drop(),
        comment="would leave with a Pod's address",
    )
    start = (*_untouched((item.family,)), untranslatable)
    if not item.holder or not item.number:
        return Chain((*start, _no_gateway()))
    if item.holder == node:
        first = Rule((CtUnconfirmed(),), mark=MarkSet(mark.mask, mark.of_held(item.number)), verdict=Accept())
        older = Rule(counter=UNTRANSLATED_COUNTER, verdict=Drop(), comment="older than the address here")
        return Chain((*start, first, older))
    own = AddressInSet(IpAddress("saddr", item.family), names.set_name("pods", item.family))
    routed = Rule((own,), mark=MarkSet(mark.mask, mark.of_routed(item.number)), verdict=Accept())
    other = Rule(counter=NOT_HOLDER_COUNTER, verdict=Drop(), comment="another node holds the address")
    return Chain((*start, routed, other))


def _held_chain(
    known: Iterable[FloatingAddress], node: str, mark: MarkBits, in_cluster: tuple[tuple[Family, str], ...]
) -> Chain:
    """Return the chain that translates packets for the addresses that this node holds.

    Only packets from the cluster are: another program may set the same bits behind the first chain. A packet that was
    marked before the commit by which its address moved away is dropped: it would leave under another one. An address
    has the same number before and after, unless another one has taken it.
    """
    numbered = sorted(
        (item for item in known if item.number), key=lambda item: (not _is_held(item, node), item.address)
    )
    return Chain(
        tuple(
            _translating(item, mark, name) if _is_held(item, node) else _late(item, mark, name)
            for item in numbered
            for family, name in in_cluster
            if family == item.family
        )
    )


def _translating(item: FloatingAddress, mark: MarkBits, sources: str) -> Rule:
    return Rule(_held_and_from(item, mark, sources), verdict=SourceNat(item.address))


def _late(item: FloatingAddress, mark: MarkBits, sources: str) -> Rule:
    matches = _held_and_from(item, mark, sources)
    return Rule(matches, counter=UNTRANSLATED_COUNTER, verdict=Drop(), comment="marked before the address moved")


def _held_and_from(item: FloatingAddress, mark: MarkBits, sources: str) -> tuple[Match, ...]:
    return MarkIs(mark.mask, mark.of_held(item.number)), AddressInSet(IpAddress("saddr", item.family), sources)


def _arrival_chain(families: tuple[Family, ...]) -> Chain:
    """Return the chain that keeps Services off the floating addresses.

    kube-proxy takes them for addresses of the node, and would send what comes to a NodePort on to a Pod.
    """
    return Chain(
        (
            Rule((CtDirectionIs("reply"),), verdict=Accept()),
            Rule((L4Proto(("icmp", "icmpv6")),), verdict=Accept()),
            *(
                Rule(
                    (AddressInSet(IpAddress("daddr", family), names.set_name(FLOATING_SET, family)),),
                    counter=TO_GATEWAY_COUNTER,
                    verdict=Drop(),
                )
                for family in families
            ),
        ),
        Hook("filter", "prerouting", _BEFORE_DNAT),
    )


def _input_chain(families: Iterable[Family]) -> Chain:
    """Return the chain that keeps services of this node off the floating addresses.

    A reply to a connection that moved, to this node or away, and isn't in its conntrack table must not meet a RST. The
    tunnel's port receives from Nodes alone: what comes out of it may leave under a floating address. And by Nodes'
    addresses alone: to any other address of this node a Pod's packet is masqueraded, and has its own node's.
    """
    to_floating = [
        AddressInSet(IpAddress("daddr", family), names.set_name(FLOATING_SET, family)) for family in families
    ]
    return Chain(
        (
            *(_tunnel_rule(side, family) for side in ("saddr", "daddr") for family in FAMILIES),
            Rule((L4Proto(("icmp", "icmpv6")),), verdict=Accept()),
            *(Rule((match,), counter=TO_GATEWAY_COUNTER, verdict=Drop()) for match in to_floating),
        ),
        Hook("filter", "input", _FILTER_PRIORITY),
    )


def _forward_chain(
    mark: MarkBits, families: tuple[Family, ...], in_cluster: tuple[tuple[Family, str], ...], held: set[Family]
) -> Chain:
    """Return the chain that drops what this node must not forward for a while, since nodes see changes one by one.

    Nothing from outside goes to a floating address. While one moves, replies come to a node that doesn't have it.
    Forwarded, one begins a conntrack entry of its own, of a connection from the server; as long as that lives, NAT here
    would give the real one another port.

    By a node that holds an address, no Pod of another node leaves the cluster without one: its node may have seen an
    object that this one has not seen yet, or no longer has, and the packets would have the Pod's address. Nodes that
    hold none get no such packets: the way to a holder leads to the floating address itself.

    A packet that is marked for another node goes there, or nowhere.
    """
    floating = {
        family: AddressInSet(IpAddress("daddr", family), names.set_name(FLOATING_SET, family)) for family in families
    }
    inside = [(floating[family], AddressInSet(IpAddress("saddr", family), name)) for family, name in in_cluster]
    return Chain(
        (
            Rule((CtDirectionIs("reply"),), verdict=Accept(), comment="to an address behind this node"),
            *(Rule(matches, verdict=Accept()) for matches in inside),
            *(Rule((match,), counter=TO_GATEWAY_COUNTER, verdict=Drop()) for match in floating.values()),
            Rule((CtTranslated(),), verdict=Accept()),
            *_untouched(families),
            Rule((MarkIs(mark.routed, mark.routed),), verdict=Goto(ROUTED_CHAIN)),
            *(_foreign_rule(mark, family, name, in_cluster) for family, name in in_cluster if family in held),
        ),
        Hook("filter", "forward", _FILTER_PRIORITY),
    )


def _routed_chain(families: Iterable[Family], in_cluster: tuple[tuple[Family, str], ...]) -> Chain:
    """Return the chain of packets that another node is to translate: they leave by the routes to holders only.

    Where another program has removed our routing rules, the main table would let them out with the Pod's address. The
    next hop is the floating address, or the holder's own while this node still has the floating address itself.
    """
    to_holder: tuple[tuple[Match, ...], ...] = (
        (ToInterface(TUNNEL_LINK),),
        *(
            (NextHopInSet(family, names.set_name(name, family)),)
            for name in (FLOATING_SET, NODES)
            for family in families
        ),
    )
    return Chain(
        (
            *(Rule(matches, verdict=Accept()) for matches in to_holder),
            *(
                Rule(
                    (AddressInSet(IpAddress("saddr", family), name),),
                    counter=NO_GATEWAY_COUNTER,
                    verdict=Drop(),
                    comment="no route to the holder",
                )
                for family, name in in_cluster
            ),
        )
    )


def _foreign_rule(mark: MarkBits, family: Family, name: str, in_cluster: tuple[tuple[Family, str], ...]) -> Rule:
    """Return the rule that drops unmarked packets of other nodes' Pods, of a set of addresses, to outside."""
    source, destination = IpAddress("saddr", family), IpAddress("daddr", family)
    here = [names.set_name("pods", family), names.set_name(NODES, family)]
    inside = [other for of, other in in_cluster if of == family]
    return Rule(
        (
            MarkIs(mark.mask, 0),
            AddressInSet(source, name),
            *(AddressInSet(source, other, negated=True) for other in here),
            *(AddressInSet(destination, other, negated=True) for other in inside),
        ),
        counter=NOT_HOLDER_COUNTER,
        verdict=Drop(),
        comment="of a Pod of another node, which takes this one for the holder",
    )


def _tunnel_rule(side: Literal["saddr", "daddr"], family: Family) -> Rule:
    others = AddressInSet(IpAddress(side, family), names.set_name(NODES, family), negated=True)
    return Rule(
        (PacketPort("udp", TUNNEL_PORT, TUNNEL_PORT), others),
        counter=TUNNEL_COUNTER,
        verdict=Drop(),
        comment="only Nodes speak to Nodes' tunnels",
    )
