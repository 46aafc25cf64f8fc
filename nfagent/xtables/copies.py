"""Rules that refer to copies of sets: sets with another name, whose members change before the rules lead to them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nfagent.xtables.objects import XtChain, XtRule


def with_copies(chain: XtChain, copies: Mapping[str, str]) -> XtChain:
    """Return a chain whose rules refer to copies, by the names of the sets; the same one where none refers to these."""
    if chain.refers_to.isdisjoint(copies):
        return chain
    return msgspec.structs.replace(chain, rules=tuple(_rule_with_copies(rule, copies) for rule in chain.rules))


def _rule_with_copies(rule: XtRule, copies: Mapping[str, str]) -> XtRule:
    matches = tuple(
        tuple(copies.get(word, word) for word in match) if match[:2] == ("-m", "set") else match
        for match in rule.matches
    )
    target = rule.target
    if target[:2] == ("-j", "SET"):
        target = tuple(copies.get(word, word) for word in target)
    return msgspec.structs.replace(rule, matches=matches, target=target)
