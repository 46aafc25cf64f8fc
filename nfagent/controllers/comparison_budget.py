"""Limits how much of the time comparisons of the table take, which other programs cause. Pure: times are passed in."""

from __future__ import annotations

_SHARE, _BURST = 0.05, 3.0
"""Token bucket: comparisons and repairs use at most 5 % of the time, after a burst of 3 s."""


class ComparisonBudget:
    """The credit of comparisons, in seconds.

    compared_at: when the last comparison ended, in monotonic seconds
    """

    def __init__(self) -> None:
        """Start with a full bucket."""
        self.compared_at = 0.0
        self._credit = _BURST

    def compared(self, began: float, ended: float, cost: float) -> None:
        """Subtract a comparison from the credit. cost: its seconds, of a clock or of the CPU.

        Debts don't add up: comparisons after refusals wait for no credit, and must not delay those of others' changes.
        """
        credit = min(_BURST, self._credit + (began - self.compared_at) * _SHARE)
        self._credit = max(credit, 0.0) - cost
        self.compared_at = ended

    def repaired(self, cost: float) -> None:
        """Subtract the repair that followed the last comparison."""
        self._credit -= cost

    def next_comparison(self) -> float:
        """Return the monotonic time from which there is credit for a comparison."""
        return self.compared_at - self._credit / _SHARE
