"""Renders policies as nftables objects: policy sets become chains, peers become sets.

    ingress/NS/POLICIES, egress/NS/POLICIES          policy set chains: admin tier, rules, then deny or baseline tier
    admin/DIRECTION/..., baseline/DIRECTION/...      tier chains: the rules of a tier, shared by policy sets
    policy/DIRECTION/NS/POLICY                       a tier chain of one NetworkPolicy with more than a few rules
    stray/...                                        the same chain for untracked packets, if it differs
    audit/PART/...                                   what policy sets with audited policies continue in: `audit_chains`
    allow/DIRECTION/..., deny/..., audit-deny/...    verdict chains: count, log, accept or drop
    peers*/..., nodes*/..., blocks*/..., ports*/...  sets that rules refer to, one per distinct content
    numbers/...                                      sets of port numbers

The verdict maps of `base_chains` refer to the policy set chains; `masquerade_chains` has the chains of masquerade.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
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
    FamilyInSet,
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
from nfagent.nftables.pod_counts import count_chain
from nfagent.nftables.verdict_keys import VerdictKey
from nfagent.policy.chain_plan import ChainKey, ChainPlan, Follow, Outcome, PlannedRule, Target
from nfagent.policy.compiler import CIDRSet, CompiledRule, NamedPorts, PolicySetKey
from nfagent.policy.merged_peers import AnyOf, PortNumbers

_CT_DIRECTIONS: tuple[CtDirection, CtDirection] = ("original", "reply")
_PEER_END: dict[Direction, CtEnd] = {"ingress": "client", "egress": "server"}
_PEER_SIDE: dict[Direction, Literal["saddr", "daddr"]] = {"ingress": "saddr", "egress": "daddr"}

AddressSource: TypeAlias = Literal["connection", "packet"]
"""What rules match: the tuples of the connection, or the header of an untracked packet."""


LOGGING_ALLOWS, LOGGING_DENIES = "logging-allows", "logging-denies"
"""Sets of families of which allowed, or denied, packets are logged: every family or none. No rule changes with them."""

SetContent: TypeAlias = PodPeer | NodePeer | AnyOf | CIDRSet | NamedPorts | PortNumbers
"""The content of a set, in terms of policies."""

SetContents: TypeAlias = dict[str, SetContent]
"""Set name -> content."""


class RenderedChain(msgspec.Struct, frozen=True):
    """A chain, and the objects that it refers to.

    contents: its sets
    deny_sets:  those of its sets where a new element can revoke a connection: sets of a deny or pass rule
    verdicts: the verdicts of its rules
    """

    chain: Chain
    contents: SetContents
    deny_sets: frozenset[str]
    verdicts: frozenset[VerdictKey]


def needs_untracked_chain(rules: Iterable[CompiledRule]) -> bool:
    """Return whether any rule has a peer or a port number: then untracked packets need a chain of their own.

    Without such a rule, one chain serves tracked and untracked packets.
    """
    return any(rule.peer is not None or _names_port(rule) for rule in rules)


def _names_port(rule: CompiledRule) -> bool:
    return isinstance(rule.port, NamedPorts | PortNumbers) or (rule.port is not None and bool(rule.port.first))


def untracked_rule(chain: str) -> Rule:
    """Return the rule of a policy set's chain that leads packets without a connection to their own chain."""
    return Rule(
        (ConntrackState(("invalid", "related", "untracked")),),
        verdict=Goto(names.untracked_chain(chain)),
        comment="judged by its own addresses and ports",
    )


def isolation_comment(key: PolicySetKey) -> str:
    """Return the comment of the rule by which a policy set's NetworkPolicies deny what none of them allows."""
    return names.comment(f"isolated by {', '.join(ref.path for ref in key.policies)}")


def render_policy_set(
    key: PolicySetKey,
    plan: ChainPlan,
    families: tuple[Family, ...],
    reading: AddressSource = "connection",
    *,
    untracked: Collection[ChainKey] = (),
) -> RenderedChain:
    """Return the chain of a policy set, for the families of its Pods' addresses; without a verdict the packet passes.

    untracked: those of the chains that it refers to that have another chain for untracked packets
    """
    rendered = render_chain(key.direction, plan, families, reading, untracked=untracked, comment=isolation_comment(key))
    if reading == "packet" or not needs_untracked_set(plan, untracked):
        return rendered
    chain = Chain((untracked_rule(names.policy_set_chain(key)), *rendered.chain.rules))
    return msgspec.structs.replace(rendered, chain=chain)


def needs_untracked_set(plan: ChainPlan, untracked: Collection[ChainKey]) -> bool:
    """Return whether a policy set needs another chain for untracked packets."""
    return any(chain in untracked for chain in plan.chains) or needs_untracked_chain(rule for rule, _ in plan.rules)


def render_chain(
    direction: Direction,
    plan: ChainPlan,
    families: tuple[Family, ...],
    reading: AddressSource = "connection",
    *,
    untracked: Collection[ChainKey] = (),
    comment: str = "",
) -> RenderedChain:
    """Return a chain: the first rule that matches gives the verdict, or leads on.

    untracked: those of the chains that it refers to that have another chain for untracked packets
    comment:   of the verdict at its end
    """

    def name(key: ChainKey) -> str:
        found = names.chain_name(key)
        return names.untracked_chain(found) if reading == "packet" and key in untracked else found

    def verdict(target: Target) -> Verdict:
        if isinstance(target, Outcome):
            return Goto(VerdictKey(target.disposition, direction, target.policies).name)
        if isinstance(target, Follow):
            return Jump(name(target.chain)) if target.jump else Goto(name(target.chain))
        return Return()

    before = [Rule(verdict=Jump(name(chain))) for chain in plan.before]
    if reading == "packet" and denies_port(plan.enforced):
        before[:0] = map(fragment_drop, families)
    after = [Rule(verdict=Jump(name(chain))) for chain in plan.after]
    if plan.end is not None:
        after.append(Rule(verdict=verdict(plan.end), comment=comment if isinstance(plan.end, Outcome) else ""))
    rendered = _render_rules(direction, plan.rules, families, reading, verdict)
    targets = {target for _, target in plan.rules} | {plan.end}
    return msgspec.structs.replace(
        rendered,
        chain=Chain((*before, *rendered.chain.rules, *after)),
        verdicts=frozenset(
            VerdictKey(target.disposition, direction, target.policies)
            for target in targets
            if isinstance(target, Outcome)
        ),
    )


def denies_port(rules: Iterable[CompiledRule]) -> bool:
    """Return whether any rule doesn't allow, and names a port, which fragments after the first don't have."""
    return any(rule.action != "allow" and _names_port(rule) for rule in rules)


def fragment_drop(family: Family) -> Rule:
    """Return the rule that drops untracked fragments before rules that deny a port."""
    return Rule(
        (Fragment(family),),
        counter=UNTRACKED_COUNTER,
        verdict=Drop(),
        comment="no rule that denies a port could tell whether it is meant",
    )


def _render_rules(
    direction: Direction,
    rules: Iterable[PlannedRule],
    families: tuple[Family, ...],
    reading: AddressSource,
    verdict_of: Callable[[Target], Verdict],
) -> RenderedChain:
    """Return a chain of rules alone, without its verdict keys."""
    rendered: list[Rule] = []
    contents: SetContents = {}
    closing: set[str] = set()
    for rule, target in rules:
        named: SetContents = {}
        verdict = verdict_of(target)
        comment = names.rule_comment(direction, rule)
        found = _matches(direction, rule, families, named, reading)
        rendered += [Rule(matches, verdict=verdict, comment=comment) for matches in found]
        contents |= named
        if rule.action != "allow":
            closing |= {name for name, content in named.items() if not isinstance(content, PortNumbers)}
    return RenderedChain(Chain(tuple(rendered)), contents, frozenset(closing), frozenset())


def _matches(
    direction: Direction,
    rule: CompiledRule,
    families: tuple[Family, ...],
    contents: SetContents,
    reading: AddressSource,
) -> Iterator[tuple[Match, ...]]:
    """Yield the matches of a rule once for each family, or once for both if the rule has no address."""
    if rule.peer is None and not isinstance(rule.port, NamedPorts):
        yield _port_matches(rule.port, reading, contents)
        return
    for family in families:
        if isinstance(rule.peer, CIDRSet) and not rule.peer.family(family):
            continue
        matches: list[Match] = []
        # On egress, the set of a named port has only addresses of the peers: one look-up matches both.
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
        for ct_direction in _CT_DIRECTIONS:
            yield (CtDirectionIs(ct_direction), *matches, NamedPort(family, name, ct_direction))


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


def logging_sets() -> Iterator[tuple[str, NamedSet]]:
    """Yield the sets that switch logging, without elements: nothing is logged."""
    yield LOGGING_ALLOWS, NamedSet("family", 4, comment="families of which allowed connections are logged")
    yield LOGGING_DENIES, NamedSet("family", 4, comment="families of which denied packets are logged")


def render_verdict_chain(outcome: VerdictKey, group: int) -> Chain:
    """Return the chain of a verdict: count, log to an NFLOG group where that is switched on, count by Pod and apply it.

    An audit-deny is logged where denies are, once a connection, and each packet that has no connection.
    """
    verdict = Goto(count_chain(outcome.disposition, outcome.direction))
    if outcome.disposition == "deny":
        # Under re-check the rules also drop reply packets: only the conntrack direction tells them apart.
        return Chain(
            (
                Rule((FamilyInSet(LOGGING_DENIES, negated=True),), outcome.name, verdict=verdict),
                Rule((CtDirectionIs("reply"),), outcome.name, Log(outcome.reply_prefix, group), verdict),
                Rule(counter=outcome.name, log=Log(outcome.prefix, group), verdict=verdict),
            )
        )
    # A UDP stream without replies stays 'new': only its first packet, with an unconfirmed entry, is logged.
    is_logged = FamilyInSet(LOGGING_ALLOWS if outcome.disposition == "allow" else LOGGING_DENIES)
    log = Log(outcome.prefix, group)
    first = [Rule((is_logged, CtUnconfirmed()), log=log)]
    if outcome.disposition == "audit-deny":
        # Without a conntrack entry, `ct status` matches nothing.
        first.append(Rule((is_logged, ConntrackState(("invalid", "untracked"))), log=log))
    return Chain((*first, Rule(counter=outcome.name, verdict=verdict)))


def named_set_of(name: str, content: SetContent) -> NamedSet:
    """Return the set of a content, with its ranges; elements from Pods and Nodes are added elsewhere."""
    family: Family = 6 if name.partition("/")[0].endswith("6") else 4
    if isinstance(content, CIDRSet):
        return NamedSet("range", family, frozenset(content.family(family)), names.comment(content.words))
    if isinstance(content, PortNumbers):
        ports = frozenset(PortRange(first, last) for first, last in content.ranges)
        return NamedSet("ports", family, ports, names.comment(str(content)))
    kind: SetKind = "port" if isinstance(content, NamedPorts) else "address"
    return NamedSet(kind, family, frozenset(), names.comment(str(content)))
