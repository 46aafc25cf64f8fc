"""Two rulesets and the transaction between them, in a kernel that refuses what nftables refuses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfagent.model.gvk import Item
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, Ruleset
from nfagent.nftables.render import table_text
from nfagent.nftables.transaction import ChangeElements, ChangeMapElements
from tests.properties.objects import pods
from tests.properties.strategies import IN_NO_RANGE, desired, worlds
from tests.support.fake_nftables import FakeNftables

RULESETS = worlds().map(lambda world: desired("a", world).ruleset())


@given(RULESETS, RULESETS)
def test_applying_the_difference_gives_the_other_ruleset(before: Ruleset, after: Ruleset) -> None:
    kernel = FakeNftables(before)
    kernel.apply(diff(before, after))
    assert kernel.ruleset == after


@given(RULESETS)
def test_a_ruleset_comes_from_nothing_and_goes_to_nothing(ruleset: Ruleset) -> None:
    kernel = FakeNftables()
    kernel.apply(diff(ABSENT, ruleset))
    assert kernel.ruleset == ruleset
    kernel.apply(diff(ruleset, ABSENT))
    assert kernel.ruleset == ABSENT


@given(worlds())
def test_equal_states_need_no_transaction_and_have_the_same_text(world: list[Item]) -> None:
    once, again = (desired("a", world).ruleset() for _ in range(2))
    assert diff(once, again) == ()
    assert table_text(once) == table_text(again)


@given(worlds(), pods())
def test_a_pod_without_policy_that_comes_or_goes_changes_elements_only(world: list[Item], pod: Item) -> None:
    known = desired("b", [IN_NO_RANGE, *world])
    before = known.ruleset()
    known.put(pod)
    after = known.ruleset()
    if before.chains == after.chains:
        commands = diff(before, after)
        assert [item for item in commands if not isinstance(item, ChangeElements | ChangeMapElements)] == []


@given(st.lists(RULESETS, min_size=2, max_size=4))
def test_a_chain_of_changes_leaves_nothing_behind(rulesets: list[Ruleset]) -> None:
    kernel = FakeNftables()
    for ruleset in rulesets:
        kernel.apply(diff(kernel.ruleset, ruleset))
    assert kernel.ruleset == rulesets[-1]
