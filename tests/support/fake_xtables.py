"""A kernel's ipsets and iptables chains: each step is applied as the kernel does, and refused as it would be."""

from __future__ import annotations

import msgspec

from nfagent.xtables.objects import EMPTY, XtRuleset
from nfagent.xtables.steps import (
    AddAccounts,
    AddMember,
    CreateSet,
    DeleteAccounts,
    DeleteMember,
    DestroySet,
    Restore,
    Step,
    SwapSets,
)


class FakeXtables:
    """What the kernel holds."""

    def __init__(self, ruleset: XtRuleset = EMPTY) -> None:
        self.ruleset = XtRuleset(
            dict(ruleset.sets), dict(ruleset.chains), dict(ruleset.hooks), frozenset(ruleset.accounts)
        )

    def apply(self, step: Step) -> XtRuleset:
        """Apply a step, and return all that is there then. Refused where it would leave a reference to nothing."""
        now = self.ruleset
        sets, chains, hooks, accounts = dict(now.sets), dict(now.chains), dict(now.hooks), now.accounts
        match step:
            case CreateSet(name, item):
                assert name not in sets, f"set {name} is there"
                sets[name] = item
            case SwapSets(name, other):
                shapes = {msgspec.structs.replace(sets[each], members=frozenset()) for each in (name, other)}
                assert len(shapes) == 1, f"{name} and {other} have different shapes"
                sets[name], sets[other] = sets[other], sets[name]
            case DestroySet(name):
                assert not any(name in chain.refers_to for chain in chains.values()), f"set {name} is in use"
                del sets[name]
            case AddMember(name, member):
                sets[name] = msgspec.structs.replace(sets[name], members=sets[name].members | {member})
            case DeleteMember(name, member):
                sets[name] = msgspec.structs.replace(sets[name], members=sets[name].members - {member})
            case Restore():
                _restore(step, chains, hooks)
                for key, chain in chains.items():
                    assert chain.refers_to <= sets.keys(), f"chain {key} refers to no set"
            case AddAccounts(names):
                accounts |= frozenset(names)
            case DeleteAccounts(names):
                accounts -= frozenset(names)
        self.ruleset = XtRuleset(sets, chains, hooks, accounts)
        return self.ruleset


def _restore(step: Restore, chains: dict, hooks: dict) -> None:  # type: ignore[type-arg]
    where = (step.family, step.table)
    for name, chain in step.chains.items():
        if chain is None:
            del chains[*where, name]
        else:
            chains[*where, name] = chain
    for hook, target in step.hooks.items():
        if target is None:
            del hooks[*where, hook]
        else:
            hooks[*where, hook] = target
    named = {name for key, name in hooks.items() if key[:2] == where}
    for key, chain in chains.items():
        if key[:2] == where:
            named |= {
                rule.target[1]
                for rule in chain.rules
                if rule.target[:1] in (("-g",), ("-j",)) and rule.target[1].startswith("nfa-")
            }
    missing = {name for name in named if (*where, name) not in chains}
    assert not missing, f"no chains {missing}"
