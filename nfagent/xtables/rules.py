"""One rule of nftables as rules of iptables, of one family.

A rule has one target there. So a rule with several statements becomes several, with the same matches: what it adds to
a set, its mark, its log, then its verdict.

*Accept* never becomes ACCEPT, which would skip the rules of others. In a base chain it is RETURN: the caller is the
hook's chain. Elsewhere the packet goes to a chain that sets a bit of its mark; that one, like all that is reached by
goto, returns to where the last jump was, and there the next rule returns packets with the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec

from nfagent.model.netaddr import family_of
from nfagent.nftables.interface_chains import spoofed
from nfagent.nftables.matches import FibUnrouted, IpAddress, Match, PairInSet, SetUpdate
from nfagent.nftables.objects import (
    Accept,
    Drop,
    Goto,
    Jump,
    Log,
    Masquerade,
    Return,
    Rule,
    SourceNat,
    Verdict,
    VmapLookup,
)
from nfagent.nftables.verdict_keys import DISPOSITIONS
from nfagent.xtables.context import ACCEPT_CHAIN, Alternatives, Conjunction, RuleContext, Words, is_marked
from nfagent.xtables.dispatch import lookup_rules
from nfagent.xtables.matches import conjunctions, flow_sides
from nfagent.xtables.names import account_name, chain_name, log_prefix, set_name
from nfagent.xtables.objects import XtRule
from nfagent.xtables.options import Unavailable, UnsupportedMatchError
from nfagent.xtables.pairs import pair_match, pair_target
from nfagent.xtables.set_parts import FLOW_PARTS

_ALLOWING = tuple(f"{disposition}/" for disposition in DISPOSITIONS if disposition != "deny")
_RETURN: Words = ("-j", "RETURN")
_DROP: Words = ("-j", "DROP")
_RARE = ("pkttype",)
"""Matches of the few packets that a rule drops. Without one the rule is left out: the others are all of a Pod's."""
_ROUTE_MATCH = "rpfilter"
_TARGETS: dict[type, str] = {Masquerade: "MASQUERADE", SourceNat: "SNAT"}
SET_TARGET = "SET"
RANDOM_FULLY = "MASQUERADE --random-fully"
"""An option that programs before 1.6.2 lack."""
_WITHOUT_ROUTE = "no match rpfilter in this kernel; of packets with foreign sources, those with the node's are dropped"


class LoweredRule(msgspec.Struct, frozen=True):
    """What a rule became."""

    rules: tuple[XtRule, ...]
    unavailable: tuple[Unavailable, ...] = ()


def lower_rule(rule: Rule, context: RuleContext) -> LoweredRule:
    """Return the rules of iptables for a rule; where a match can't be had, those that allow nothing more."""
    if FibUnrouted() in rule.matches and context.options.lacks(context.family, _ROUTE_MATCH):
        return _without_route(rule, context)
    target = _TARGETS.get(type(rule.verdict), "")
    if target and context.options.lacks(context.family, target):
        lost = Unavailable(context.chain, rule.comment or target, f"no target {target} in this kernel: left out")
        return LoweredRule((), (lost,))
    updates = tuple(match for match in rule.matches if isinstance(match, SetUpdate))
    pairs = tuple(match for match in rule.matches if isinstance(match, PairInSet) and not match.negated)
    others = tuple(match for match in rule.matches if not isinstance(match, SetUpdate) and match not in pairs)
    if any(update.family != context.family for update in updates):
        return LoweredRule(())
    account = account_name(rule.counter, context.family) if rule.counter and context.options.accounts else ""
    unavailable: tuple[Unavailable, ...] = ()
    try:
        found = conjunctions(others, context)
        if pairs:
            return LoweredRule(tuple(_by_pair(rule, pairs, found, context)))
    except UnsupportedMatchError as error:
        unavailable = (_unavailable(rule, context, str(error)),)
        if _is_left_out(rule.verdict, str(error)):
            return LoweredRule((), unavailable=unavailable)
        found = conjunctions(_supported(others, context), context)
        rule = msgspec.structs.replace(rule, verdict=Drop())
    if updates and context.options.lacks(context.family, SET_TARGET):
        unavailable += (
            Unavailable(context.chain, rule.comment, f"no target {SET_TARGET} in this kernel: adds nothing"),
        )
        updates = ()
    rules = tuple(_with_statements(rule, updates, found, account, context))
    return LoweredRule(rules, unavailable)


def _without_route(rule: Rule, context: RuleContext) -> LoweredRule:
    """Return what holds of a rule where the route to a packet's source can't be asked for."""
    unavailable = (Unavailable(context.chain, rule.comment or _ROUTE_MATCH, _WITHOUT_ROUTE),)
    if not isinstance(rule.verdict, Goto):
        return LoweredRule((), unavailable)
    others = tuple(match for match in rule.matches if match != FibUnrouted())
    return LoweredRule(lower_rule(spoofed(*others), context).rules, unavailable)


def allows(verdict: Verdict | None) -> bool:
    """Return whether the verdict of a rule lets packets pass, or none does."""
    return isinstance(verdict, Accept | None) or (isinstance(verdict, Goto) and verdict.chain.startswith(_ALLOWING))


def _is_left_out(verdict: Verdict | None, match: str) -> bool:
    """Return whether a rule is left out for lack of a match; any other drops what the rest of it matches."""
    return allows(verdict) or isinstance(verdict, Masquerade | SourceNat) or match in _RARE


def _unavailable(rule: Rule, context: RuleContext, match: str) -> Unavailable:
    held = "drops in place of its verdict"
    if allows(rule.verdict):
        held = "left out: what it allows is not allowed"
    elif _is_left_out(rule.verdict, match):
        held = "left out: the rules behind it apply"
    return Unavailable(context.chain, rule.comment or match, f"no match {match} in iptables; the rule is {held}")


def _supported(matches: tuple[Match, ...], context: RuleContext) -> tuple[Match, ...]:
    """Return the matches that can be had together: what one needs may depend on the protocol that another asks for."""
    kept: tuple[Match, ...] = ()
    for match in matches:
        with suppress(UnsupportedMatchError):
            conjunctions((*kept, match), context)
            kept = (*kept, match)
    return kept


def _by_pair(rule: Rule, pairs: tuple[PairInSet, ...], found: Alternatives, context: RuleContext) -> Iterator[XtRule]:
    """Yield the jump to the chain of pairs, which accepts, and the return of what it has accepted."""
    if len(pairs) != 1 or rule.verdict != Accept() or isinstance(pairs[0].other, IpAddress):
        raise UnsupportedMatchError("PairInSet")
    if pairs[0].other.family != context.family:
        return
    target = pair_target(pairs[0].set, context.family, pairs[0].other.end)
    for conjunction in found:
        yield XtRule((*conjunction, pair_match(pairs[0].set, context.family)), target, rule.comment)
    yield accepted_return(context)


def accepted_return(context: RuleContext) -> XtRule:
    """Return the rule behind a jump: what was accepted there is accepted here."""
    return XtRule((is_marked(context.options.accepted_bit),), _RETURN)


def _with_statements(
    rule: Rule, updates: tuple[SetUpdate, ...], found: Alternatives, account: str, context: RuleContext
) -> Iterator[XtRule]:
    counted: Conjunction = (("-m", "nfacct", "--nfacct-name", account),) if account else ()
    for conjunction in found:
        for update in updates:
            for target in _update_targets(update):
                yield XtRule(conjunction, target, rule.comment)
        if rule.mark is not None:
            yield XtRule(conjunction, ("-j", "MARK", "--set-xmark", f"{rule.mark.value:#x}/{rule.mark.mask:#x}"))
        if rule.log is not None:
            yield XtRule(conjunction, _log_target(rule.log), rule.comment)
        if rule.verdict is not None or rule.counter:
            yield from _verdict_rules(rule.verdict, (*conjunction, *counted), rule.comment, context)
    if isinstance(rule.verdict, Jump) and found:
        yield accepted_return(context)


def _update_targets(update: SetUpdate) -> Iterator[Words]:
    for part, sides in zip(FLOW_PARTS, flow_sides(replies=update.replies), strict=True):
        name = set_name(update.set, update.family, part)
        yield ("-j", "SET", "--add-set", name, sides, "--exist")


def _log_target(log: Log) -> Words:
    group = ("--nflog-group", str(log.group)) if log.group else ()
    return ("-j", "NFLOG", "--nflog-prefix", log_prefix(log.prefix), *group)


def _verdict_rules(
    verdict: Verdict | None, conjunction: Conjunction, comment: str, context: RuleContext
) -> Iterator[XtRule]:
    match verdict:
        case VmapLookup(key, name):
            yield from lookup_rules(key, name, conjunction, comment, context)
        case Goto(chain) | Jump(chain):
            option = "-j" if isinstance(verdict, Jump) else "-g"
            for more, target in context.target_chains(chain):
                yield XtRule((*more, *conjunction), (option, target), comment)
        case SourceNat(address):
            if family_of(address) == context.family:
                yield XtRule(conjunction, ("-j", "SNAT", "--to-source", address), comment)
        case _:
            yield XtRule(conjunction, _terminal_target(verdict, context), comment)


def _terminal_target(verdict: Accept | Drop | Return | Masquerade | None, context: RuleContext) -> Words:
    match verdict:
        case Accept():
            return _RETURN if context.base else ("-g", chain_name(ACCEPT_CHAIN))
        case Drop():
            return _DROP
        case Return():
            return _RETURN
        case Masquerade(random_fully, ports):
            to_ports = ("--to-ports", str(ports)) if ports is not None else ()
            is_random = random_fully and not context.options.lacks(context.family, RANDOM_FULLY)
            return ("-j", "MASQUERADE", *to_ports, *(("--random-fully",) if is_random else ()))
        case None:
            return ()
