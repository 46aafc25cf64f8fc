"""Verdict chains in use: each counts and logs what one set of policies allows or denies.

Turning the log on or off changes these chains only, not the chains that go to them.
"""

from __future__ import annotations

from nfagent.desired.tracker import RulesetTracker
from nfagent.model.ref_counts import RefCounts
from nfagent.nftables.policy_chains import LogConfig, render_verdict_chain
from nfagent.nftables.verdict_keys import VerdictKey, VerdictKeys


class VerdictChains:
    """The verdict chains with their counters, each with the number of chains that go to it.

    keys: log prefix -> the verdict that it stands for
    """

    def __init__(self, live: RulesetTracker, log: LogConfig) -> None:
        """Start without chains."""
        self._live = live
        self._log = log
        self._users: RefCounts[VerdictKey] = RefCounts()
        self.keys = VerdictKeys()

    def acquire(self, key: VerdictKey) -> None:
        """Add a chain that goes to a verdict chain; the first one creates it."""
        if self._users.acquire(key):
            self._live.put_counter(key.name)
            self._live.put_chain(key.name, render_verdict_chain(key, self._log))
            self.keys.add(key)

    def release(self, key: VerdictKey) -> None:
        """Remove a chain that went to a verdict chain; the last one removes it."""
        if self._users.release(key):
            self._live.drop_chain(key.name)
            self._live.drop_counter(key.name)
            self.keys.retire(key)

    def set_log(self, log: LogConfig) -> None:
        """Apply another log configuration to every verdict chain."""
        self._log = log
        for key in self._users:
            self._live.put_chain(key.name, render_verdict_chain(key, log))
