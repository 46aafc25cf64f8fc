"""Keeps the families of a change apart: what is refused of one stops the rest of that one only.

The steps of one family are in an order that a missing step breaks, so the rest of them isn't taken: its old rules hold.
Sets of both families' packets (ports) gain members first, so that more is dropped, and lose them last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

from nfagent.errors import HostError, KernelError
from nfagent.kernel.xt_errors import LockHeldError
from nfagent.model.netaddr import FAMILIES, Family
from nfagent.xtables.objects import IpSet, XtRuleset
from nfagent.xtables.steps import AddAccounts, AddMember, CreateSet, DeleteMember, DestroySet, Restore, Step, SwapSets

Concern: TypeAlias = Literal[4, 6, "first", "last"]
"""Which packets a step is about: those of one family, or of both, with a place before or behind their own steps."""


class FamilySteps:
    """What was refused of a change so far."""

    def __init__(self, before: XtRuleset, after: XtRuleset) -> None:
        """Store the rulesets, whose sets the steps name."""
        self._sets: dict[str, IpSet] = {**before.sets, **after.sets}
        self._refused: dict[Family, KernelError | HostError] = {}

    @contextmanager
    def attempt(self, concern: Concern) -> Iterator[bool]:
        """Yield whether steps of this concern are taken; a refusal within is kept for `end`.

        A held lock concerns all steps, and each would wait for it anew: LockHeldError passes.
        """
        needed = _needed(concern)
        try:
            yield self._refused.keys().isdisjoint(needed)
        except LockHeldError:
            raise
        except (KernelError, HostError) as error:
            for family in needed or FAMILIES:
                self._refused.setdefault(family, error)

    def concern(self, step: Step) -> Concern:
        """Return which packets a step is about."""
        match step:
            case CreateSet(name, item):
                self._sets.setdefault(name, item)  # a copy
                return _of_set(item, "first")
            case AddMember(name):
                return _of_set(self._sets[name], "first")
            case DeleteMember(name) | SwapSets(name) | DestroySet(name):
                return _of_set(self._sets[name], "last")
            case Restore(family):
                return family
        return "first" if isinstance(step, AddAccounts) else "last"

    def end(self) -> None:
        """Raise the first refusal: KernelError or HostError."""
        for error in self._refused.values():
            raise error


def _needed(concern: Concern) -> tuple[Family, ...]:
    """Return the families of which nothing may be refused before."""
    if concern == "first":
        return ()
    return FAMILIES if concern == "last" else (concern,)


def _of_set(item: IpSet, shared: Literal["first", "last"]) -> Concern:
    return shared if item.type == "bitmap:port" else item.family
