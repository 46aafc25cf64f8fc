"""What an evaluation leaves in memory: the verdict log makes one for each record, and shows no rule's text."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Iterator

from nfagent.model.admin_policy import TierRule
from tests.unit.policy.tier_cluster import admin, deny, judged, pods

RULES = 200
"""Of one evaluation: where their texts were kept beside them, each evaluation left 136 to 154 KB."""

MOST_BYTES = 16 * 1024


def rules(evaluation: int) -> Iterator[TierRule]:
    """Yield rules that no other evaluation has, and that select no Pod."""
    for number in range(RULES):
        yield deny(pods(app=f"app-{evaluation}-{number}-{'x' * 40}"))


def test_a_rule_that_was_evaluated_leaves_no_text() -> None:
    held = []
    tracemalloc.start(1)
    try:
        for evaluation in range(4):
            found = judged(admin("p", 1, *rules(evaluation))).ingress
            assert found is not None
            assert len(found.stages[0].rules) == RULES
            del found
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    left = [later - earlier for earlier, later in itertools.pairwise(held)]
    assert min(left) < MOST_BYTES, f"{left} bytes after {RULES} rules each"
