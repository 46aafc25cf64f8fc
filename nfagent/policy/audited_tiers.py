"""Plans the chains of audit mode: what all policies deny passes if the enforced ones allow it (docs/audit-mode.md).

A chain that is jumped to gives a verdict or returns, and a tier with audited policies has more results than these two:
after a deny of an audited policy the enforced ones decide, and NetworkPolicies differ from Pod to Pod. So chains that
policy sets share are asked one question after the other, each of which ends the packet or returns:

    admin/...            the admin tier: an audited deny returns, as pass does
    audit/enforced/...   its enforced policies: what they allow here, an audited policy denied; after a pass it returns
    audit/denied/...     where no enforced NetworkPolicy isolates: after an audited deny only the baseline tier may deny
    audit/allow/.../NP   NetworkPolicy NP allows: an audit-deny, if an audited policy of the admin tier denied
    audit/denials/...    what the enforced policies of the baseline tier deny

After the admin tier returned, the rule that decided there is the first match among those that pass, and the audited
ones that deny: only these are evaluated again. Rules return, rather than lead to a large chain: older kernels check a
chain anew for each rule that leads to it, at every commit.

An audited Pass rule before enforced rules lets NetworkPolicies decide before those: what they allow holds. Then the
admin tier's own chain leads to `audit/enforced` after an audited deny, and what NetworkPolicies deny comes by
`audit/passed`, which leads there after an audited pass:

    audit/passed/..., audit/passed-denials/...   after NetworkPolicies denied: enforced ones, or audited ones alone
    audit/enforced-denials/...                   of the admin tier's enforced policies what they deny
    audit/baseline/..., audit/denial/.../POLICY  the baseline tier, and where a deny of POLICY leads

Further `audit/label/...` finds the audited policy that decided in the admin tier, `audit/unless-denied/.../POLICIES` is
an audit-deny of POLICIES after the denials of the baseline tier, and `audit/policy/...` a NetworkPolicy of many rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from nfagent.model.objects import Direction, ObjectRef
from nfagent.policy.chain_plan import (
    AuditChainKey,
    AuditPart,
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
        self._parts: dict[AuditPart, Callable[[AuditChainKey, AdminTier], ChainPlan]] = {
            "denials": self._denials,
            "unless-denied": self._unless_denied,
            "label": self._label,
            "enforced": self._enforced,
            "enforced-denials": self._enforced_denials,
            "denied": self._denied,
            "passed": self._passed,
            "passed-denials": self._passed_denials,
            "denial": self._denial,
            "allow": self._allow,
            "policy": self._policy,
            "baseline": self._whole_baseline,
        }

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
        return self._parts[key.part](key, self.admin(key.admin, key.direction))

    def _denials(self, key: AuditChainKey, _tier: AdminTier) -> ChainPlan:
        return ChainPlan(rules=_only_denying(self._baseline(key.baseline, key.direction), passed=None))

    @staticmethod
    def _unless_denied(key: AuditChainKey, _tier: AdminTier) -> ChainPlan:
        return ChainPlan(before=denials_of(key.baseline, key.direction), end=Outcome("audit-deny", key.named))

    @staticmethod
    def _label(_key: AuditChainKey, tier: AdminTier) -> ChainPlan:
        return _decided(tier, denied=_audit_deny, passed=_audit_deny)

    @staticmethod
    def _enforced(key: AuditChainKey, tier: AdminTier) -> ChainPlan:
        label: Target = Follow(AuditChainKey("label", key.direction, key.admin))
        if len(tier.labels) == 1:
            label = Outcome("audit-deny", tier.labels)
        return ChainPlan(
            rules=tuple((rule, label if rule.action == "allow" else by_action(rule)) for rule in tier.enforced)
        )

    @staticmethod
    def _enforced_denials(key: AuditChainKey, tier: AdminTier) -> ChainPlan:
        passed = _after_admin_tier(key)
        return ChainPlan(rules=_only_denying(tier.enforced, passed=passed), end=passed)

    def _denied(self, key: AuditChainKey, tier: AdminTier) -> ChainPlan:
        def denied(rule: CompiledRule) -> Target:
            return self.audit_denied((rule.policy,), key.baseline, key.direction)

        return _decided(tier, denied=denied, passed=_returns, enforced=_returns)

    @staticmethod
    def _passed(key: AuditChainKey, tier: AdminTier) -> ChainPlan:
        enforced = Follow(AuditChainKey("enforced", key.direction, key.admin))
        return _decided(tier, denied=_returns, passed=lambda _: enforced, enforced=_returns)

    @staticmethod
    def _passed_denials(key: AuditChainKey, tier: AdminTier) -> ChainPlan:
        # What an audited policy denied has ended before, in `denied`.
        enforced = Follow(msgspec.structs.replace(key, part="enforced-denials"))
        end = _after_admin_tier(key)
        return _decided(tier, passed=lambda _: enforced, enforced=lambda _: end, end=end)

    def _denial(self, key: AuditChainKey, _tier: AdminTier) -> ChainPlan:
        if self._compiled.is_audited(key.named[0]):
            passed = AuditChainKey("passed-denials", key.direction, key.admin, baseline=key.baseline)
            return ChainPlan(before=(passed,), end=Outcome("audit-deny", key.named))
        return ChainPlan(before=(AuditChainKey("passed", key.direction, key.admin),), end=Outcome("deny", key.named))

    def _allow(self, key: AuditChainKey, tier: AdminTier) -> ChainPlan:
        allowed = Outcome("allow", key.named)
        if not self._compiled.is_audited(key.named[0]):
            return ChainPlan(before=(AuditChainKey("denied", key.direction, key.admin),), end=allowed)
        # After an audited deny, the allow of an audited policy doesn't count.
        return _decided(tier, denied=_returns, passed=lambda _: allowed, enforced=lambda _: allowed, end=allowed)

    def _policy(self, key: AuditChainKey, _tier: AdminTier) -> ChainPlan:
        allow = Follow(msgspec.structs.replace(key, part="allow"), jump=True)
        rules = self._compiled.rules(TierChainKey("policy", key.direction, key.named))
        return ChainPlan(rules=tuple((rule, allow) for rule in rules))

    def _whole_baseline(self, key: AuditChainKey, _tier: AdminTier) -> ChainPlan:
        denying = self.denying(key.baseline, key.direction)

        def target(rule: CompiledRule) -> Target:
            if rule.action != "deny":
                return by_action(rule)
            may_deny = denying if self._compiled.is_audited(rule.policy) else ()
            return Follow(AuditChainKey("denial", key.direction, key.admin, (rule.policy,), may_deny))

        rules = self._baseline(key.baseline, key.direction)
        return ChainPlan(rules=tuple((rule, target(rule)) for rule in rules))

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


def _after_admin_tier(key: AuditChainKey) -> Target:
    """Return where the denials of the baseline tier are; None if there are none."""
    return next(map(Follow, denials_of(key.baseline, key.direction)), None)


def _only_denying(rules: Iterable[CompiledRule], passed: Target) -> tuple[PlannedRule, ...]:
    """Return rules that only deny: what they allow returns."""
    targets = {"allow": None, "pass": passed}
    return tuple((rule, targets[rule.action] if rule.action in targets else by_action(rule)) for rule in rules)


def _audit_deny(rule: CompiledRule) -> Target:
    return Outcome("audit-deny", (rule.policy,))


def _returns(_rule: CompiledRule) -> Target:
    return None
