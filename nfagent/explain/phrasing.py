"""The text of a verdict: for each tier, the policies that apply and the results of their decisive rules.

A line reads `NetworkPolicy shop/db isolates ingress; rule 2 of 3 allows from pods app=web in namespace shop on
5432/tcp: matches`. Rules that didn't match are listed if that decided, the closest ones first; the rest is counted, so
that the text stays short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from nfagent.errors import ValidationIssue
from nfagent.model.admin_policy import LAST_PRIORITY, Policy, TierPolicy
from nfagent.model.objects import Direction, ObjectRef
from nfagent.policy.evaluator import DirectionVerdict, Flow, RuleOutcome, TierResult

MISSES_SHOWN = 12
"""Rules of one policy that are listed although they didn't match."""

_POLICIES_SHOWN = 6
_MISSES_IN_ALL = 24
_SHORT_LIST = 3
_TAG_WIDTH = 8
_LONGEST_LIST = 160
"""Characters of the peers, and of the ports, of one rule; more are counted."""
_ACTIONS = {"allow": "allows", "deny": "denies", "pass": "passes"}


def side_lines(side: DirectionVerdict, flow: Flow, policies: Mapping[ObjectRef, Policy]) -> list[str]:
    """Return the lines about the verdict at one end, tier by tier.

    flow:     as this end sees it
    policies: at least those that the verdict names
    """
    phrases = _TierPhrases(side.direction, flow, policies)
    lines = []
    for tier_result in side.stages:
        described = phrases.network(tier_result) if tier_result.tier == "network" else phrases.tier(tier_result)
        lines += _tagged(tier_result.tier, described)
    if side.decided is None:
        why = "no policy decides" if side.stages else f"no policy applies to its {side.direction}"
        lines += _tagged("default", [f"{why}: allowed"])
    if side.audited:
        lines += _tagged("audit", [_audit_words(side)])
    if side.enforced is not None:
        lines += side_lines(side.enforced, flow, policies)
    return lines


def _audit_words(side: DirectionVerdict) -> str:
    """Return which policies are audited, and what that means for the verdict."""
    named = [str(ref) for ref in side.audited[:_SHORT_LIST]]
    more = len(side.audited) - _SHORT_LIST
    listed = ", ".join([*named, *([f"{more} more"] if more > 0 else [])])
    are = "is" if len(side.audited) == 1 else "are"
    if side.enforced is None:
        return f"{listed} {are} audited; there is nothing to audit, as it is allowed"
    if side.allowed:
        return f"{listed} {are} audited: this denial is only logged. Without audited policies:"
    return f"{listed} {are} audited. Without audited policies:"


def _tagged(tag: str, lines: Sequence[str]) -> list[str]:
    tags = [tag, *[""] * (len(lines) - 1)]
    return [f"  {shown:<{_TAG_WIDTH}}  {line}" for shown, line in zip(tags, lines, strict=True)]


class _TierPhrases:
    """Describes the results of policies and rules of one direction."""

    def __init__(self, direction: Direction, flow: Flow, policies: Mapping[ObjectRef, Policy]) -> None:
        self._direction = direction
        self._flow = flow
        self._policies = policies
        self._preposition, self._other = ("from", "source") if direction == "ingress" else ("to", "destination")

    def network(self, tier_result: TierResult) -> list[str]:
        """Return lines about the NetworkPolicies: those that allow; if none does, all, with the closest rules."""
        if tier_result.verdict == "deny":
            return self._without_match(tier_result)
        lines = []
        others = []
        for policy, rules in _by_policy(tier_result.policies, tier_result.rules):
            matching = [self._rule(rule) for rule in rules if rule.outcome == "matches"]
            if not matching:
                others.append(policy)
                continue
            lines.append(f"{self._head(policy)}; {matching[0]}")
            lines += [f"  {words}" for words in matching[1 : MISSES_SHOWN + 1]]
            lines += _and_more(len(matching) - 1 - MISSES_SHOWN, "that match")
        if not others:
            return lines
        if len(others) <= _SHORT_LIST:
            return [
                *lines,
                *(f"{self._head(policy)}; {self._no_match(policy, tier_result.rules)}" for policy in others),
            ]
        return [*lines, f"{len(others)} more NetworkPolicies isolate {self._direction}; none of their rules matches"]

    def tier(self, tier_result: TierResult) -> list[str]:
        """Return lines about an admin tier: the rule that matched, or the closest rules."""
        if not tier_result.verdict:
            return self._without_match(tier_result)
        decider = tier_result.rules[-1]
        before = tier_result.policies[: tier_result.policies.index(decider.policy)]
        lines = []
        if len(before) == 1:
            lines = [f"{self._head(before[0])}; {self._no_match(before[0], tier_result.rules)}"]
        elif before:
            evaluated = sum(rule.policy != decider.policy for rule in tier_result.rules)
            lines = [f"{len(before)} policies before it; {self._no_rule_of(evaluated, one=False)}"]
        then = "; the next tier decides" if tier_result.verdict == "pass" else ""
        return [*lines, f"{self._head(decider.policy)}; {self._rule(decider)}{then}"]

    def _without_match(self, tier_result: TierResult) -> list[str]:
        """Return lines about policies without a matching rule: the closest first, and the number of the rest."""
        evaluated = _by_policy(tier_result.policies, tier_result.rules)
        evaluated.sort(key=lambda entry: all(rule.outcome == "peer" for rule in entry[1]))
        shown, rest = evaluated[:_POLICIES_SHOWN], evaluated[_POLICIES_SHOWN:]
        most = max(_SHORT_LIST, min(MISSES_SHOWN, _MISSES_IN_ALL // len(shown)))
        lines = []
        for policy, missed in shown:
            if len(missed) == 1:
                lines.append(f"{self._head(policy)}; {self._rule(missed[0])}")
                continue
            lines.append(f"{self._head(policy)}; {self._no_match(policy, missed)}")
            near = sorted(missed, key=lambda rule: rule.outcome == "peer")
            if tier_result.tier != "network" and len(near) > _SHORT_LIST:
                # Another tier decides: of many rules here, only the closest ones are of interest.
                near = [rule for rule in near if rule.outcome != "peer"]
            lines += [f"  {self._rule(rule)}" for rule in near[:most]]
            lines += _and_more(len(near) - most, "that don't match")
        if rest:
            count = sum(len(missed) for _, missed in rest)
            lines.append(f"{self._rest(len(rest), tier_result)}; {self._no_rule_of(count, one=len(rest) == 1)}")
        return lines

    def _rest(self, count: int, tier_result: TierResult) -> str:
        """Return the number of policies that aren't listed, as text."""
        if tier_result.tier == "network":
            return "1 more policy isolates it" if count == 1 else f"{count} more policies isolate it"
        return "1 more policy has rules for it" if count == 1 else f"{count} more policies have rules for it"

    def _no_rule_of(self, count: int, *, one: bool) -> str:
        """Return that none of the rules of one policy, or of several, matches."""
        whose, has = ("its", "it has") if one else ("their", "they have")
        if count > 1:
            return f"none of {whose} {count} {self._direction} rules matches"
        return f"{whose} only {self._direction} rule doesn't match" if count else f"{has} no {self._direction} rules"

    def _head(self, ref: ObjectRef) -> str:
        """Return a policy's name, and why it applies."""
        policy = self._policies[ref]
        if not isinstance(policy, TierPolicy):
            return f"{ref} isolates {self._direction}"
        return f"{ref}, priority {policy.priority}" if policy.priority <= LAST_PRIORITY else str(ref)

    def _no_match(self, ref: ObjectRef, rules: Sequence[RuleOutcome]) -> str:
        """Return that no rule of a policy matched, and why."""
        count = sum(rule.policy == ref for rule in rules)
        problem = self._policies[ref].problem
        if problem is not None:
            return f"it can't be read, so it fails closed and allows nothing: {_issue(problem)}"
        if not count:
            return f"it has no {self._direction} rules, so it allows nothing"
        return f"none of its {count} rules matches" if count > 1 else "its only rule doesn't match"

    def _rule(self, rule: RuleOutcome) -> str:
        """Return a rule as text, and its result."""
        name = f' "{_printable(rule.name)}"' if rule.name else ""
        which = f"rule {rule.index + 1} of {rule.total}{name}"
        policy = self._policies[rule.policy]
        if isinstance(policy, TierPolicy):
            problem = policy.rules(self._direction)[rule.index].problem
            if problem is not None:
                subject = "it" if policy.problem is not None else which
                closed = "allows nothing" if rule.action == "allow" else "denies everything"
                return f"{subject} can't be read, so it fails closed and {closed}: {_issue(problem)}"
        return f"{which} {_ACTIONS[rule.action]} {self._preposition} {_shortened(rule.words)}: {self._why(rule)}"

    def _why(self, rule: RuleOutcome) -> str:
        if rule.outcome == "peer":
            return f"{self._other} doesn't match"
        if rule.outcome == "matches":
            return "matches"
        return "port doesn't match" if self._flow.port is not None else f"it has ports, and {self._flow.protocol} none"


def _by_policy(
    policies: Sequence[ObjectRef], rules: Sequence[RuleOutcome]
) -> list[tuple[ObjectRef, list[RuleOutcome]]]:
    found: dict[ObjectRef, list[RuleOutcome]] = {policy: [] for policy in policies}
    for rule in rules:
        found[rule.policy].append(rule)
    return list(found.items())


def _and_more(count: int, why: str) -> list[str]:
    return [f"  and {count} more {why}"] if count > 0 else []


def _issue(problem: ValidationIssue) -> str:
    return str(msgspec.structs.replace(problem, place="", object=""))


def _shortened(words: str) -> str:
    """Return a rule's text with the first of many peers and ports, and the number of the others."""
    peers, on, ports = words.rpartition(" on ") if " on " in words else (words, "", "")
    return f"{_first(peers, ' or ')}{on}{_first(ports, ', ')}"


def _first(words: str, between: str) -> str:
    listed = words.split(between)
    kept = listed[:1]
    for item in listed[1:]:
        if sum(map(len, kept)) + len(item) > _LONGEST_LIST:
            return between.join([*kept, f"{len(listed) - len(kept)} more"])
        kept.append(item)
    return words


def _printable(name: str) -> str:
    """Replace control characters of a rule's name, which the API doesn't restrict."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
