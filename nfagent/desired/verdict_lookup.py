"""The verdicts that NFLOG prefixes stand for: pending changes are computed where one isn't known without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nfagent.desired.policy_sets import PolicySets
from nfagent.desired.shared_steps import SharedSteps
from nfagent.nftables.verdict_keys import VerdictKey, VerdictKeys
from nfagent.xtables.names import is_cut

_T = TypeVar("_T")


class VerdictLookup:
    """Looks prefixes up among the verdicts of the ruleset, and for some time of rules that were removed."""

    def __init__(self, policy_sets: PolicySets, steps: SharedSteps) -> None:
        """Store the policy sets, and the computation of pending changes to them."""
        self._policy_sets = policy_sets
        self._steps = steps

    def key(self, prefix: str) -> VerdictKey | None:
        """Return the verdict of a prefix, None for an unknown one."""
        return self._found(lambda keys: keys.get(prefix))

    def whole(self, written: str) -> str:
        """Return the prefix that is written so with iptables: another one where it was too long."""
        found = self._found(lambda keys: keys.whole(written)) if is_cut(written) else None
        return found or written

    @property
    def retirements(self) -> int:
        """How often the rules of a verdict were removed so far, by changes that are computed."""
        return self._policy_sets.verdict_chains.keys.retirements

    def forget_retired(self, until: int) -> None:
        """Forget the verdicts of the first `until` retirements."""
        self._policy_sets.verdict_chains.keys.forget_retired(until)

    def _found(self, look: Callable[[VerdictKeys], _T | None]) -> _T | None:
        keys = self._policy_sets.verdict_chains.keys
        found = look(keys)
        if found is None and not self._policy_sets.is_current:
            self._steps.finish()
            found = look(keys)
        return found
