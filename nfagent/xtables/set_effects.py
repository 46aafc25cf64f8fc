"""How a new member of a set can change the verdict on packets, read off the rules that refer to the set.

What is known allows an order of single changes in which no packet gets a verdict that neither the rules before nor
those after the whole change give it. What isn't known is `unknown`, and changes as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias

from nfagent.model.netaddr import Family
from nfagent.nftables.verdict_keys import DISPOSITIONS
from nfagent.xtables.context import ACCEPT_CHAIN
from nfagent.xtables.objects import ChainKey, XtChain, XtRule, XtRuleset

Effect: TypeAlias = Literal["none", "allows", "denies", "early", "dispatch", "unknown"]
"""allows, denies: a packet that the set newly matches is accepted, or dropped
early:    a packet that the set newly matches is no longer accepted before the policies
dispatch: a set of a verdict map of policies: a packet without a chain is accepted"""

_SETTLED = (*(f"{disposition}/" for disposition in DISPOSITIONS), "count/")
"""Chains in which every rule leads to one verdict: they count and log."""
_POLICY_MAPS = ("egress", "ingress")
_PAIRS = "podpairs"
_ESTABLISHED = ("-m", "conntrack", "--ctstate", "ESTABLISHED")
_WITH_CHAIN = 2


class SetUses:
    """The effects of some sets of a family, and the sets that one rule looks up together with them."""

    def __init__(self, ruleset: XtRuleset, family: Family, names: frozenset[str]) -> None:
        """Read the rules. names: the sets that are asked about."""
        self._sets = ruleset.sets
        self._names = names
        self._effects: dict[str, set[Effect]] = {}
        self._together: dict[str, set[str]] = {}
        chains = {key: chain for key, chain in ruleset.chains.items() if key[0] == family}
        base = frozenset(_called(ruleset, chains))
        for key, chain in chains.items():
            if not names.isdisjoint(chain.looked_up) and key[1] != "nat" and not chain.origin.startswith(_SETTLED):
                self._read(key, chain, chains, base=key in base)

    def effect(self, name: str) -> Effect:
        """Return the effect of a set."""
        found = self._effects.get(name, {"none"})
        return next(iter(found)) if len(found) == 1 else "unknown"

    def together(self, name: str) -> frozenset[str]:
        """Return the other sets that a rule with this set looks up."""
        return frozenset(self._together.get(name, ()))

    def _read(self, key: ChainKey, chain: XtChain, chains: Mapping[ChainKey, XtChain], *, base: bool) -> None:
        for rule in chain.rules:
            looked_up = _sets_of(rule)
            for name, negated in looked_up:
                if name not in self._names:
                    continue
                effect = self._effect(key, rule, name, chains, base=base, negated=negated)
                if effect != "none":
                    self._effects.setdefault(name, set()).add(effect)
                    self._together.setdefault(name, set()).update(other for other, _ in looked_up if other != name)

    def _effect(
        self, key: ChainKey, rule: XtRule, name: str, chains: Mapping[ChainKey, XtChain], *, base: bool, negated: bool
    ) -> Effect:
        if name not in self._sets:
            return "unknown"  # a set of another program, in a rule that it put into a chain of ours
        own = self._sets[name].origin
        target = chains.get((*key[:2], rule.target[1])) if len(rule.target) == _WITH_CHAIN else None
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


def is_policy_map(origin: str) -> bool:
    """Return whether an object comes from a verdict map of policies."""
    return origin.startswith(_POLICY_MAPS) and "/" not in origin


def follows_members(origin: str) -> bool:
    """Return whether a chain changes with the members of sets: rules come before the first member, and go after it."""
    return is_policy_map(origin) or origin.startswith(_PAIRS)


def sets_of_chain(chain: XtChain) -> frozenset[str]:
    """Return the names of the sets that the rules of a chain refer to."""
    return frozenset(chain.looked_up | {rule.target[3] for rule in chain.rules if rule.target[:2] == ("-j", "SET")})


def _called(ruleset: XtRuleset, chains: Mapping[ChainKey, XtChain]) -> Iterator[ChainKey]:
    """Yield the chains in which RETURN accepts: those that built-in chains jump to, and those that these jump to."""
    origins = {chains[key].origin for hook, name in ruleset.hooks.items() if (key := (*hook[:2], name)) in chains}
    for key, chain in chains.items():
        if chain.origin in origins:
            yield key
            for rule in chain.rules:
                if rule.target[:1] == ("-j",) and (*key[:2], rule.target[1]) in chains:
                    yield (*key[:2], rule.target[1])


def _sets_of(rule: XtRule) -> list[tuple[str, bool]]:
    return [(match[-2], match[2] == "!") for match in rule.matches if match[:2] == ("-m", "set")]
