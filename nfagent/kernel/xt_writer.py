"""Takes the steps that make our sets, chains and counters of iptables what is wanted. Blocking.

Each step is one call to the kernel, or one run of iptables-restore; their order is that of `xtables.order`.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from nfagent.errors import KernelError
from nfagent.kernel.ipset_refusals import SetRefusedError
from nfagent.kernel.xt_errors import RestoreRefusedError
from nfagent.kernel.xt_family_steps import FamilySteps
from nfagent.kernel.xt_listing import XtKernel
from nfagent.model.netaddr import Family
from nfagent.xtables.changes import StepGroup, grouped, members_of_group, restore_input, stray_input
from nfagent.xtables.listing import XtListing
from nfagent.xtables.objects import ChainKey, IpSet, SetMember, XtChain, XtRuleset
from nfagent.xtables.order import StepOrder
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

log = logging.getLogger(__name__)


class XtWriter:
    """Writes to one kernel. What can't be deleted, as another program uses it, is left and logged once."""

    def __init__(self, kernel: XtKernel) -> None:
        """Store what is written by."""
        self._kernel = kernel
        self._left: set[str] = set()
        self._order = StepOrder()

    @property
    def left(self) -> tuple[str, ...]:
        """Sets without use that could not be deleted, as others refer to them."""
        return tuple(sorted(self._left))

    def steps(self, before: XtListing, after: XtRuleset) -> tuple[Step, ...]:
        """Return the steps that make what is there the ruleset."""
        return self._order.steps(before.ruleset, after)

    def write(self, before: XtListing, after: XtRuleset, ordered: tuple[Step, ...] | None = None) -> None:
        """Make what is there the ruleset; what is refused of one family stops nothing of the other.

        ordered: what `steps` has returned for it

        Raises KernelError, HostError; then a part of it may be in force.
        """
        self._left -= after.sets.keys()
        families = FamilySteps(before.ruleset, after)
        chains = dict(before.ruleset.chains)
        self._restore_stray(before, after, families, leaving=True)
        for group in grouped(self.steps(before, after) if ordered is None else ordered):
            with families.attempt(families.concern(group[0])) as taken:
                if taken:
                    self._take(group, before, after, chains)
        self._restore_stray(before, after, families, leaving=False)
        families.end()

    def destroy_left(self) -> None:
        """Destroy the sets that were left, as far as no rule refers to them any more. Raises HostError."""
        for name in self.left:
            with suppress(SetRefusedError):
                self._kernel.sets.destroy(name)
                self._left.discard(name)

    def add_members(self, members: dict[str, list[SetMember]]) -> None:
        """Add members to sets that the packets fill too. Raises SetFullError, KernelError, HostError."""
        for name, added in sorted(members.items()):
            self._kernel.sets.change("add", name, added)

    def _restore_stray(self, before: XtListing, after: XtRuleset, families: FamilySteps, *, leaving: bool) -> None:
        for family in self._kernel.families if before.stray else ():
            text = stray_input(before, after, family, leaving=leaving)
            with families.attempt(family) as taken:
                if text and taken:
                    self._kernel.programs.restore(family, text)

    def _take(self, group: StepGroup, before: XtListing, after: XtRuleset, chains: dict[ChainKey, XtChain]) -> None:
        sets = self._kernel.sets
        match group[0]:
            case CreateSet(name, item):
                self._create(name, item)
            case AddMember(name):
                sets.change("add", name, members_of_group(group))
            case DeleteMember(name):
                sets.change("delete", name, members_of_group(group))
            case SwapSets(name, other):
                sets.swap(name, other)
            case DestroySet(name):
                self._destroy(name, needed=name in after.sets)
            case Restore(family):
                self._restore(family, tuple(step for step in group if isinstance(step, Restore)), before, chains)
            case AddAccounts(names) | DeleteAccounts(names):
                self._change_accounts(names, adding=isinstance(group[0], AddAccounts))

    def _restore(
        self, family: Family, steps: tuple[Restore, ...], before: XtListing, chains: dict[ChainKey, XtChain]
    ) -> None:
        """Write chains, by those that are there. Where the kernel has others by now, all of each chain is written."""
        hooks = before.ruleset.hooks
        # A second try would not find the jumps that the first one has changed in another table.
        there = {} if any(step.hooks for step in steps) else chains
        text = restore_input(steps, hooks, there)
        try:
            self._kernel.programs.restore(family, text)
        except RestoreRefusedError:
            whole = restore_input(steps, hooks)
            if text == whole:
                raise
            self._kernel.programs.restore(family, whole)
        for step in steps:
            for name, chain in step.chains.items():
                chains.pop((family, step.table, name), None)
                if chain is not None:
                    chains[family, step.table, name] = chain

    def _create(self, name: str, item: IpSet) -> None:
        self._kernel.sets.create(name, item)
        self._kernel.sets.change("add", name, sorted(item.members, key=str))

    def _destroy(self, name: str, *, needed: bool) -> None:
        """Destroy a set; needed: one of the same name follows."""
        try:
            self._kernel.sets.destroy(name)
        except SetRefusedError as error:
            if needed:
                raise
            if name not in self._left:
                log.warning("%s; it is left, without effect", error)
            self._left.add(name)

    def _change_accounts(self, names: tuple[str, ...], *, adding: bool) -> None:
        accounts = self._kernel.accounts
        if accounts is None:
            return
        for name in names:
            if adding:
                accounts.create(name)
                continue
            with suppress(KernelError):  # another program's rule counts by it
                accounts.delete(name)
