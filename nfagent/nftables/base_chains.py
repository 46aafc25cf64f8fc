"""The chains, maps and sets that every ruleset has: early accepts, and dispatch to the chains of policy sets.

Egress and ingress are base chains of their own, one after the other, so that `accept` in one is a verdict
for that direction only (docs/semantics.md, edge case 1).
"""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.model.netaddr import FAMILIES, Family
from nfagent.model.objects import DIRECTIONS, Direction
from nfagent.nftables import interface_chains, names
from nfagent.nftables.icmp_errors import error_chain, error_rule
from nfagent.nftables.link_scope import (
    MULTICAST_COUNTER,
    discovery,
    link_local_rules,
    link_scope_chains,
    multicast_rules,
)
from nfagent.nftables.matches import (
    AddressInSet,
    ConntrackState,
    CtAddress,
    CtDirectionIs,
    CtEnd,
    CtFlowInSet,
    FamilyInSet,
    FibLocalSource,
    IpAddress,
    Match,
    NotLoopback,
    SetUpdate,
    TcpReset,
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
from nfagent.nftables.unknown_pods import unknown_pods_rule
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
    MULTICAST_COUNTER,
    REVOKED_COUNTER,
    interface_chains.SPOOFED_COUNTER,
    UNTRACKED_COUNTER,
    *interface_chains.LINK_COUNTERS,
)
_ENDS: tuple[CtEnd, CtEnd] = ("client", "server")


def base_chains(policy_options: PolicyOptions, level: int = 0) -> Iterator[tuple[str, Chain]]:
    """Yield the chains that every ruleset has; for a level above 0, those that look up the maps of this level.

    A Pod address with several policy sets has an entry in the maps of several levels.
    """
    policy_hooks: list[tuple[Direction, HookName]] = [(direction, "forward") for direction in DIRECTIONS]
    policy_hooks += [(direction, "output") for direction in DIRECTIONS]
    output_rules = () if level else tuple(map(_revoked_rule, FAMILIES))
    if policy_options.own_node == "judged":
        policy_hooks.append(("egress", "input"))
        output_rules += tuple(rule for family in FAMILIES for rule in _host_reply_rules(family, level))
    for direction, hook in policy_hooks:
        chain = _policy_base_chain(direction, Hook("filter", hook, _PRIORITY[direction]), level, policy_options)
        yield names.at_level(f"{hook}-{direction}", level), chain
    if output_rules:
        yield names.at_level("output-revoked", level), Chain(output_rules, Hook("filter", "output", EGRESS_PRIORITY))
    for direction in DIRECTIONS:
        untracked = names.at_level(f"stray-{direction}", level)
        yield untracked, _untracked_chain(direction, level)
        yield error_chain(direction, level, untracked)
    if not level:
        yield from link_scope_chains()
        yield from interface_chains.link_chains(policy_options, EGRESS_PRIORITY)


def _policy_base_chain(direction: Direction, hook: Hook, level: int, policy_options: PolicyOptions) -> Chain:
    end: CtEnd = "client" if direction == "egress" else "server"
    source_rules: tuple[Rule, ...] = (_spoofed(hook, policy_options),) if direction == "egress" and not level else ()
    if hook.name == "output":
        source_rules = (Rule((FibLocalSource(),), verdict=Accept(), comment="the node always reaches its own Pods"),)
    forwarding = (direction, hook.name, level) == ("egress", "forward", 0)
    revoking = direction == "egress" and hook.name != "output" and not level
    first, interface_rules = _interface_rules(direction, hook, policy_options) if not level else ((), ())
    forward_drops = (*map(_revoked_rule, FAMILIES), *multicast_rules()) if forwarding else ()
    unknown_rules = (unknown_pods_rule(),) if forwarding and policy_options.holds_unknown else ()
    untracked = names.at_level(f"stray-{direction}", level)
    no_recheck = (ConntrackState(("established",)), FamilyInSet(RECHECKING, negated=True))
    return Chain(
        (
            *first,
            Rule(no_recheck, verdict=Accept()),
            *(link_local_rules() if forwarding else ()),
            *(Rule(_not_in_recheck(family), verdict=Accept()) for family in FAMILIES),
            *(map(_reset_rule, FAMILIES) if revoking else ()),
            *source_rules,
            *interface_rules,
            *forward_drops,
            *unknown_rules,
            error_rule(direction, level),
            Rule((ConntrackState(("invalid", "untracked")),), verdict=Goto(untracked)),
            *(
                Rule(verdict=VmapLookup(CtAddress(end, family), names.policy_set_map(direction, family, level)))
                for family in FAMILIES
            ),
        ),
        hook,
    )


def _interface_rules(
    direction: Direction, hook: Hook, policy_options: PolicyOptions
) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """Return the rules on the incoming interface: those before the early accepts, and those after them."""
    if direction == "ingress" or hook.name == "output":
        return (), ()
    if hook.name == "input":
        return tuple(interface_chains.first_input_rules(policy_options)), tuple(
            interface_chains.input_rules(policy_options)
        )
    return (), tuple(interface_chains.forward_rules())


def _host_reply_rules(family: Family, level: int) -> Iterator[Rule]:
    """Yield the rules for replies of a server on the node to a Pod, while client or server is under re-check."""
    for end in _ENDS:
        rechecked = (
            ConntrackState(("established",)),
            FamilyInSet(RECHECKING),
            AddressInSet(CtAddress(end, family), names.set_name(RECHECK, family)),
        )
        yield Rule(
            rechecked, verdict=VmapLookup(CtAddress("client", family), names.policy_set_map("egress", family, level))
        )


def _not_in_recheck(family: Family) -> tuple[Match, ...]:
    """Return the matches of an established connection with neither end under re-check."""
    unchanged = (AddressInSet(CtAddress(end, family), names.set_name(RECHECK, family), negated=True) for end in _ENDS)
    return (ConntrackState(("established",)), *unchanged)


def _spoofed(hook: Hook, policy_options: PolicyOptions) -> Rule:
    """Return the rule that drops packets with a source address of the node: no policy would apply to them.

    The node's own packets pass neither hook, except input on the loopback interface (docs/semantics.md, edge case 39).
    """
    if hook.name == "input":
        return interface_chains.spoofed(NotLoopback())
    return interface_chains.spoofed(*interface_chains.not_from_pod_link(policy_options))


def _revoked_rule(family: Family) -> Rule:
    """Return the rule that drops packets of a server in a revoked connection, by its reply tuple.

    Without the conntrack entry such a packet looks like a new connection, or is invalid or untracked: a RST or FIN, or
    any packet if conntrack doesn't pick up connections midway. A policy may allow the server's Pod to connect to the
    client, but these packets belong to the client's connection.
    """
    name = names.set_name(REVOKED, family)
    return Rule(
        (ConntrackState(("invalid", "new", "untracked")), CtFlowInSet(family, name), SetUpdate(family, name)),
        counter=REVOKED_COUNTER,
        verdict=Drop(),
        comment="goes on with a connection that a change ended",
    )


def _reset_rule(family: Family) -> Rule:
    """Return the rule that adds the reply tuple to the set of revoked ones where a client resets. No verdict.

    It comes after the accepts: the connection is under re-check. Its policies may drop the reset, so that the server
    goes on, while conntrack forgets the connection with the client's next SYN. If they allow the reset, the element has
    no effect: the server is silent, and replies in a new connection with the same ports are established.
    """
    reset = (ConntrackState(("established",)), CtDirectionIs("original"), TcpReset())
    reply_tuple = SetUpdate(family, names.set_name(REVOKED, family), replies=True)
    return Rule((*reset, reply_tuple), comment="may end the conntrack entry")


def recheck_sets(reply_tuples: int = FLOW_SET_SIZE) -> Iterator[tuple[str, NamedSet]]:
    """Yield the sets of the re-check of established connections, without elements.

    reply_tuples: capacity of the sets of revoked reply tuples, for each family
    """
    yield RECHECKING, NamedSet("family", 4, comment="families of which any address is judged again")
    for family in FAMILIES:
        yield names.set_name(RECHECK, family), NamedSet("address", family, comment="whose connections are judged again")
        yield (
            names.set_name(REVOKED, family),
            NamedSet("flow", family, comment="ways of servers in ended connections", size=reply_tuples),
        )


def _untracked_chain(direction: Direction, level: int) -> Chain:
    """Return the chain for untracked packets, and for ICMP errors by a Pod that is no end: only headers are matched.

    The chain of a policy set continues in a chain that matches headers, if any of its rules names a peer or a port.
    """
    return Chain(
        (
            *discovery(),
            *(
                Rule(
                    verdict=VmapLookup(
                        IpAddress("saddr" if direction == "egress" else "daddr", family),
                        names.policy_set_map(direction, family, level),
                    )
                )
                for family in FAMILIES
            ),
        )
    )


def verdict_maps(level: int = 0) -> Iterator[tuple[str, VerdictMap]]:
    """Yield the verdict maps of a level, without elements."""
    for direction in DIRECTIONS:
        for family in FAMILIES:
            yield names.policy_set_map(direction, family, level), VerdictMap(family, {})
