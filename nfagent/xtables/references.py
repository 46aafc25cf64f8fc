"""What differs between two rulesets, and which chains refer to which sets.

Both are kept from one change to the next, so that a small change asks about its own sets and chains, not about all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from nfagent.model.netaddr import Family
from nfagent.xtables.names import TEMPORARY_PREFIX
from nfagent.xtables.objects import ChainKey, HookKey, IpSet, SetMember, XtChain, XtRuleset

_POLICY_MAPS = ("egress", "ingress")
_NONE: frozenset[ChainKey] = frozenset()
_NO_CHAIN = XtChain()


class Difference(msgspec.Struct, frozen=True):
    """What differs between two rulesets, by name.

    sets:    those that are there before and after; of those whose members come from packets, such as have another shape
    created: sets of the new one only
    gone:    sets of the old one only
    chains:  those that differ, come or go
    hooks:   those that differ, come or go
    """

    sets: frozenset[str]
    created: frozenset[str]
    gone: frozenset[str]
    chains: frozenset[ChainKey]
    hooks: frozenset[HookKey]


def difference(old: XtRuleset, new: XtRuleset) -> Difference:
    """Return what differs; objects that both share are not compared."""
    was = old.sets
    sets = (
        name
        for name, item in new.sets.items()
        if (before := was.get(name)) is not item
        and before is not None
        and before != item
        and not (item.timeout and same_shape(before, item))
    )
    chains: set[ChainKey] = set()
    if old.chains is not new.chains:
        find = old.chains.get
        chains = {key for key, chain in new.chains.items() if (found := find(key)) is not chain and found != chain}
        chains |= old.chains.keys() - new.chains.keys()
    hooks = {hook for hook in old.hooks.keys() | new.hooks.keys() if old.hooks.get(hook) != new.hooks.get(hook)}
    return Difference(
        frozenset(sets),
        frozenset(new.sets.keys() - was.keys()),
        frozenset(was.keys() - new.sets.keys()),
        frozenset(chains),
        frozenset(hooks),
    )


def same_shape(one: IpSet, other: IpSet) -> bool:
    """Return whether two sets differ in their members at most."""
    empty: frozenset[SetMember] = frozenset()
    return msgspec.structs.replace(one, members=empty) == msgspec.structs.replace(other, members=empty)


def is_policy_map(origin: str) -> bool:
    """Return whether an object comes from a verdict map of policies."""
    return origin.startswith(_POLICY_MAPS) and "/" not in origin


class References(msgspec.Struct, frozen=True):
    """A ruleset, and who refers to what in it.

    chains:      the chains that refer to a set, by its name
    accepting:   chains in which RETURN accepts: those that built-in chains jump to, and those that these jump to
    policy_sets: the sets of verdict maps of policies
    copies:      sets that stand for others during a change
    """

    ruleset: XtRuleset
    chains: dict[str, frozenset[ChainKey]]
    accepting: frozenset[ChainKey]
    policy_sets: frozenset[str]
    copies: frozenset[str]

    def of(self, name: str) -> frozenset[ChainKey]:
        """Return the chains that refer to a set."""
        return self.chains.get(name, _NONE)

    def of_any(self, names: Iterable[str]) -> set[ChainKey]:
        """Return the chains that refer to one of some sets."""
        return {key for name in names for key in self.of(name)}

    def changed(self, new: XtRuleset, change: Difference) -> References:
        """Return the references of another ruleset, by what differs from this one."""
        chains = dict(self.chains)
        gone, come = self._differing(new, change.chains)
        for name in gone.keys() | come.keys():
            now = (self.of(name) - gone.get(name, _NONE)) | come.get(name, _NONE)
            if now:
                chains[name] = now
            else:
                del chains[name]
        touched = change.sets | change.created
        policy_sets = (self.policy_sets - change.gone - touched) | _policy_sets(new.sets, touched)
        copies = (self.copies - change.gone) | _copies(change.created)
        stays = not change.hooks and not self._hooks_change(new, change)
        return References(new, chains, self.accepting if stays else _accepting(new), policy_sets, copies)

    def _differing(
        self, new: XtRuleset, keys: Iterable[ChainKey]
    ) -> tuple[dict[str, set[ChainKey]], dict[str, set[ChainKey]]]:
        """Return by set: those of some chains that no longer refer to it, and those that newly do."""
        gone: dict[str, set[ChainKey]] = {}
        come: dict[str, set[ChainKey]] = {}
        for key in keys:
            was, now = self.ruleset.chains.get(key, _NO_CHAIN), new.chains.get(key, _NO_CHAIN)
            for found, names in ((gone, was.refers_to - now.refers_to), (come, now.refers_to - was.refers_to)):
                for name in names:
                    found.setdefault(name, set()).add(key)
        return gone, come

    def _hooks_change(self, new: XtRuleset, change: Difference) -> bool:
        """Return whether a chain differs that tells in which chains RETURN accepts."""
        called = {(*hook[:2], name) for hook, name in new.hooks.items()}
        if not called.isdisjoint(change.chains):
            return True
        origins = _hook_origins(new)
        return any(
            (key[0], chain.origin) in origins
            for key in change.chains
            for one in (self.ruleset, new)
            if (chain := one.chains.get(key)) is not None
        )


def references(ruleset: XtRuleset) -> References:
    """Read a whole ruleset."""
    chains = {name: frozenset(keys) for name, keys in _by_set(ruleset.chains).items()}
    policy_sets = _policy_sets(ruleset.sets, ruleset.sets)
    return References(ruleset, chains, _accepting(ruleset), policy_sets, _copies(ruleset.sets))


def _by_set(chains: Mapping[ChainKey, XtChain]) -> dict[str, set[ChainKey]]:
    """Return the chains that refer to each set."""
    found: dict[str, set[ChainKey]] = {}
    for key, chain in chains.items():
        for name in chain.refers_to:
            found.setdefault(name, set()).add(key)
    return found


def _policy_sets(sets: Mapping[str, IpSet], names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in names if is_policy_map(sets[name].origin))


def _copies(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in names if name.startswith(TEMPORARY_PREFIX))


def _hook_origins(ruleset: XtRuleset) -> set[tuple[Family, str]]:
    """Return the origins of the chains that built-in chains jump to, by family."""
    keys = ((*hook[:2], name) for hook, name in ruleset.hooks.items())
    return {(key[0], ruleset.chains[key].origin) for key in keys if key in ruleset.chains}


def _accepting(ruleset: XtRuleset) -> frozenset[ChainKey]:
    return frozenset(_called(ruleset))


def _called(ruleset: XtRuleset) -> Iterator[ChainKey]:
    origins = _hook_origins(ruleset)
    for key, chain in ruleset.chains.items():
        if (key[0], chain.origin) in origins:
            yield key
            for rule in chain.rules:
                if rule.target[:1] == ("-j",):
                    yield (*key[:2], rule.target[1])
