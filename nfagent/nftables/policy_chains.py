"""From policies' terms to nftables': classes become chains, peers become sets.

    ingress/NS/POLICIES, egress/NS/POLICIES          class chains: admin tier, rules, then deny or baseline
    admin/DIRECTION/..., baseline/DIRECTION/...      section chains: one tier's rules, shared among classes
    policy/DIRECTION/NS/POLICY                       the same of one NetworkPolicy that has more than a few rules
    stray/...                                        the same for packets without a conntrack entry, where that differs
    allow/DIRECTION/..., deny/DIRECTION/...          outcome chains: count, log, accept or drop
    peers*/..., nodes*/..., blocks*/..., ports*/...  what rules name, one set per distinct content; numbers/...: ports

The maps of `base` lead to the class chains; `translation` has the chains and sets of masquerade.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Literal, TypeAlias

import msgspec

from nfagent.model.admin_policy import NodePeer
from nfagent.model.netaddr import Family
from nfagent.model.networkpolicy import PodPeer, PolicyPort
from nfagent.model.objects import Direction
from nfagent.nftables import names
from nfagent.nftables.base_chains import UNTRACKED_COUNTER
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtAddress,
    CtDirection,
    CtDirectionIs,
    CtEnd,
    CtUnconfirmed,
    Fragment,
    IpAddress,
    L4Proto,
    Match,
    NamedPort,
    PacketNamedPort,
    PacketPort,
    PacketPortIn,
    ServerPort,
    ServerPortIn,
)
from nfagent.nftables.objects import (
    Accept,
    Chain,
    Drop,
    Goto,
    Jump,
    Log,
    NamedSet,
    PortRange,
    Return,
    Rule,
    SetKind,
    Verdict,
)
from nfagent.nftables.verdict_keys import VerdictKey, allowed_by, denied_by
from nfagent.policy.compiler import CIDRSet, CompiledRule, NamedPorts, PolicySetKey, TierChainKey
from nfagent.policy.merged_peers import AnyOf, PortNumbers

_WAYS: tuple[CtDirection, CtDirection] = ("original", "reply")
_PEER_END: dict[Direction, CtEnd] = {"ingress": "client", "egress": "server"}
_PEER_SIDE: dict[Direction, Literal["saddr", "daddr"]] = {"ingress": "saddr", "egress": "daddr"}

AddressSource: TypeAlias = Literal["connection", "packet"]
"""What rules match: the connection, or, of a packet without a conntrack entry, its own addresses and ports."""


class LogConfig(msgspec.Struct, frozen=True):
    """Which final verdicts are copied to NFLOG, and to which group."""

    allow: bool = False
    deny: bool = False
    group: int = 100


SetContent: TypeAlias = PodPeer | NodePeer | AnyOf | CIDRSet | NamedPorts | PortNumbers
"""What a set holds, in the terms of policies."""

SetContents: TypeAlias = dict[str, SetContent]
"""Set name -> what it holds."""


class RenderedChain(msgspec.Struct, frozen=True):
    """A chain, and what has to be there for it.

    contents: the sets that it names
    closing:  those of them whose gain of an element can end a connection: named by a deny or a pass
    outcomes: what its rules go to
    """

    chain: Chain
    contents: SetContents
    closing: frozenset[str]
    outcomes: frozenset[VerdictKey]


def names_ends(rules: Iterable[CompiledRule]) -> bool:
    """Tell whether any rule names a peer or a port number: then it reads otherwise for a connection than for a packet.

    Where none does, one chain serves packets with and without a conntrack entry.
    """
    return any(rule.peer is not None or _names_port(rule) for rule in rules)


def _names_port(rule: CompiledRule) -> bool:
    return isinstance(rule.port, NamedPorts | PortNumbers) or (rule.port is not None and bool(rule.port.first))


def class_chain(
    key: PolicySetKey,
    rules: Iterable[CompiledRule],
    families: tuple[Family, ...],
    reading: AddressSource = "connection",
    *,
    sections: Collection[TierChainKey] = (),
    strays: Collection[TierChainKey] = (),
) -> RenderedChain:
    """Write a class's chain, for the families of its Pods' addresses: admin tier, NetworkPolicies, baseline tier.

    Where a section doesn't decide, it comes back; where nothing decides, the packet passes.

    rules:  of NetworkPolicies that are no sections of their own
    strays: those of its sections that read otherwise for a packet than for a connection
    """
    rules = tuple(rules)
    jumps: dict[str, list[Rule]] = {"admin": [], "policy": [], "baseline": []}
    for section in sections:
        chain_name = names.section_chain(section)
        stray_section = reading == "packet" and section in strays
        jumps[section.tier].append(Rule(verdict=Jump(names.stray_chain(chain_name) if stray_section else chain_name)))
    before, after = jumps["admin"], jumps["baseline"]
    if reading == "connection" and (strays or names_ends(rules)):
        stray = Rule(
            (ConntrackState(("invalid", "related", "untracked")),),
            verdict=Goto(names.stray_chain(names.class_chain(key))),
            comment="judged by its own addresses and ports",
        )
        before.insert(0, stray)
    outcomes: set[VerdictKey] = set()
    if key.policies:
        denial = denied_by(key.direction, key.policies)
        outcomes.add(denial)
        comment = names.comment(f"isolated by {', '.join(ref.path for ref in key.policies)}")
        after = [Rule(verdict=Goto(denial.name), comment=comment)]
    written = _rules_chain(key.direction, rules, families, reading)
    chain = Chain((*before, *written.chain.rules, *jumps["policy"], *after))
    return msgspec.structs.replace(written, chain=chain, outcomes=written.outcomes | outcomes)


def section_chain(
    key: TierChainKey,
    rules: Iterable[CompiledRule],
    families: tuple[Family, ...],
    reading: AddressSource = "connection",
) -> RenderedChain:
    """Write a part of classes: the first rule that matches decides, or passes, which is to come back."""
    rules = tuple(rules)
    written = _rules_chain(key.direction, rules, families, reading)
    if reading == "packet" and any(rule.action != "allow" and _names_port(rule) for rule in rules):
        chain = Chain((*map(_portless, families), *written.chain.rules))
        return msgspec.structs.replace(written, chain=chain)
    return written


def _portless(family: Family) -> Rule:
    return Rule(
        (Fragment(family),),
        counter=UNTRACKED_COUNTER,
        verdict=Drop(),
        comment="no rule that denies a port could tell whether it is meant",
    )


def _rules_chain(
    direction: Direction, rules: Iterable[CompiledRule], families: tuple[Family, ...], reading: AddressSource
) -> RenderedChain:
    lowered: list[Rule] = []
    contents: SetContents = {}
    closing: set[str] = set()
    outcomes: set[VerdictKey] = set()
    for rule in rules:
        named: SetContents = {}
        verdict = _verdict(direction, rule, outcomes)
        comment = names.rule_comment(direction, rule)
        found = _matches(direction, rule, families, named, reading)
        lowered += [Rule(matches, verdict=verdict, comment=comment) for matches in found]
        contents |= named
        if rule.action != "allow":
            closing |= {name for name, content in named.items() if not isinstance(content, PortNumbers)}
    return RenderedChain(Chain(tuple(lowered)), contents, frozenset(closing), frozenset(outcomes))


def _verdict(direction: Direction, rule: CompiledRule, outcomes: set[VerdictKey]) -> Verdict:
    if rule.action == "pass":
        return Return()
    outcome = (allowed_by if rule.action == "allow" else denied_by)(direction, (rule.policy,))
    outcomes.add(outcome)
    return Goto(outcome.name)


def _matches(
    direction: Direction,
    rule: CompiledRule,
    families: tuple[Family, ...],
    contents: SetContents,
    reading: AddressSource,
) -> Iterator[tuple[Match, ...]]:
    """Give a rule's matches once for each family that it can match, or once for both where it names no address."""
    if rule.peer is None and not isinstance(rule.port, NamedPorts):
        yield _port_matches(rule.port, reading, contents)
        return
    for family in families:
        if isinstance(rule.peer, CIDRSet) and not rule.peer.family(family):
            continue
        matches: list[Match] = []
        # On egress the named ports are those of the peers already: one look-up says both.
        if rule.peer is not None and not (direction == "egress" and isinstance(rule.port, NamedPorts)):
            name = names.content_name(rule.peer, family)
            contents[name] = rule.peer
            matches.append(AddressInSet(_peer_key(direction, family, reading), name))
        if not isinstance(rule.port, NamedPorts):
            yield (*matches, *_port_matches(rule.port, reading, contents))
            continue
        name = names.content_name(rule.port, family)
        contents[name] = rule.port
        if reading == "packet":
            yield (*matches, PacketNamedPort(family, name))
            continue
        for way in _WAYS:
            yield (CtDirectionIs(way), *matches, NamedPort(family, name, way))


def _peer_key(direction: Direction, family: Family, reading: AddressSource) -> CtAddress | IpAddress:
    if reading == "packet":
        return IpAddress(_PEER_SIDE[direction], family)
    return CtAddress(_PEER_END[direction], family)


def _port_matches(
    port: PolicyPort | PortNumbers | None, reading: AddressSource, contents: SetContents
) -> tuple[Match, ...]:
    if port is None or port.protocol == "any":
        return ()
    if isinstance(port, PortNumbers):
        name = names.content_name(port, 4)
        contents[name] = port
        if reading == "packet":
            return (PacketPortIn(port.protocol, name),)
        return (L4Proto((port.protocol,)), ServerPortIn(name))
    if port.first and reading == "packet":
        return (PacketPort(port.protocol, port.first, port.last),)
    protocol = L4Proto((port.protocol,))
    return (protocol, ServerPort(port.first, port.last)) if port.first else (protocol,)


def outcome_chain(outcome: VerdictKey, log: LogConfig) -> Chain:
    """Write what policies decided: count, log where that is switched on, accept or drop."""
    if outcome.disposition == "deny":
        if not log.deny:
            return Chain((Rule(counter=outcome.name, verdict=Drop()),))
        # Under re-check a server's packets are judged too: nothing in a packet says that it is one of these.
        return Chain(
            (
                Rule((CtDirectionIs("reply"),), outcome.name, Log(outcome.reply_prefix, log.group), Drop()),
                Rule(counter=outcome.name, log=Log(outcome.prefix, log.group), verdict=Drop()),
            )
        )
    accept = Rule(counter=outcome.name, verdict=Accept())
    if not log.allow:
        return Chain((accept,))
    # A one-way UDP stream stays 'new': only the packet that makes the entry is the new connection.
    return Chain((Rule((CtUnconfirmed(),), log=Log(outcome.prefix, log.group)), accept))


def set_shape(name: str, content: SetContent) -> NamedSet:
    """Give the set for a content, with the elements that need no Pods: ranges."""
    family: Family = 6 if name.partition("/")[0].endswith("6") else 4
    if isinstance(content, CIDRSet):
        return NamedSet("range", family, frozenset(content.family(family)), names.comment(content.words))
    if isinstance(content, PortNumbers):
        ports = frozenset(PortRange(first, last) for first, last in content.ranges)
        return NamedSet("ports", family, ports, names.comment(str(content)))
    kind: SetKind = "port" if isinstance(content, NamedPorts) else "address"
    return NamedSet(kind, family, frozenset(), names.comment(str(content)))
