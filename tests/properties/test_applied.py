"""The ruleset that a transaction makes, without a kernel."""

from __future__ import annotations

import pytest
from hypothesis import given

from nfagent.errors import WireError
from nfagent.nftables.applied import applied
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, NamedSet, Ruleset
from nfagent.nftables.transaction import ChangeElements, Delete
from tests.properties.strategies import desired, worlds

RULESETS = worlds().map(lambda world: desired("a", world).ruleset())


@given(RULESETS, RULESETS)
def test_the_difference_makes_one_ruleset_the_other(before: Ruleset, after: Ruleset) -> None:
    assert applied(before, diff(before, after)) == after


@given(RULESETS)
def test_the_ruleset_before_stays_as_it_is(ruleset: Ruleset) -> None:
    maps = {name: dict(item.elements) for name, item in ruleset.maps.items()}

    assert applied(ruleset, diff(ruleset, ABSENT)) == ABSENT
    assert {name: item.elements for name, item in ruleset.maps.items()} == maps


def test_elements_that_the_kernel_adds_by_itself_are_not_kept() -> None:
    flows = Ruleset(sets={"revoked4": NamedSet("flow", 4)})

    assert applied(flows, (ChangeElements("add", "revoked4", (("10.0.0.1", "tcp", 1, "10.0.0.2", 2),)),)) == flows


@pytest.mark.parametrize(
    "command", [ChangeElements("add", "x", ("10.0.0.1",)), Delete("chain", "x")], ids=["elements", "deletion"]
)
def test_a_command_about_nothing_is_an_error(command: ChangeElements | Delete) -> None:
    with pytest.raises(WireError, match="there is no such object"):
        applied(Ruleset(), (command,))
