"""Tells which changes of sets are so small that they are made at once, without a thread."""

from __future__ import annotations

from nfagent.nftables.objects import Ruleset
from nfagent.nftables.transaction import ChangeElements, Transaction
from nfagent.xtables.steps import AddMember, CreateSet, DeleteMember, DestroySet, Step, SwapSets

_FEW, _MANY, _FILLED = 64, 20_000, 500
"""Elements that a transaction changes, those of the sets that it changes, members of new sets: milliseconds at most."""


def is_small(transaction: Transaction, source: Ruleset) -> bool:
    """Return whether a transaction changes some elements of sets that aren't large, and nothing else."""
    changes = [command for command in transaction if isinstance(command, ChangeElements)]
    return (
        len(changes) == len(transaction)
        and sum(len(command.elements) for command in changes) <= _FEW
        and sum(len(source.sets[command.set].elements) for command in changes if command.set in source.sets) <= _MANY
    )


def are_small(steps: tuple[Step, ...]) -> bool:
    """Return whether steps take milliseconds: they change sets, and fill new ones with few members."""
    filled = sum(len(step.item.members) for step in steps if isinstance(step, CreateSet))
    kinds = AddMember | DeleteMember | CreateSet | SwapSets | DestroySet
    return filled <= _FILLED and all(isinstance(step, kinds) for step in steps)
