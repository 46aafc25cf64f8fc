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

from collections.abc import Iterator

import msgspec

from nfagent.cluster.address import FAMILIES, Family, Range
from nfagent.cluster.model import Direction, Ref
from nfagent.cluster.state import ClusterState
from nfagent.egress.plan import MasqueradePlan
from nfagent.policy.compile import (
    Blocks,
    ClassKey,
    ClassRule,
    NamedPorts,
    PodClass,
    Structure,
    peer_addresses,
    port_elements,
)
from nfagent.policy.index import PolicyIndex
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
    Ruleset,
    ServerPort,
    SetKind,
    Unconfirmed,
    VerdictMap,
)

EGRESS_PRIORITY = -2
INGRESS_PRIORITY = -1
SRCNAT_PRIORITY = 100
_DIRECTIONS: tuple[Direction, Direction] = ("egress", "ingress")
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


Contents = dict[str, PodPeer | Blocks | NamedPorts]


def lower(
    cluster: ClusterState, index: PolicyIndex, structure: Structure, masquerade: MasqueradePlan | None, log: LogPlan
) -> Ruleset:
    """Make the whole table."""
    chains = dict(_base_chains())
    contents: Contents = {}
    counters: set[str] = set()
    for pod_class in structure.classes.values():
        chains[names.class_chain(pod_class.key)] = _class_chain(pod_class, log, contents)
        counters.add(names.deny_counter(pod_class.key))
        for ref in dict.fromkeys(rule.policy for rule in pod_class.rules):
            chain = names.allow_chain(pod_class.key.direction, ref)
            chains[chain] = _allow_chain(pod_class.key.direction, ref, log)
            counters.add(chain)
    sets = {name: _content_set(cluster, index, name, content) for name, content in contents.items()}
    if masquerade is not None:
        chains["masquerade-pods"] = _masquerade_chain(masquerade)
        sets.update(_masquerade_sets(masquerade))
    return Ruleset(sets, _maps(structure), chains, frozenset(counters))


def _base_chains() -> Iterator[tuple[str, Chain]]:
    yield "forward-egress", _judging_chain("egress", Hook("filter", "forward", EGRESS_PRIORITY))
    yield "input-egress", _judging_chain("egress", Hook("filter", "input", EGRESS_PRIORITY))
    yield "forward-ingress", _judging_chain("ingress", Hook("filter", "forward", INGRESS_PRIORITY))
    for direction in _DIRECTIONS:
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
    """Judge packets without a conntrack entry: no rule about a connection matches them, so isolation holds."""
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


def _class_chain(pod_class: PodClass, log: LogPlan, contents: Contents) -> Chain:
    key = pod_class.key
    rules = [
        lowered
        for rule in pod_class.rules
        for lowered in _lower_rule(key.direction, rule, pod_class.families, contents)
    ]
    deny = Rule(
        counter=names.deny_counter(key),
        log=Log(names.log_prefix("deny", key.direction, key.policies), log.group) if log.deny else None,
        verdict=Drop(),
        comment=names.comment(f"isolated by {', '.join(ref.path for ref in key.policies)}"),
    )
    return Chain((*rules, deny))


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


def _allow_chain(direction: Direction, policy: Ref, log: LogPlan) -> Chain:
    accept = Rule(counter=names.allow_chain(direction, policy), verdict=Accept())
    if not log.allow:
        return Chain((accept,))
    # A one-way UDP stream stays 'new': only the packet that makes the entry is the new connection.
    once = Rule((Unconfirmed(),), log=Log(names.log_prefix("allow", direction, (policy,)), log.group))
    return Chain((once, accept))


def _maps(structure: Structure) -> dict[str, VerdictMap]:
    maps: dict[str, dict[str, str]] = {f"{direction}{family}": {} for direction in _DIRECTIONS for family in FAMILIES}
    for direction, assigned in structure.assigned.items():
        for address, key in assigned.items():
            maps[f"{direction}{6 if ':' in address else 4}"][address] = names.class_chain(key)
    return {name: VerdictMap(6 if name.endswith("6") else 4, elements) for name, elements in maps.items()}


def _content_set(
    cluster: ClusterState, index: PolicyIndex, name: str, content: PodPeer | Blocks | NamedPorts
) -> NamedSet:
    family: Family = 6 if name.partition("/")[0].endswith("6") else 4
    kind: SetKind
    if isinstance(content, Blocks):
        kind, words = "range", content.words
        elements: frozenset[Element] = frozenset(content.family(family))
    elif isinstance(content, NamedPorts):
        kind, words = "port", str(content)
        elements = frozenset(item for item in port_elements(cluster, content) if (":" in item[0]) == (family == 6))
    else:
        kind, words = "address", str(content)
        elements = frozenset(
            address for address in peer_addresses(cluster, index, content) if (":" in address) == (family == 6)
        )
    return NamedSet(kind, family, elements, names.comment(words))


def _masquerade_chain(plan: MasqueradePlan) -> Chain:
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


def _masquerade_sets(plan: MasqueradePlan) -> Iterator[tuple[str, NamedSet]]:
    described: tuple[tuple[str, tuple[Range, ...], str], ...] = (
        ("pods", plan.sources, "Pods of this node"),
        ("cluster", plan.cluster, "Pods, nodes and Services: never translated"),
        ("nonmasq", plan.exempt, "destinations that see Pod addresses, by ip-masq-agent configuration"),
    )
    for family in {item.family for item in plan.sources}:
        for word, ranges, comment in described:
            elements: frozenset[Element] = frozenset(item for item in ranges if item.family == family)
            yield names.set_name(word, family), NamedSet("range", family, elements, comment)


def class_of(structure: Structure, direction: Direction, address: str) -> ClassKey | None:
    """Tell which class judges an address in a direction; None where nothing isolates it."""
    return structure.assigned[direction].get(address)
