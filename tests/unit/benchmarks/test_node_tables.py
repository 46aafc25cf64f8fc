"""Tables of a requested size: about as many sets as chains, and the same policy added to each."""

from __future__ import annotations

import pytest

from benchmarks.data.node_tables import node_table
from nfagent.desired.state import DesiredState
from nfagent.lab.objects.synthetic import NODE

SIZES = (50, 200, 700)


def loaded(chains: int) -> DesiredState:
    desired = DesiredState(NODE)
    for item in node_table(chains).items:
        desired.put(item)
    return desired


@pytest.mark.parametrize("chains", SIZES)
def test_a_table_has_about_the_requested_chains_and_as_many_sets(chains: int) -> None:
    ruleset = loaded(chains).ruleset()
    assert len(ruleset.chains) == pytest.approx(chains, abs=8)
    assert len(ruleset.sets) == pytest.approx(chains, abs=12)


def test_the_added_policy_is_the_same_transaction_at_every_size() -> None:
    transactions = set()
    for chains in SIZES:
        desired = loaded(chains)
        desired.ruleset()
        desired.mark_synced()
        created, deleted = node_table(chains).changes(2)
        created.apply(desired)
        transactions.add(desired.drain_changes())
        deleted.apply(desired)
        assert desired.drain_changes()
    assert len(transactions) == 1
