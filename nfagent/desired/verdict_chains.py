"""Verdict chains in use: each counts and logs what one set of policies allows or denies.

Switching the log changes the elements of two sets, and no rule.
"""

from __future__ import annotations

from nfagent.desired.tracker import RulesetTracker
from nfagent.model.netaddr import FAMILIES
from nfagent.model.objects import NetworkLogging
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables.policy_chains import LOGGING_ALLOWS, LOGGING_DENIES, logging_sets, render_verdict_chain
from nfagent.nftables.verdict_keys import VerdictKey, VerdictKeys
from nfagent.xtables import names as xtables_names


class VerdictChains:
    """The verdict chains with their counters, each with the number of chains that go to it.

    keys: log prefix -> the verdict that it stands for
    """

    def __init__(self, live: RulesetTracker, log_group: int) -> None:
        """Start without chains, and with logging switched off."""
        self._live = live
        self._log_group = log_group
        self._users: RefCounts[VerdictKey] = RefCounts()
        self.keys = VerdictKeys(xtables_names.log_prefix)
        for name, shape in logging_sets():
            live.add_set(name, shape)

    def acquire(self, key: VerdictKey) -> None:
        """Add a chain that goes to a verdict chain; the first one creates it."""
        if self._users.acquire(key):
            self._live.put_counter(key.name)
            self._live.put_chain(key.name, render_verdict_chain(key, self._log_group))
            self.keys.add(key)

    def release(self, key: VerdictKey) -> None:
        """Remove a chain that went to a verdict chain; the last one removes it."""
        if self._users.release(key):
            self._live.drop_chain(key.name)
            self._live.drop_counter(key.name)
            self.keys.retire(key)

    def switch_logging(self, before: NetworkLogging, after: NetworkLogging) -> None:
        """Switch what is logged from one state to another."""
        for name, was, now in (
            (LOGGING_ALLOWS, before.allow.log, after.allow.log),
            (LOGGING_DENIES, before.deny.log, after.deny.log),
        ):
            if was != now:
                change = self._live.add if now else self._live.remove
                for family in FAMILIES:
                    change(name, family)
