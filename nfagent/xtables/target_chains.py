"""What it does for packets of an address to be judged by one chain instead of another, read off the rules.

A chain with the rules of another one, and more of them that accept, only gives: no packet is dropped for such a rule,
at whichever place it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from nfagent.xtables.objects import ChainKey, XtRule, XtRuleset

Way: TypeAlias = Literal["none", "takes", "gives", "both"]
"""takes: packets are dropped that were accepted; gives: the other way round; both: either, or it isn't known"""

_ALLOWS = ("allow/", "audit-deny/")
_ACCEPTED = "accepted"
_DENIED = "denied"
_STRAY = "stray/"
_Rule: TypeAlias = tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]


def union(one: Way, other: Way) -> Way:
    """Return what two changes do together."""
    if other in (one, "none"):
        return one
    return other if one == "none" else "both"


def way_between(old: XtRuleset, was: ChainKey | None, new: XtRuleset, will: ChainKey | None) -> Way:
    """Return what it does to be judged by a chain of new rules, after one of old rules. None: nothing judges."""
    if was is None or will is None:
        return "none" if was == will else "takes" if was is None else "gives"
    before, after = _rules(old, was), _rules(new, will)
    way = _compared([rule for rule, _ in before], [rule for rule, _ in after])
    # Packets without a connection of their own go to another chain of the policies; it compares in the same way.
    strays = [[chain for _, chain in rules if chain is not None] for rules in (before, after)]
    if len(strays[0]) != len(strays[1]):
        return "both"
    for one, other in zip(*strays, strict=True):
        way = union(way, way_between(old, one, new, other))
    return way


def _compared(before: Sequence[_Rule], after: Sequence[_Rule]) -> Way:
    if before == after:
        return "none"
    if _has_more(after, before):
        return "gives"
    return "takes" if _has_more(before, after) else "both"


def _has_more(longer: Sequence[_Rule], shorter: Sequence[_Rule]) -> bool:
    """Return whether rules are those of another chain, and more of them that accept."""
    place = 0
    for rule in longer:
        if place < len(shorter) and rule == shorter[place]:
            place += 1
        elif rule[1] != (_ACCEPTED,):
            return False
    return place == len(shorter)


def _rules(ruleset: XtRuleset, key: ChainKey) -> list[tuple[_Rule, ChainKey | None]]:
    """Return what each rule of a chain matches and does; and the chain of strays that it leads to."""
    chain = ruleset.chains.get(key)
    return [_read(ruleset, key, rule) for rule in (chain.rules if chain is not None else ())]


def _read(ruleset: XtRuleset, key: ChainKey, rule: XtRule) -> tuple[_Rule, ChainKey | None]:
    if rule.target[:1] != ("-g",):
        return (rule.matches, rule.target), None
    led: ChainKey = (*key[:2], rule.target[1])
    chain = ruleset.chains.get(led)
    origin = chain.origin if chain is not None else ""
    if origin.startswith(_STRAY):
        return (rule.matches, (_STRAY,)), led
    if origin.startswith(_ALLOWS):
        return (rule.matches, (_ACCEPTED,)), None
    return (rule.matches, (_DENIED,) if origin.startswith("deny/") else rule.target), None
