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

    origins: what the prefixes of their log rules stand for
    """

    def __init__(self, live: RulesetTracker, log: LogConfig) -> None:
        """Start without any."""
        self._live = live
        self._log = log
        self._users: RefCounts[VerdictKey] = RefCounts()
        self.origins = VerdictKeys()

    def use(self, outcome: VerdictKey) -> None:
        """Count one more chain that goes there; the first makes it."""
        if self._users.acquire(outcome):
            self._live.put_counter(outcome.name)
            self._live.put_chain(outcome.name, outcome_chain(outcome, self._log))
            self.origins.add(outcome)

    def release(self, outcome: VerdictKey) -> None:
        """Count one chain less; the last takes it away."""
        if self._users.release(outcome):
            self._live.drop_chain(outcome.name)
            self._live.drop_counter(outcome.name)
            self.origins.retire(outcome)

    def switch(self, log: LogConfig) -> None:
        """Log as planned from now on."""
        self._log = log
        for outcome in self._users:
            self._live.put_chain(outcome.name, outcome_chain(outcome, log))
