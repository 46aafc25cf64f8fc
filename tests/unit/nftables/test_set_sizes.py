"""Dynamic sets are resized to a larger capacity; the capacity is never a difference."""

from __future__ import annotations

import pytest

from nfagent.desired.state import DesiredState
from nfagent.nftables.objects import ABSENT, FLOW_SET_SIZE, NamedSet, Ruleset
from nfagent.nftables.render import table_text
from nfagent.nftables.set_sizes import resize_commands, with_desired_sizes
from nfagent.nftables.transaction import AddSet

SMALL, LARGE = FLOW_SET_SIZE, 4 * FLOW_SET_SIZE


def ways(size: int, comment: str = "ways") -> Ruleset:
    return Ruleset(sets={"revoked4": NamedSet("flow", 4, comment=comment, size=size), "a": NamedSet("address", 4)})


@pytest.mark.parametrize(
    ("listed", "wanted", "grows"),
    [
        pytest.param(SMALL, LARGE, True, id="a smaller one grows"),
        pytest.param(LARGE, SMALL, False, id="a larger one stays"),
        pytest.param(LARGE, LARGE, False, id="one as large as wanted stays"),
    ],
)
def test_a_size_counts_as_wanted_and_a_smaller_one_is_made_larger(listed: int, wanted: int, *, grows: bool) -> None:
    before, after = ways(listed), ways(wanted)
    assert with_desired_sizes(before, after) == after
    assert resize_commands(before, after) == ((AddSet("revoked4", after.sets["revoked4"]),) if grows else ())


@pytest.mark.parametrize(
    "listed", [ABSENT, Ruleset(), ways(SMALL, "of another program")], ids=["no table", "none", "x"]
)
def test_what_is_missing_or_another_set_is_left_to_the_comparison(listed: Ruleset) -> None:
    assert with_desired_sizes(listed, ways(LARGE)) == listed
    assert resize_commands(listed, ways(LARGE)) == ()


def test_both_families_have_the_given_capacity_after_a_fresh_compile_too() -> None:
    desired = DesiredState("a", reply_tuples=LARGE)
    for each in (desired, desired.rebuilt()):
        assert {item.size for item in each.ruleset().sets.values() if item.kind == "flow"} == {LARGE}
    assert table_text(desired.ruleset()).count(f"size {LARGE}") == 2
