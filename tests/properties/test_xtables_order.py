"""The order of a change is the same whether the changes before it were followed, or nothing is known of them."""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.xtables.incremental import IncrementalLowering
from nfagent.xtables.objects import XtRuleset
from nfagent.xtables.options import LoweringOptions
from nfagent.xtables.order import StepOrder, steps
from nfagent.xtables.steps import Step
from tests.properties.strategies import RANDOM, histories
from tests.support.fake_xtables import FakeXtables

_OPTIONS = LoweringOptions()


def read_again(ruleset: XtRuleset) -> XtRuleset:
    """Return an equal ruleset of other objects, as a comparison with the kernel finds it."""
    sets = {name: msgspec.structs.replace(item) for name, item in ruleset.sets.items()}
    chains = {key: msgspec.structs.replace(chain) for key, chain in ruleset.chains.items()}
    return XtRuleset(sets, chains, dict(ruleset.hooks), ruleset.accounts)


def broken_off(kernel: FakeXtables, order: tuple[Step, ...], random: Random) -> XtRuleset:
    """Take some of the steps, and return what is there then."""
    for step in order[: random.randrange(len(order) + 1)]:
        kernel.apply(step)
    return kernel.ruleset


@settings(max_examples=settings().max_examples // 2)
@given(histories(), st.integers(1, 3), RANDOM)
def test_what_is_kept_between_changes_makes_no_difference_to_their_order(
    history: list[Item | ObjectRef], batch: int, random: Random
) -> None:
    view = DesiredState("a")
    lowering = IncrementalLowering(_OPTIONS, view.ruleset())
    view.mark_synced()
    order = StepOrder()
    there = lowering.ruleset
    for start in range(0, len(history), batch):
        for item in history[start : start + batch]:
            if isinstance(item, ObjectRef):
                view.remove(item)
            else:
                view.put(item)
        wanted = lowering.apply(view.drain_changes())
        found = order.steps(there, wanted)
        assert found == steps(read_again(there), read_again(wanted))
        kernel = FakeXtables(there)
        match random.randrange(4):
            case 0:
                there = read_again(wanted)
            case 1:
                there = broken_off(kernel, found, random)
            case _:
                there = wanted


@settings(max_examples=settings().max_examples // 5)
@given(histories(), RANDOM)
def test_after_a_change_that_was_broken_off_the_next_one_makes_the_ruleset(
    history: list[Item | ObjectRef], random: Random
) -> None:
    view = DesiredState("a")
    lowering = IncrementalLowering(_OPTIONS, view.ruleset())
    view.mark_synced()
    order, kernel = StepOrder(), FakeXtables(lowering.ruleset)
    there = wanted = lowering.ruleset
    for item in history:
        if isinstance(item, ObjectRef):
            view.remove(item)
        else:
            view.put(item)
        wanted = lowering.apply(view.drain_changes())
        there = broken_off(kernel, order.steps(there, wanted), random)
    for step in order.steps(there, wanted):
        kernel.apply(step)
    assert kernel.ruleset == wanted
