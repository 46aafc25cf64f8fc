"""Tells whether another program has changed our rules or sets, as cheaply as it can be told. Blocking.

A look compares what the kernel tells quickly (`xt_fingerprint`) with the look before. Only where that differs, and once
after a change of our own, everything is listed and compared with what was written.
"""

from __future__ import annotations

from collections.abc import Callable

from nfagent.kernel.look_budget import LookBudget
from nfagent.kernel.xt_fingerprint import Fingerprint, entries_of, fingerprint, lacks_entries
from nfagent.kernel.xt_listing import XtKernel
from nfagent.model.netaddr import Family
from nfagent.system.cpu_time import thread_cpu_seconds
from nfagent.xtables.listing import XtListing
from nfagent.xtables.objects import TableName, XtRuleset

_NEVER = -1


class XtLooks:
    """The looks at one kernel."""

    def __init__(self, kernel: XtKernel, read: Callable[[XtRuleset], XtListing]) -> None:
        """Store what is looked at. read: lists our objects, given what was written."""
        self._kernel = kernel
        self._read = read
        self._seen: Fingerprint | None = None  # at the look before
        self._version = _NEVER  # of what was written then
        self._verified = False  # whether what was seen is what was written
        self._entries: dict[tuple[Family, TableName], int] = {}  # of the tables, written

    def is_changed(
        self,
        written: XtListing,
        version: int,
        budget: LookBudget,
        is_current: Callable[[], bool],
        *,
        with_content: bool,
    ) -> bool:
        """Return whether another program has changed what was written.

        version:      of what was written
        is_current:   whether nothing else was written meanwhile; otherwise the next look tells
        with_content: rules and members are read too, otherwise only their numbers and sizes
        Raises KernelError, HostError.
        """
        began = thread_cpu_seconds()
        now = fingerprint(self._kernel, written.ruleset, with_content=with_content)
        if version != self._version:
            # What others changed since our own change is found by the listing.
            self._seen, self._version, self._verified = now, version, False
            self._entries = entries_of(written.ruleset)
        budget.looked(thread_cpu_seconds() - began, with_content=with_content)
        if lacks_entries(now, self._kernel, self._entries):
            return self._found(is_current())
        differs = not now.is_same(self._seen)
        if (not differs and self._verified) or not budget.may_list(urgent=differs):
            return False
        began = thread_cpu_seconds()
        is_equal = self._read(written.ruleset) == written
        budget.listed(thread_cpu_seconds() - began)
        if not is_current():
            return False
        if is_equal:
            self._seen, self._verified = now, True
        return self._found(not is_equal)

    def _found(self, is_changed: bool) -> bool:  # noqa: FBT001 - the result
        if is_changed:
            self._version = _NEVER
        return is_changed
