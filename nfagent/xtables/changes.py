"""The input of iptables-restore for steps, and for jumps of ours that stand where they shouldn't."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import TypeAlias

from nfagent.model.netaddr import Family
from nfagent.xtables.chain_edits import edits
from nfagent.xtables.listing import XtListing
from nfagent.xtables.objects import TABLES, ChainKey, HookKey, SetMember, TableName, XtChain, XtRuleset
from nfagent.xtables.set_effects import follows_members
from nfagent.xtables.steps import AddMember, DeleteMember, Restore, Step
from nfagent.xtables.text import rule_text, rule_words

StepGroup: TypeAlias = tuple[Step, ...]


def grouped(steps: Iterable[Step]) -> Iterator[StepGroup]:
    """Yield steps that one call does, in order: members of one set, tables of one family."""
    for _, group in groupby(steps, _group):
        yield tuple(group)


def _group(step: Step) -> tuple[object, ...]:
    match step:
        case AddMember(name):
            return "add", name
        case DeleteMember(name):
            return "delete", name
        case Restore(family):
            return "restore", family
    return "alone", id(step)


def members_of_group(group: StepGroup) -> list[SetMember]:
    """Return the members that the steps of a group add or delete."""
    return [step.member for step in group if isinstance(step, AddMember | DeleteMember)]


def restore_input(
    group: StepGroup, hooks: Mapping[HookKey, str], there: Mapping[ChainKey, XtChain] | None = None
) -> str:
    """Return the input for steps of one family; each table is changed in one moment.

    hooks: the jumps of ours that are there
    there: chains that are there; of those that follow the members of sets, only rules that differ are written
    """
    steps = (step for step in group if isinstance(step, Restore))
    return "".join(f"{line}\n" for step in steps for line in _lines(step, hooks, there or {}))


def _lines(step: Restore, hooks: Mapping[HookKey, str], there: Mapping[ChainKey, XtChain]) -> Iterator[str]:
    edited = dict(_edited(step, there))
    yield f"*{step.table}"
    # A chain that is declared loses its rules, so that one that goes refers to none that goes before it.
    yield from (f":{name} - [0:0]" for name in step.chains if name not in edited)
    for name, chain in step.chains.items():
        if chain is not None:
            yield from edited.get(name) or (rule_text(name, rule) for rule in chain.rules)
    for hook, target in step.hooks.items():
        before = hooks.get((step.family, step.table, hook))
        if before is not None:
            yield f"-D {hook} -j {before}"
        if target is not None:
            yield f"-I {hook} 1 -j {target}"
    yield from (f"-X {name}" for name, chain in step.chains.items() if chain is None)
    yield "COMMIT"


def _edited(step: Restore, there: Mapping[ChainKey, XtChain]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the chains of which rules are deleted and inserted, and the lines that do it."""
    for name, chain in step.chains.items():
        before = there.get((step.family, step.table, name))
        if chain is None or before is None or not follows_members(chain.origin):
            continue
        if lines := edits(name, before, chain):
            yield name, lines


def stray_input(before: XtListing, after: XtRuleset, family: Family, *, leaving: bool) -> str:
    """Return the input that deletes jumps of ours that stand elsewhere than first in their place; '' without one.

    leaving: of those only the jumps to chains that go, otherwise only those to chains that stay
    """
    lines: list[str] = []
    for table in TABLES:
        stray = [
            (chain, rule)
            for of_family, of_table, chain, rule in before.stray
            if (of_family, of_table) == (family, table)
            and ((family, table, rule.target[1]) not in after.chains) == leaving
        ]
        if stray:
            lines += (f"*{table}", *(" ".join(("-D", chain, *rule_words(rule))) for chain, rule in stray))
            lines += _hooks_again({chain for chain, _ in stray}, before if leaving else XtListing(after), family, table)
            lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def _hooks_again(disturbed: set[str], there: XtListing, family: Family, table: TableName) -> Iterator[str]:
    """Put the jumps of these chains there again: deleting a second one deletes the first of both, which is equal."""
    for (of_family, of_table, hook), target in there.ruleset.hooks.items():
        if (of_family, of_table) == (family, table) and hook in disturbed:
            yield f"-D {hook} -j {target}"
            yield f"-I {hook} 1 -j {target}"
