"""Plans the chains of audit mode (docs/audit-mode.md): what all policies deny passes if the enforced ones alone allow it.

A chain that is jumped to gives a verdict or returns, and a tier with audited policies has more results than these two:
after a deny of an audited policy the enforced ones decide, and NetworkPolicies differ from Pod to Pod. So shared
chains are asked one question after the other, each of which ends the packet or returns:

    admin/...            the admin tier: an audited deny returns, as pass does
    audit/enforced/...   its enforced policies: what they allow now, an audited policy denied; after pass it returns again
    audit/denied/...     an audited deny, where no enforced NetworkPolicy isolates: only the baseline tier can deny yet
    audit/allow/.../NP   NetworkPolicy NP allows: an audit-deny, if an audited policy of the admin tier denied
    audit/denials/...    what enforced policies of the baseline tier deny

After the admin tier returned, the rule that decided there is the first match among those that pass, and the audited
ones that deny: only these are evaluated again.

An audited Pass rule before enforced rules lets NetworkPolicies decide before those: what they allow holds. Then the
admin tier's chain itself leads to `audit/enforced` after audited denies, and what NetworkPolicies deny comes by
`audit/passed` first, which leads to `audit/enforced` after an audited pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from nfagent.model.objects import Direction, ObjectRef
from nfagent.policy.chain_plan import (
    AuditChainKey,
    ChainPlan,
    Follow,
    Outcome,
    PlannedRule,
    Target,
    by_action,
)
from nfagent.policy.compiler import CompiledPolicies, CompiledRule, TierChainKey

_Places = Callable[[CompiledRule], Target]


class AdminTier(msgspec.Struct, frozen=True):
    """The admin tier of policy sets, in one direction.

    rules:    all rules
    audited:  its audited policies
    enforced: the rules of enforced policies that may decide after an audited policy did; () if none allows or denies
    denies:   whether any audited policy denies
    passes:   whether any audited policy passes on what an enforced one may decide
    labels:   the audited policies that deny or pass
    """

    rules: tuple[CompiledRule, ...] = ()
    audited: frozenset[ObjectRef] = frozenset()
    enforced: tuple[CompiledRule, ...] = ()
    denies: bool = False
    passes: bool = False
    labels: tuple[ObjectRef, ...] = ()


class AuditedTiers:
    """The chains of the tiers with audited policies."""

    def __init__(self, compiled: CompiledPolicies) -> None:
        """Start with an empty cache."""
        self._compiled = compiled
        self._tiers: dict[TierChainKey, tuple[object, AdminTier]] = {}

    def admin(self, refs: tuple[ObjectRef, ...], direction: Direction) -> AdminTier:
        """Return the admin tier of these policies."""
        key, state = TierChainKey("admin", direction, refs), self._compiled.state(refs)
        cached = self._tiers.get(key)
        if cached is None or cached[0] != state:
            cached = self._tiers[key] = (state, self._read(key))
        return cached[1]

    def forget(self, key: TierChainKey) -> None:
        """Remove a tier that no policy set has from the cache."""
        self._tiers.pop(key, None)

    def denying(self, refs: tuple[ObjectRef, ...], direction: Direction) -> tuple[ObjectRef, ...]:
        """Return the enforced ones of these policies of the baseline tier; none if they deny nothing."""
        enforced = tuple(ref for ref in refs if not self._compiled.is_audited(ref))
        return enforced if any(rule.action == "deny" for rule in self._baseline(enforced, direction)) else ()

    def audit_denied(
        self, policies: tuple[ObjectRef, ...], denying: tuple[ObjectRef, ...], direction: Direction
    ) -> Target:
        """Return where a deny by these audited policies leads, if only the baseline policies `denying` may deny yet."""
        if not denying:
            return Outcome("audit-deny", policies)
        return Follow(AuditChainKey("unless-denied", direction, named=policies, baseline=denying))

    def in_tier(self, key: TierChainKey, rule: CompiledRule) -> Target:
        """Return where a rule of a tier's own chain leads."""
        if rule.action != "deny" or not self._compiled.is_audited(rule.policy):
            return by_action(rule)
        if key.tier == "baseline":
            return self.audit_denied((rule.policy,), self.denying(key.policies, key.direction), key.direction)
        passes = self.admin(key.policies, key.direction).passes
        return Follow(AuditChainKey("enforced", key.direction, key.policies)) if passes else None

    def plan(self, key: AuditChainKey) -> ChainPlan:
        """Return the plan of a chain of audit mode."""
        direction, tier = key.direction, self.admin(key.admin, key.direction)
        denials = denials_of(key.baseline, direction)
        after_tiers: Target = Follow(denials[0]) if denials else None
        match key.part:
            case "denials":
                return ChainPlan(rules=_denials(self._baseline(key.baseline, direction), passed=None))
            case "unless-denied":
                return ChainPlan(before=denials, end=Outcome("audit-deny", key.named))
            case "label":
                return _decided(tier, denied=_audit_deny, passed=_audit_deny)
            case "enforced":
                return ChainPlan(rules=tuple((rule, self._enforced(key, tier, rule)) for rule in tier.enforced))
            case "enforced-denials":
                return ChainPlan(rules=_denials(tier.enforced, passed=after_tiers), end=after_tiers)
            case "denied":
                return _decided(
                    tier,
                    denied=lambda rule: self.audit_denied((rule.policy,), key.baseline, direction),
                    passed=_returns,
                    enforced=_returns,
                )
            case "passed":
                enforced = Follow(AuditChainKey("enforced", direction, key.admin))
                return _decided(tier, denied=_returns, passed=lambda _: enforced, enforced=_returns)
            case "passed-denials":
                # What an audited policy denied has ended before, in `denied`.
                enforced = Follow(AuditChainKey("enforced-denials", direction, key.admin, baseline=key.baseline))
                return _decided(tier, passed=lambda _: enforced, enforced=lambda _: after_tiers, end=after_tiers)
            case "denial":
                return self._denial(key)
            case "allow":
                return self._allow(key, tier)
            case "policy":
                allow = Follow(msgspec.structs.replace(key, part="allow"), jump=True)
                rules = self._compiled.rules(TierChainKey("policy", direction, key.named))
                return ChainPlan(rules=tuple((rule, allow) for rule in rules))
            case "baseline":
                return ChainPlan(rules=tuple(self._baseline_rules(key)))

    def _read(self, key: TierChainKey) -> AdminTier:
        rules = self._compiled.rules(key)
        audited = frozenset(filter(self._compiled.is_audited, key.policies))
        labels: dict[ObjectRef, None] = {}
        before: list[CompiledRule] = []
        deciding: list[CompiledRule] = []
        actions: set[str] = set()
        for rule in rules:
            if rule.policy in audited:
                actions.add(rule.action)
                if rule.action != "allow":
                    labels[rule.policy] = None
            elif labels:
                deciding.append(rule)
            elif rule.action == "pass":
                # Reached without an audited policy before it, too: then it returns, as in the tier's own chain.
                before.append(rule)
        while deciding and deciding[-1].action == "pass":
            del deciding[-1]
        return AdminTier(
            rules=rules,
            audited=audited,
            enforced=(*before, *deciding) if deciding else (),
            denies="deny" in actions,
            passes="pass" in actions and bool(deciding),
            labels=tuple(labels),
        )

    def _baseline(self, refs: tuple[ObjectRef, ...], direction: Direction) -> tuple[CompiledRule, ...]:
        return self._compiled.rules(TierChainKey("baseline", direction, refs))

    def _enforced(self, key: AuditChainKey, tier: AdminTier, rule: CompiledRule) -> Target:
        if rule.action != "allow":
            return by_action(rule)
        if len(tier.labels) == 1:
            return Outcome("audit-deny", tier.labels)
        return Follow(AuditChainKey("label", key.direction, key.admin))

    def _denial(self, key: AuditChainKey) -> ChainPlan:
        """Return what a policy of the baseline tier denies, after an audited pass in the admin tier or without it."""
        audited = self._compiled.is_audited(key.named[0])
        if not audited:
            return ChainPlan(
                before=(AuditChainKey("passed", key.direction, key.admin),), end=Outcome("deny", key.named)
            )
        before = AuditChainKey("passed-denials", key.direction, key.admin, baseline=key.baseline)
        return ChainPlan(before=(before,), end=Outcome("audit-deny", key.named))

    def _allow(self, key: AuditChainKey, tier: AdminTier) -> ChainPlan:
        """Return what a NetworkPolicy allows: after an audited deny, the allow of an audited one doesn't count."""
        allowed = Outcome("allow", key.named)
        if self._compiled.is_audited(key.named[0]):
            return _decided(tier, denied=_returns, passed=lambda _: allowed, enforced=lambda _: allowed, end=allowed)
        return ChainPlan(before=(AuditChainKey("denied", key.direction, key.admin),), end=allowed)

    def _baseline_rules(self, key: AuditChainKey) -> Iterator[PlannedRule]:
        denying = self.denying(key.baseline, key.direction)
        for rule in self._baseline(key.baseline, key.direction):
            if rule.action != "deny":
                yield rule, by_action(rule)
                continue
            audited = self._compiled.is_audited(rule.policy)
            denial = AuditChainKey("denial", key.direction, key.admin, (rule.policy,), denying if audited else ())
            yield rule, Follow(denial)


def denials_of(denying: tuple[ObjectRef, ...], direction: Direction) -> tuple[AuditChainKey, ...]:
    """Return the chain of what these enforced policies of the baseline tier deny; none without any."""
    return (AuditChainKey("denials", direction, baseline=denying),) if denying else ()


def _decided(
    tier: AdminTier,
    *,
    passed: _Places,
    denied: _Places | None = None,
    enforced: _Places | None = None,
    end: Target = None,
) -> ChainPlan:
    """Return the chain that finds the rule which decided in the admin tier, after that returned.

    denied, passed, enforced: where it leads if it is a deny or pass of an audited policy, or an enforced pass; None: it
                              can't be such a rule
    end:                      the same if no rule matched
    """
    found: list[PlannedRule] = []
    for rule in tier.rules:
        audited = rule.policy in tier.audited
        place = {("deny", True): denied, ("pass", True): passed, ("pass", False): enforced}.get((rule.action, audited))
        if place is not None:
            found.append((rule, place(rule)))
    # What leads where the end leads needs no rule.
    while found and found[-1][1] == end:
        del found[-1]
    return ChainPlan(rules=tuple(found), end=end)


def _denials(rules: Iterable[CompiledRule], passed: Target) -> tuple[PlannedRule, ...]:
    """Return rules that only deny: what they allow returns."""
    targets = {"allow": None, "pass": passed}
    return tuple((rule, targets[rule.action] if rule.action in targets else by_action(rule)) for rule in rules)


def _audit_deny(rule: CompiledRule) -> Target:
    return Outcome("audit-deny", (rule.policy,))


def _returns(_rule: CompiledRule) -> Target:
    return None
