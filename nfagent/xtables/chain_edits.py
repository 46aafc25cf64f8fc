"""Turns a chain that is there into another one by a few of its rules, in place of all of them.

Each rule costs iptables-restore more than a rule of the table that it leaves alone: it looks up the sets and counters
that the rule names.
"""

from __future__ import annotations

from collections.abc import Iterator

from nfagent.xtables.objects import XtChain
from nfagent.xtables.text import rule_text, rule_words


def edits(name: str, before: XtChain, after: XtChain) -> tuple[str, ...] | None:
    """Return the lines that delete and insert rules; None where writing the chain anew takes no more of them."""
    was, will = frozenset(before.rules), frozenset(after.rules)
    if len(was) != len(before.rules) or len(will) != len(after.rules):
        return None  # which of two equal rules is deleted isn't known
    if len(was ^ will) >= len(will):
        return None
    if [rule for rule in before.rules if rule in will] != [rule for rule in after.rules if rule in was]:
        return None
    return tuple(_lines(name, before, after, was, will))


def _lines(
    name: str, before: XtChain, after: XtChain, was: frozenset[object], will: frozenset[object]
) -> Iterator[str]:
    for rule in before.rules:
        if rule not in will:
            yield " ".join(("-D", name, *rule_words(rule)))
    for place, rule in enumerate(after.rules, 1):
        if rule not in was:
            yield rule_text(name, rule, place)
