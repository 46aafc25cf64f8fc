"""How a new member of a set can change the verdict on packets, read off the rules that refer to the set.

What is known allows an order of single changes in which no packet gets a verdict that neither the rules before nor
those after the whole change give it. What isn't known is `unknown`, and changes as a whole.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from nfagent.model.netaddr import Family
from nfagent.nftables.verdict_keys import DISPOSITIONS
from nfagent.xtables.context import ACCEPT_CHAIN
from nfagent.xtables.objects import ChainKey, XtChain, XtRule
from nfagent.xtables.references import References, is_policy_map

Effect: TypeAlias = Literal["none", "allows", "denies", "early", "dispatch", "unknown"]
"""allows, denies: a packet that the set newly matches is accepted, or dropped
early:    a packet that the set newly matches is no longer accepted before the policies
dispatch: a set of a verdict map of policies: a packet without a chain is accepted"""

_SETTLED = (*(f"{disposition}/" for disposition in DISPOSITIONS), "count/")
"""Chains in which every rule leads to one verdict: they count and log."""
_PAIRS = "podpairs"
_ESTABLISHED = ("-m", "conntrack", "--ctstate", "ESTABLISHED")
_WITH_CHAIN = 2


class SetUses:
    """The effects of some sets of a family, and the sets that one rule looks up together with them."""

    def __init__(self, references: References, family: Family, names: frozenset[str]) -> None:
        """Read the rules that refer to these sets. names: the sets that are asked about."""
        self._sets, self._chains = references.ruleset.sets, references.ruleset.chains
        self._names = names
        self._effects: dict[str, set[Effect]] = {}
        self._together: dict[str, set[str]] = {}
        for key in references.of_any(names):
            chain = self._chains[key]
            if key[0] == family and key[1] != "nat" and not chain.origin.startswith(_SETTLED):
                self._read(key, chain, base=key in references.accepting)

    def effect(self, name: str) -> Effect:
        """Return the effect of a set."""
        found = self._effects.get(name, {"none"})
        return next(iter(found)) if len(found) == 1 else "unknown"

    def together(self, name: str) -> frozenset[str]:
        """Return the other sets that a rule with this set looks up."""
        return frozenset(self._together.get(name, ()))

    def _read(self, key: ChainKey, chain: XtChain, *, base: bool) -> None:
        for name in self._names & chain.lookups.keys():
            for rule, negated in chain.lookups[name]:
                effect = self._effect(key, rule, name, base=base, negated=negated)
                if effect != "none":
                    self._effects.setdefault(name, set()).add(effect)
                    self._together.setdefault(name, set()).update({other for other, _ in rule.lookups()} - {name})

    def _effect(self, key: ChainKey, rule: XtRule, name: str, *, base: bool, negated: bool) -> Effect:
        if name not in self._sets:
            return "unknown"  # a set of another program, in a rule that it put into a chain of ours
        own = self._sets[name].origin
        target = self._chains.get((*key[:2], rule.target[1])) if len(rule.target) == _WITH_CHAIN else None
        origin = target.origin if target is not None else ""
        if rule.target[:2] == ("-j", "NFLOG") or (own == origin and own.startswith(_PAIRS)):
            return "none"
        if is_policy_map(own):
            return "unknown" if negated else "dispatch"
        if is_policy_map(origin):
            return "early" if _ESTABLISHED in rule.matches and not negated else "unknown"
        if (rule.target == ("-j", "RETURN") and base) or origin == ACCEPT_CHAIN:
            return "early" if negated else "allows"
        if rule.target == ("-j", "DROP") or origin.startswith("deny/"):
            return "allows" if negated else "denies"
        if origin.startswith(("allow/", "audit-deny/")) and not negated:
            return "allows"
        return "unknown"


def follows_members(origin: str) -> bool:
    """Return whether a chain changes with the members of sets: rules come before the first member, and go after it."""
    return is_policy_map(origin) or origin.startswith(_PAIRS)
