"""Renders policy sets with audited policies: what these alone would deny passes, is counted and logged.

A packet is evaluated with all policies first. Where they deny it, and the enforced policies alone may not, the rule
goes to a chain of the enforced policies, whose allows and whose end lead to the verdict chain of the audited policies
that denied it; its denies are final. Allows of audited policies hold.

    DIRECTION/.../enforced_...       all policies: the admin tier, if there is any rule of it
    audit/rest/...                   and after it NetworkPolicies or the baseline tier
    audit/enforced/POLICIES/...      the enforced policies alone, after POLICIES denied
    audit/enforced-rest/POLICIES/... and after their admin tier their NetworkPolicies or baseline tier

Each policy set has chains of its own, with the rules of all tiers: what a deny leads to depends on the whole set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from nfagent.model.netaddr import Family
from nfagent.model.objects import ObjectRef
from nfagent.nftables import names
from nfagent.nftables.objects import Chain, Goto, Return, Rule, Verdict
from nfagent.nftables.policy_chains import (
    AddressSource,
    RenderedChain,
    denies_port,
    fragment_drop,
    isolation_comment,
    needs_untracked_chain,
    render_rules,
    untracked_rule,
)
from nfagent.nftables.verdict_keys import VerdictKey, allowed_by, audit_denied_by, denied_by
from nfagent.policy.compiler import CompiledRule, PolicySetKey, TierRules

AUDIT = "audit/"
"""What the names of chains begin with that these policy sets continue in."""


def render_audited_set(
    key: PolicySetKey, rules: TierRules, enforced: TierRules, families: tuple[Family, ...]
) -> dict[str, RenderedChain]:
    """Return all chains of a policy set with audited policies, by name.

    rules, enforced: the rules of all policies, and of the enforced ones alone
    families:        those of its Pods' addresses
    """
    every = (*rules.admin, *rules.network, *rules.baseline, *enforced.baseline)
    chains = _AuditedSet(key, rules, enforced, families, "connection").chains
    if not needs_untracked_chain(every):
        return chains
    name = names.policy_set_chain(key)
    chain = Chain((untracked_rule(name), *chains[name].chain.rules))
    chains[name] = msgspec.structs.replace(chains[name], chain=chain)
    return chains | _AuditedSet(key, rules, enforced, families, "packet").chains


class _AuditedSet:
    """The chains of one policy set, for tracked or for untracked packets."""

    def __init__(
        self,
        key: PolicySetKey,
        rules: TierRules,
        enforced: TierRules,
        families: tuple[Family, ...],
        reading: AddressSource,
    ) -> None:
        self._key = key
        (self._without,) = key.enforced
        self._rules = rules
        self._enforced = enforced
        self._families = families
        self._reading: AddressSource = reading
        self._audited = key.audited
        self._chain = names.policy_set_chain(key)
        self.chains: dict[str, RenderedChain] = {}
        if rules.admin:
            self._put(self._chain, rules.admin, self._verdict, Goto(self._rest(())))
        else:
            self._put_rest(self._chain, ())

    def _verdict(self, rule: CompiledRule) -> VerdictKey | Verdict:
        """Return the verdict of a rule of the admin tier, with all policies."""
        if rule.action == "pass":
            return Goto(self._rest((rule.policy,) if rule.policy in self._audited else ()))
        return self._decided(rule, ())

    def _decided(self, rule: CompiledRule, passed_by: tuple[ObjectRef, ...]) -> VerdictKey | Verdict:
        if rule.action == "allow":
            return allowed_by(self._key.direction, (rule.policy,))
        return self._denial((rule.policy,), passed_by)

    def _denial(self, policies: tuple[ObjectRef, ...], passed_by: tuple[ObjectRef, ...]) -> VerdictKey | Verdict:
        """Return where a deny by these policies leads.

        passed_by: the audited policy of the admin tier that passed the packet on; without it, enforced policies would
        not have been reached otherwise, and what they deny they deny alone, too
        """
        if self._audited.issuperset(policies):
            return self._continuation(policies)
        if passed_by:
            return self._continuation(passed_by)
        return denied_by(self._key.direction, tuple(ref for ref in policies if ref not in self._audited))

    def _rest(self, passed_by: tuple[ObjectRef, ...]) -> str:
        """Return the chain of what follows the admin tier, with all policies."""
        name = names.audit_chain("rest", passed_by, self._chain)
        if self._name(name) not in self.chains:
            self._put_rest(name, passed_by)
        return self._name(name)

    def _put_rest(self, name: str, passed_by: tuple[ObjectRef, ...]) -> None:
        key = self._key

        def verdict(rule: CompiledRule) -> VerdictKey | Verdict:
            return Return() if rule.action == "pass" else self._decided(rule, passed_by)

        if key.policies:
            self._put(name, self._rules.network, verdict, self._denial(key.policies, passed_by), isolation_comment(key))
        else:
            self._put(name, self._rules.baseline, verdict)

    def _continuation(self, policies: tuple[ObjectRef, ...]) -> VerdictKey | Verdict:
        """Return where the enforced policies decide alone, after these audited ones denied."""
        without, passed = self._without, audit_denied_by(self._key.direction, policies)
        if not without.refs:
            return passed
        name = names.audit_chain("enforced", policies, self._chain)
        rest = names.audit_chain("enforced-rest", policies, self._chain)
        if self._name(name) in self.chains:
            return Goto(self._name(name))

        def verdict(rule: CompiledRule) -> VerdictKey | Verdict:
            if rule.action == "pass":
                return passed if rule.policy in without.baseline else Goto(self._name(rest))
            return passed if rule.action == "allow" else denied_by(self._key.direction, (rule.policy,))

        if self._enforced.admin:
            self._put(name, self._enforced.admin, verdict, Goto(self._name(rest)))
        following = rest if self._enforced.admin else name
        if without.policies:
            denial = denied_by(self._key.direction, without.policies)
            self._put(following, self._enforced.network, verdict, denial, isolation_comment(without))
        else:
            self._put(following, self._enforced.baseline, verdict, passed)
        return Goto(self._name(name))

    def _put(
        self,
        name: str,
        rules: tuple[CompiledRule, ...],
        verdict: Callable[[CompiledRule], VerdictKey | Verdict],
        end: VerdictKey | Verdict | None = None,
        comment: str = "",
    ) -> None:
        """Add a chain of rules, and of a last one that every packet matches which reaches it."""
        rendered = render_rules(self._key.direction, rules, self._families, self._reading, verdict)
        before: Iterable[Rule] = ()
        # A fragment that an audited rule might deny passes.
        if self._reading == "packet" and denies_port(rule for rule in rules if rule.policy not in self._audited):
            before = map(fragment_drop, self._families)
        after: tuple[Rule, ...] = ()
        verdicts = rendered.verdicts
        if isinstance(end, VerdictKey):
            verdicts |= {end}
            after = (Rule(verdict=Goto(end.name), comment=comment),)
        elif end is not None:
            after = (Rule(verdict=end, comment=comment),)
        chain = Chain((*before, *rendered.chain.rules, *after))
        self.chains[self._name(name)] = msgspec.structs.replace(rendered, chain=chain, verdicts=verdicts)

    def _name(self, chain: str) -> str:
        return names.untracked_chain(chain) if self._reading == "packet" else chain
