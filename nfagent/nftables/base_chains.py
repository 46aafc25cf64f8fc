"""The chains, maps and sets that every ruleset has: short ways out, and dispatch to the classes.

Egress and ingress are base chains of their own, one after the other, so that `accept` in one is a verdict
for that direction only (corner-cases.md 1).
"""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.model.netaddr import FAMILIES, Family
from nfagent.model.objects import DIRECTIONS, Direction
from nfagent.nftables import interface_chains, names
from nfagent.nftables.icmp_errors import error_chain, error_rule
from nfagent.nftables.link_scope import GROUP_COUNTER, discovery, group_rules, link_local_rules, link_scope_chains
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtAddress,
    CtEnd,
    CtFlowInSet,
    FamilyInSet,
    FibLocalSource,
    IpAddress,
    Match,
    NotLoopback,
    SetUpdate,
)
from nfagent.nftables.objects import (
    FLOW_SET_SIZE,
    Accept,
    Chain,
    Drop,
    Goto,
    Hook,
    HookName,
    NamedSet,
    Rule,
    VerdictMap,
    VmapLookup,
)
from nfagent.policy.options import PolicyOptions

EGRESS_PRIORITY = -2
INGRESS_PRIORITY = -1
_PRIORITY: dict[Direction, int] = {"egress": EGRESS_PRIORITY, "ingress": INGRESS_PRIORITY}
RECHECK = "recheck"
RECHECKING = "rechecking"
REVOKED = "revoked"
REVOKED_COUNTER = "drop/revoked"
UNTRACKED_COUNTER = "drop/untracked"
BASE_COUNTERS = (
    GROUP_COUNTER,
    REVOKED_COUNTER,
    interface_chains.SPOOFED_COUNTER,
    UNTRACKED_COUNTER,
    *interface_chains.LINK_COUNTERS,
)
_ENDS: tuple[CtEnd, CtEnd] = ("client", "server")


def base_chains(choices: PolicyOptions, level: int = 0) -> Iterator[tuple[str, Chain]]:
    """Give the chains that every ruleset has; of a further level, those that look up its maps (see `levels`)."""
    judging: list[tuple[Direction, HookName]] = [(direction, "forward") for direction in DIRECTIONS]
    judging += [(direction, "output") for direction in DIRECTIONS]
    answers = () if level else tuple(map(_ended_flow, FAMILIES))
    if choices.own_node == "judged":
        judging.append(("egress", "input"))
        answers += tuple(rule for family in FAMILIES for rule in _own_answers(family, level))
    for direction, hook in judging:
        chain = _judging_chain(direction, Hook("filter", hook, _PRIORITY[direction]), level, choices)
        yield names.at_level(f"{hook}-{direction}", level), chain
    if answers:
        yield names.at_level("output-revoked", level), Chain(answers, Hook("filter", "output", EGRESS_PRIORITY))
    for direction in DIRECTIONS:
        stray = names.at_level(f"stray-{direction}", level)
        yield stray, _stray_chain(direction, level)
        yield error_chain(direction, level, stray)
    if not level:
        yield from link_scope_chains()
        yield from interface_chains.link_chains(choices, EGRESS_PRIORITY)


def _judging_chain(direction: Direction, hook: Hook, level: int, choices: PolicyOptions) -> Chain:
    end: CtEnd = "client" if direction == "egress" else "server"
    named: tuple[Rule, ...] = (_spoofed(hook, choices),) if direction == "egress" and not level else ()
    if hook.name == "output":
        named = (Rule((FibLocalSource(),), verdict=Accept(), comment="the node always reaches its own Pods"),)
    forwarding = (direction, hook.name, level) == ("egress", "forward", 0)
    before, by_link = _by_link(direction, hook, choices) if not level else ((), ())
    ended = (*map(_ended_flow, FAMILIES), *group_rules()) if forwarding else ()
    stray = names.at_level(f"stray-{direction}", level)
    settled = (ConntrackState(("established",)), FamilyInSet(RECHECKING, negated=True))
    return Chain(
        (
            *before,
            Rule(settled, verdict=Accept()),
            *(link_local_rules() if forwarding else ()),
            *(Rule(_beyond_recheck(family), verdict=Accept()) for family in FAMILIES),
            *named,
            *by_link,
            *ended,
            error_rule(direction, level),
            Rule((ConntrackState(("invalid", "untracked")),), verdict=Goto(stray)),
            *(
                Rule(verdict=VmapLookup(CtAddress(end, family), names.class_map(direction, family, level)))
                for family in FAMILIES
            ),
        ),
        hook,
    )


def _by_link(direction: Direction, hook: Hook, choices: PolicyOptions) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """Give the rules about a packet's interface that stand before the short ways, and those behind them."""
    if direction == "ingress" or hook.name == "output":
        return (), ()
    if hook.name == "input":
        return tuple(interface_chains.first_input_rules(choices)), tuple(interface_chains.input_rules(choices))
    return (), tuple(interface_chains.forward_rules())


def _own_answers(family: Family, level: int) -> Iterator[Rule]:
    """Judge what a server on the node itself answers a Pod, while one of the two is under re-check."""
    for end in _ENDS:
        under = (
            ConntrackState(("established",)),
            FamilyInSet(RECHECKING),
            AddressInSet(CtAddress(end, family), names.set_name(RECHECK, family)),
        )
        yield Rule(under, verdict=VmapLookup(CtAddress("client", family), names.class_map("egress", family, level)))


def _beyond_recheck(family: Family) -> tuple[Match, ...]:
    """Match the established connections that no change is about: neither end is under re-check."""
    untouched = (AddressInSet(CtAddress(end, family), names.set_name(RECHECK, family), negated=True) for end in _ENDS)
    return (ConntrackState(("established",)), *untouched)


def _spoofed(hook: Hook, choices: PolicyOptions) -> Rule:
    """Stop what says that this node has sent it: it would be judged as nobody (39).

    What the node itself sends passes neither hook, but for the input hook on its loopback interface.
    """
    if hook.name == "input":
        return interface_chains.spoofed(NotLoopback())
    return interface_chains.spoofed(*interface_chains.not_looked_at(choices))


def _ended_flow(family: Family) -> Rule:
    """Stop a server that goes on with a connection which was ended: without its entry, it looks like a new one.

    Or like none, where it hangs up, or conntrack takes up no connection in the middle.

    The server's Pod may be free to call the client's; that was never its call.
    """
    name = names.set_name(REVOKED, family)
    return Rule(
        (ConntrackState(("invalid", "new", "untracked")), CtFlowInSet(family, name), SetUpdate(family, name)),
        counter=REVOKED_COUNTER,
        verdict=Drop(),
        comment="goes on with a connection that a change ended",
    )


def recheck_sets(ways: int = FLOW_SET_SIZE) -> Iterator[tuple[str, NamedSet]]:
    """Give the sets of what is judged again although it is established, without elements (see `recheck`).

    ways: how many ways of servers in ended connections there is room for, of each family
    """
    yield RECHECKING, NamedSet("family", 4, comment="families of which any address is judged again")
    for family in FAMILIES:
        yield names.set_name(RECHECK, family), NamedSet("address", family, comment="whose connections are judged again")
        yield (
            names.set_name(REVOKED, family),
            NamedSet("flow", family, comment="ways of servers in ended connections", size=ways),
        )


def _stray_chain(direction: Direction, level: int) -> Chain:
    """Judge packets without a conntrack entry, and errors by others than ends: by their own headers alone.

    Their class sends them on to a chain whose rules match those, where any of its rules names a peer or a port.
    """
    return Chain(
        (
            *discovery(),
            *(
                Rule(
                    verdict=VmapLookup(
                        IpAddress("saddr" if direction == "egress" else "daddr", family),
                        names.class_map(direction, family, level),
                    )
                )
                for family in FAMILIES
            ),
        )
    )


def verdict_maps(level: int = 0) -> Iterator[tuple[str, VerdictMap]]:
    """Give the maps that every ruleset has, or those of a further level, without elements."""
    for direction in DIRECTIONS:
        for family in FAMILIES:
            yield names.class_map(direction, family, level), VerdictMap(family, {})
