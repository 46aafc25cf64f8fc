"""The reason for a verdict in one line, for tables; `phrasing` has the full text."""

from __future__ import annotations

from collections.abc import Mapping

from nfagent.model.admin_policy import Policy, TierPolicy
from nfagent.model.objects import ObjectRef
from nfagent.policy.evaluator import DirectionVerdict, RuleOutcome, TierResult

_NAMED = 3
_ACTIONS = {"allow": "allows", "deny": "denies", "pass": "passes"}


def reason(side: DirectionVerdict, policies: Mapping[ObjectRef, Policy]) -> str:
    """Return the tier, policy and rule that decided: `NetworkPolicy shop/db isolates it; none of its 2 rules matches`.

    policies: at least those that the verdict names
    """
    if side.enforced is not None:
        if side.audit_denying:
            return f"only audited policies deny it: {_named(side.audit_denying)}"
        return reason(side.enforced, policies)
    decided = side.decided
    if decided is None:
        return "no policy decides" if side.stages else "no policy applies to it"
    if decided.tier != "network":
        return _tier_reason(decided, side, policies)
    return _allow_reason(decided) if decided.verdict == "allow" else _isolation_reason(decided, policies)


def _tier_reason(tier_result: TierResult, side: DirectionVerdict, policies: Mapping[ObjectRef, Policy]) -> str:
    decider = tier_result.rules[-1]
    policy = policies[decider.policy]
    if isinstance(policy, TierPolicy):
        if policy.problem is not None:
            return f"{decider.policy} can't be read: it fails closed"
        if policy.rules(side.direction)[decider.index].problem is not None:
            return f"{_position(decider)} in {decider.policy} can't be read: it fails closed"
    return f"{_position(decider)} in {decider.policy} {_ACTIONS[decider.action]} it"


def _allow_reason(tier_result: TierResult) -> str:
    first, *others = [rule for rule in tier_result.rules if rule.outcome == "matches"]
    also = f" (and {len(others)} more)" if others else ""
    return f"{_position(first)} in {first.policy} allows it{also}"


def _isolation_reason(tier_result: TierResult, policies: Mapping[ObjectRef, Policy]) -> str:
    """Return the policies that isolate; for a single one, also how close its rules came."""
    if len(tier_result.policies) > 1:
        listed = _named(tier_result.policies)
        return f"{len(tier_result.policies)} NetworkPolicies isolate it ({listed}); none of their rules matches"
    [ref] = tier_result.policies
    if policies[ref].problem is not None:
        return f"{ref} can't be read: it fails closed"
    if not tier_result.rules:
        return f"{ref} isolates it; it has no rules"
    near = next((rule for rule in tier_result.rules if rule.outcome == "port"), None)
    if near is not None:
        return f"{ref} isolates it; {_position(near)} has other ports"
    return f"{ref} isolates it; " + (
        "its only rule doesn't match"
        if len(tier_result.rules) == 1
        else f"none of its {len(tier_result.rules)} rules matches"
    )


def _named(refs: tuple[ObjectRef, ...]) -> str:
    named = [ref.path for ref in refs[:_NAMED]]
    more = len(refs) - _NAMED
    return ", ".join([*named, *([f"{more} more"] if more > 0 else [])])


def _position(rule: RuleOutcome) -> str:
    return f"rule {rule.index + 1} of {rule.total}"
