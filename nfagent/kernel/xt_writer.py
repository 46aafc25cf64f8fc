"""Changes our sets, chains and counters of iptables from what is there to what is wanted. Blocking.

A set is changed member by member; the chains of one table and family change in one moment. What is referred to comes
first, and goes last.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from nfagent.errors import KernelError
from nfagent.kernel.ipset_refusals import SetRefusedError
from nfagent.kernel.xt_listing import XtKernel
from nfagent.xtables.changes import restore_changes
from nfagent.xtables.listing import XtListing
from nfagent.xtables.names import temporary
from nfagent.xtables.objects import IpSet, SetMember, XtRuleset

log = logging.getLogger(__name__)


class XtWriter:
    """Writes to one kernel. What can't be deleted, as another program uses it, is left and logged once."""

    def __init__(self, kernel: XtKernel) -> None:
        """Store what is written by."""
        self._kernel = kernel
        self._left: set[str] = set()

    @property
    def left(self) -> tuple[str, ...]:
        """Sets and counters without use that could not be deleted, as others refer to them."""
        return tuple(sorted(self._left))

    def write(self, before: XtListing, after: XtRuleset) -> None:
        """Make what is there the ruleset. Raises KernelError, HostError; then a part of it may be in force."""
        old = before.ruleset
        if self._kernel.accounts is not None:
            for name in sorted(after.accounts - old.accounts):
                self._kernel.accounts.create(name)
        for name in sorted(after.sets):
            self._write_set(name, old.sets.get(name), after.sets[name])
        for family in self._kernel.families:
            text = restore_changes(before, after, family)
            if text:
                self._kernel.programs.restore(family, text)
        self._delete(old, after)

    def add_members(self, members: dict[str, list[SetMember]]) -> None:
        """Add members to sets that the packets fill too. Raises SetFullError, KernelError, HostError."""
        for name, added in sorted(members.items()):
            self._kernel.sets.change("add", name, added)

    def _write_set(self, name: str, old: IpSet | None, new: IpSet) -> None:
        sets = self._kernel.sets
        if old is new:
            return
        if old is None:
            sets.create(name, new)
            sets.change("add", name, _ordered(new.members))
        elif _shape(old) != _shape(new):
            self._replace_set(name, old, new)
        else:
            sets.change("add", name, _ordered(new.members - old.members))
            sets.change("delete", name, _ordered(old.members - new.members))

    def _replace_set(self, name: str, old: IpSet, new: IpSet) -> None:
        """Replace a set of another shape: at once where the type is the same, else nothing of ours refers to it."""
        sets = self._kernel.sets
        filled = temporary(name)
        sets.destroy(filled)
        sets.create(filled, new)
        sets.change("add", filled, _ordered(new.members))
        if old.type.partition(" ")[0] == new.type and old.family == new.family:
            sets.swap(filled, name)
            sets.destroy(filled)
            return
        sets.destroy(name)
        sets.rename(filled, name)

    def _delete(self, old: XtRuleset, new: XtRuleset) -> None:
        left: set[str] = set()
        for name in sorted(old.sets.keys() - new.sets.keys()):
            try:
                self._kernel.sets.destroy(name)
            except SetRefusedError as error:
                left.add(name)
                if name not in self._left:
                    log.warning("%s; it is left, without effect", error)
        if self._kernel.accounts is not None:
            for name in sorted(old.accounts - new.accounts):
                with suppress(KernelError):  # another program's rule counts by it
                    self._kernel.accounts.delete(name)
        self._left = left


def _shape(item: IpSet) -> IpSet:
    return msgspec.structs.replace(item, members=frozenset(), origin="")


def _ordered(members: Iterable[SetMember]) -> list[SetMember]:
    return sorted(members, key=str)
