"""Outcome chains in use: what policies allow and deny, counted and logged in one place each.

Switching the log on or off changes these chains alone, whatever leads to them.
"""

from __future__ import annotations

from nfagent.desired.tracker import RulesetTracker
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables.policy_chains import LogConfig, outcome_chain
from nfagent.nftables.verdict_keys import VerdictKey, VerdictKeys


class VerdictChains:
    """Outcome chains and their counters, counted by the chains that go to them.

    keys: what the prefixes of their log rules stand for
    """

    def __init__(self, live: RulesetTracker, log: LogConfig) -> None:
        """Start without any."""
        self._live = live
        self._log = log
        self._users: RefCounts[VerdictKey] = RefCounts()
        self.keys = VerdictKeys()

    def acquire(self, key: VerdictKey) -> None:
        """Count one more chain that goes there; the first makes it."""
        if self._users.acquire(key):
            self._live.put_counter(key.name)
            self._live.put_chain(key.name, outcome_chain(key, self._log))
            self.keys.add(key)

    def release(self, key: VerdictKey) -> None:
        """Count one chain less; the last takes it away."""
        if self._users.release(key):
            self._live.drop_chain(key.name)
            self._live.drop_counter(key.name)
            self.keys.retire(key)

    def set_log(self, log: LogConfig) -> None:
        """Log as planned from now on."""
        self._log = log
        for key in self._users:
            self._live.put_chain(key.name, outcome_chain(key, log))
