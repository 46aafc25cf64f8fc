"""Plans the chains of policy sets and tiers: which rules, where each leads, and which chains they share."""

from __future__ import annotations

import msgspec

from nfagent.model.objects import ObjectRef
from nfagent.policy.audited_tiers import AdminTier, AuditedTiers, denials_of
from nfagent.policy.chain_plan import AuditChainKey, ChainKey, ChainPlan, Follow, Outcome, Target
from nfagent.policy.compiler import CompiledPolicies, CompiledRule, PolicySetKey, TierChainKey

_NO_AUDIT = AdminTier()


class ChainPlans:
    """The plans of chains; those of shared chains are made once."""

    def __init__(self, compiled: CompiledPolicies) -> None:
        """Start with an empty cache."""
        self._compiled = compiled
        self._tiers = AuditedTiers(compiled)
        self._plans: dict[ChainKey, tuple[object, ChainPlan]] = {}

    def of(self, key: ChainKey) -> ChainPlan:
        """Return the plan of a shared chain."""
        state = self._compiled.state(key.policies)
        cached = self._plans.get(key)
        if cached is None or cached[0] != state:
            cached = self._plans[key] = (state, self._plan(key))
        return cached[1]

    def _plan(self, key: ChainKey) -> ChainPlan:
        if isinstance(key, AuditChainKey):
            plan = self._tiers.plan(key)
        else:
            plan = ChainPlan(rules=tuple((rule, self._tiers.in_tier(key, rule)) for rule in self._compiled.rules(key)))
        enforced = tuple(rule for rule, _ in plan.rules if not self._compiled.is_audited(rule.policy))
        return msgspec.structs.replace(plan, enforced=enforced)

    def forget(self, key: ChainKey) -> None:
        """Remove a chain that no policy set needs from the cache."""
        self._plans.pop(key, None)
        if isinstance(key, TierChainKey):
            self._tiers.forget(key)

    def shared_chains(self, key: PolicySetKey) -> tuple[ChainKey, ...]:
        """Return all shared chains that a policy set's chain leads to."""
        found = dict.fromkeys(self.of_set(key).chains)
        waiting = list(found) if key.enforced else []
        while waiting:
            new = [chain for chain in self.of(waiting.pop()).chains if chain not in found]
            found.update(dict.fromkeys(new))
            waiting += new
        return tuple(found)

    def of_set(self, key: PolicySetKey) -> ChainPlan:
        """Return the plan of a policy set's own chain: admin tier, NetworkPolicies, then isolation or baseline tier."""
        direction, inline = key.direction, self._compiled.inline(key)
        without = key.enforced[0] if key.enforced else key
        tier = self._tiers.admin(key.admin, direction) if key.enforced else _NO_AUDIT
        denying = self._tiers.denying(without.baseline, direction) if key.enforced else ()
        before: list[ChainKey] = [TierChainKey("admin", direction, key.admin)] if key.admin else []
        if tier.denies and tier.enforced and not tier.passes:
            before.append(AuditChainKey("enforced", direction, key.admin))
        if tier.denies and not without.policies:
            before.append(AuditChainKey("denied", direction, key.admin, baseline=denying))
        labelled = tier.denies and bool(without.policies)
        large: list[ChainKey] = [
            AuditChainKey("policy", direction, key.admin, (ref,))
            if labelled
            else TierChainKey("policy", direction, (ref,))
            for ref in key.policies
            if ref not in inline
        ]
        rules = tuple((rule, self._allow(key, rule, labelled=labelled)) for rule in self._compiled.rules(key))
        after, end = self._ending(key, denying, passes=tier.passes)
        return ChainPlan(tuple(before), rules, (*large, *after), end)

    @staticmethod
    def _ending(
        key: PolicySetKey, denying: tuple[ObjectRef, ...], *, passes: bool
    ) -> tuple[tuple[ChainKey, ...], Target]:
        """Return what follows the rules of NetworkPolicies: jumps, and the end.

        denying: enforced policies of the baseline tier that deny, where any policy is audited
        passes:  an audited policy may have passed it on before enforced policies of the admin tier were evaluated
        """
        isolating = key.enforced[0].policies if key.enforced else key.policies
        if isolating:
            passed = (AuditChainKey("passed", key.direction, key.admin),) if passes else ()
            return passed, Outcome("deny", isolating)
        if key.policies:
            denials = AuditChainKey("passed-denials", key.direction, key.admin, baseline=denying)
            return (denials,) if passes else denials_of(denying, key.direction), Outcome("audit-deny", key.policies)
        if not key.baseline:
            return (), None
        if passes:
            return (AuditChainKey("baseline", key.direction, key.admin, baseline=key.baseline),), None
        return (TierChainKey("baseline", key.direction, key.baseline),), None

    @staticmethod
    def _allow(key: PolicySetKey, rule: CompiledRule, *, labelled: bool) -> Target:
        """Return where a NetworkPolicy's rule leads; `labelled`: an audited policy may have denied before."""
        if not labelled:
            return Outcome("allow", (rule.policy,))
        return Follow(AuditChainKey("allow", key.direction, key.admin, (rule.policy,)), jump=True)
