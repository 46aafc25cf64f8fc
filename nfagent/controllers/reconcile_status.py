"""What the agent shows of its reconciler, in `dump state` and metrics."""

from __future__ import annotations

import msgspec


class ReconcileStatus(msgspec.Struct):
    """The state of the reconciler; `variants` is `worded` in `dump state`.

    in_sync:      the kernel has the whole desired ruleset
    transactions: number of commits      commands: number of commands in all of them
    failures:     consecutive failures since the last success; `last_error` is the latest one, '' after success
    failed:       number of failures so far
    comparisons:  number of comparisons of the whole table
    drifts:       number of comparisons that found changes by other programs
    drift_by:     the program of the latest drift, '' for an unknown one
    variants:     objects that the kernel lists differently than they were written, by the last repair
    held:         why the table stays unchanged; '' where it may be changed
    applied_at:   monotonic time of the last commit
    in_sync_at:   monotonic time of the last change of what the kernel holds, or of the end of what prevented one
    """

    in_sync: bool = False
    transactions: int = 0
    commands: int = 0
    failures: int = 0
    failed: int = 0
    comparisons: int = 0
    drifts: int = 0
    drift_by: str = ""
    variants: tuple[str, ...] = msgspec.field(default=(), name="worded")
    held: str = ""
    last_error: str = ""
    applied_at: float = 0.0
    in_sync_at: float = 0.0
