"""From policies' terms to nftables': classes become chains, peers become sets.

    forward-egress, input-egress, forward-ingress    base chains: short ways out, then dispatch by map
    egress4/6, ingress4/6                            verdict maps: a Pod's address -> its class chain
    ingress/NS/POLICIES, egress/NS/POLICIES          class chains: rules in order, then the deny
    allow/DIRECTION/NS/POLICY                        outcome chains: count, log once, accept
    peers*/..., blocks*/..., ports*/...              what rules name, one set per distinct content
    masquerade-pods, pods*, cluster*, nonmasq*       translation of what leaves the cluster

Egress and ingress are base chains of their own, one after the other, so that `accept` in one is a verdict
for that direction only (corner-cases.md 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from nfagent.cluster.address import FAMILIES, Family, Range
from nfagent.cluster.model import DIRECTIONS, Direction, Ref
from nfagent.egress.plan import MasqueradePlan
from nfagent.policy.compile import Blocks, ClassKey, ClassRule, NamedPorts
from nfagent.policy.model import PodPeer, PolicyPort
from nfagent.ruleset import names
from nfagent.ruleset.objects import (
    Accept,
    Chain,
    Connection,
    ConntrackState,
    Dispatch,
    Drop,
    Element,
    End,
    Goto,
    Hook,
    Icmpv6Type,
    InSet,
    Log,
    Masquerade,
    Match,
    NamedPort,
    NamedSet,
    Packet,
    ProtocolIs,
    Rule,
    ServerPort,
    SetKind,
    Unconfirmed,
    VerdictMap,
)

EGRESS_PRIORITY = -2
INGRESS_PRIORITY = -1
SRCNAT_PRIORITY = 100
_PEER_END: dict[Direction, End] = {"ingress": "client", "egress": "server"}
_NEVER_BLOCKED = (
    "mld-listener-query",
    "mld-listener-report",
    "mld-listener-done",
    "nd-router-solicit",
    "nd-router-advert",
    "nd-neighbor-solicit",
    "nd-neighbor-advert",
    "nd-redirect",
    "mld2-listener-report",
)


class LogPlan(msgspec.Struct, frozen=True):
    """Which final verdicts are copied to NFLOG, and to which group."""

    allow: bool = False
    deny: bool = False
    group: int = 100


Content: TypeAlias = PodPeer | Blocks | NamedPorts
"""What a set holds, in the terms of policies."""

Contents: TypeAlias = dict[str, Content]
"""Set name -> what it holds."""


def base_chains() -> Iterator[tuple[str, Chain]]:
    """Give the chains that every ruleset has."""
    yield "forward-egress", _judging_chain("egress", Hook("filter", "forward", EGRESS_PRIORITY))
    yield "input-egress", _judging_chain("egress", Hook("filter", "input", EGRESS_PRIORITY))
    yield "forward-ingress", _judging_chain("ingress", Hook("filter", "forward", INGRESS_PRIORITY))
    for direction in DIRECTIONS:
        yield f"stray-{direction}", _stray_chain(direction)


def _judging_chain(direction: Direction, hook: Hook) -> Chain:
    end: End = "client" if direction == "egress" else "server"
    return Chain(
        (
            Rule((ConntrackState(("established",)),), verdict=Accept()),
            Rule(
                (ConntrackState(("related",)), ProtocolIs(("icmp", "ipv6-icmp"))),
                verdict=Accept(),
                comment="errors about connections that were allowed",
            ),
            Rule((ConntrackState(("invalid", "untracked")),), verdict=Goto(f"stray-{direction}")),
            *(Rule(verdict=Dispatch(Connection(end, family), f"{direction}{family}")) for family in FAMILIES),
        ),
        hook,
    )


def _stray_chain(direction: Direction) -> Chain:
    """Judge packets without a conntrack entry by their own address.

    No rule about a connection matches them, so isolation holds; a rule that lets everybody in, or a whole
    protocol, lets them in too.
    """
    return Chain(
        (
            Rule((Icmpv6Type(_NEVER_BLOCKED),), verdict=Accept(), comment="neighbour discovery is never blocked"),
            *(
                Rule(
                    verdict=Dispatch(
                        Packet("saddr" if direction == "egress" else "daddr", family), f"{direction}{family}"
                    )
                )
                for family in FAMILIES
            ),
        )
    )


def class_chain(
    key: ClassKey, rules: Iterable[ClassRule], families: tuple[Family, ...], log: LogPlan
) -> tuple[Chain, Contents]:
    """Write a class's chain, for the families of its Pods' addresses, and say which sets it names."""
    contents: Contents = {}
    lowered = [written for rule in rules for written in _lower_rule(key.direction, rule, families, contents)]
    deny = Rule(
        counter=names.deny_counter(key),
        log=Log(names.log_prefix("deny", key.direction, key.policies), log.group) if log.deny else None,
        verdict=Drop(),
        comment=names.comment(f"isolated by {', '.join(ref.path for ref in key.policies)}"),
    )
    return Chain((*lowered, deny)), contents


def _lower_rule(
    direction: Direction, rule: ClassRule, families: tuple[Family, ...], contents: Contents
) -> Iterator[Rule]:
    """Write a rule once for each family that it can match, or once for both where it names no address."""
    verdict = Goto(names.allow_chain(direction, rule.policy))
    comment = names.comment(f"{rule.policy.path} {direction}[{rule.index}]")
    if rule.peer is None and not isinstance(rule.port, NamedPorts):
        yield Rule(_port_matches(rule.port), verdict=verdict, comment=comment)
        return
    for family in families:
        if isinstance(rule.peer, Blocks) and not rule.peer.family(family):
            continue
        matches: list[Match] = []
        # On egress the named ports are those of the peers already: one look-up says both.
        if rule.peer is not None and not (direction == "egress" and isinstance(rule.port, NamedPorts)):
            name = names.content_name(rule.peer, family)
            contents[name] = rule.peer
            matches.append(InSet(Connection(_PEER_END[direction], family), name))
        if isinstance(rule.port, NamedPorts):
            name = names.content_name(rule.port, family)
            contents[name] = rule.port
            matches.append(NamedPort(family, name))
        else:
            matches.extend(_port_matches(rule.port))
        yield Rule(tuple(matches), verdict=verdict, comment=comment)


def _port_matches(port: PolicyPort | NamedPorts | None) -> tuple[Match, ...]:
    if not isinstance(port, PolicyPort):
        return ()
    protocol = ProtocolIs((port.protocol,))
    return (protocol, ServerPort(port.first, port.last)) if port.first else (protocol,)


def allow_chain(direction: Direction, policy: Ref, log: LogPlan) -> Chain:
    """Write a policy's outcome chain."""
    accept = Rule(counter=names.allow_chain(direction, policy), verdict=Accept())
    if not log.allow:
        return Chain((accept,))
    # A one-way UDP stream stays 'new': only the packet that makes the entry is the new connection.
    once = Rule((Unconfirmed(),), log=Log(names.log_prefix("allow", direction, (policy,)), log.group))
    return Chain((once, accept))


def verdict_maps() -> Iterator[tuple[str, VerdictMap]]:
    """Give the maps that every ruleset has, without elements."""
    for direction in DIRECTIONS:
        for family in FAMILIES:
            yield names.set_name(direction, family), VerdictMap(family, {})


def set_shape(name: str, content: Content) -> NamedSet:
    """Give the set for a content, with the elements that need no Pods: ranges."""
    family: Family = 6 if name.partition("/")[0].endswith("6") else 4
    if isinstance(content, Blocks):
        return NamedSet("range", family, frozenset(content.family(family)), names.comment(content.words))
    kind: SetKind = "port" if isinstance(content, NamedPorts) else "address"
    return NamedSet(kind, family, frozenset(), names.comment(str(content)))


def masquerade_chain(plan: MasqueradePlan) -> Chain:
    """Write the chain that translates what leaves the cluster."""
    rules = [
        Rule(
            (
                InSet(Packet("saddr", family), names.set_name("pods", family)),
                InSet(Packet("daddr", family), names.set_name("cluster", family), negated=True),
                InSet(Packet("daddr", family), names.set_name("nonmasq", family), negated=True),
            ),
            verdict=Masquerade(plan.random_fully),
        )
        for family in FAMILIES
        if any(item.family == family for item in plan.sources)
    ]
    return Chain(tuple(rules), Hook("nat", "postrouting", SRCNAT_PRIORITY))


def masquerade_sets(plan: MasqueradePlan) -> Iterator[tuple[str, NamedSet]]:
    """Give the sets that the masquerade chain names, with their ranges."""
    described: tuple[tuple[str, tuple[Range, ...], str], ...] = (
        ("pods", plan.sources, "Pods of this node"),
        ("cluster", plan.cluster, "Pods, nodes and Services: never translated"),
        ("nonmasq", plan.exempt, "destinations that see Pod addresses, by ip-masq-agent configuration"),
    )
    for family in {item.family for item in plan.sources}:
        for word, ranges, comment in described:
            elements: frozenset[Element] = frozenset(item for item in ranges if item.family == family)
            yield names.set_name(word, family), NamedSet("range", family, elements, comment)
