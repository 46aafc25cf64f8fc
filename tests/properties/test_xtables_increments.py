"""The lowered ruleset after any history of transactions is that of the whole desired ruleset."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT
from nfagent.xtables.incremental import IncrementalLowering
from nfagent.xtables.lowering import lower
from nfagent.xtables.objects import EMPTY
from nfagent.xtables.options import LoweringOptions
from tests.properties.strategies import histories
from tests.properties.test_xtables_lowering import LINKS

_OPTIONS = LoweringOptions()


@settings(max_examples=settings().max_examples // 5)
@given(histories(), st.integers(1, 4), st.integers(0, 12))
def test_transactions_lead_to_the_lowering_of_the_whole_ruleset(
    history: list[Item | ObjectRef], batch: int, links_come: int
) -> None:
    view = DesiredState("a")
    lowering = IncrementalLowering(_OPTIONS, view.ruleset())
    view.mark_synced()
    for number, item in enumerate(history):
        if isinstance(item, ObjectRef):
            view.remove(item)
        else:
            view.put(item)
        if number == links_come:
            view.follow_links(LINKS)
        if number % batch == 0:
            changed = lowering.apply(view.drain_changes())
            assert (changed, lowering.unavailable) == lower(view.ruleset(), _OPTIONS)
    assert lowering.apply(view.drain_changes()) == lower(view.ruleset(), _OPTIONS)[0]


@settings(max_examples=settings().max_examples // 5)
@given(histories())
def test_a_table_that_is_deleted_leaves_nothing_and_can_be_written_again(history: list[Item | ObjectRef]) -> None:
    view = DesiredState("a")
    for item in history:
        if not isinstance(item, ObjectRef):
            view.put(item)
    ruleset = view.ruleset()
    lowering = IncrementalLowering(_OPTIONS, ruleset)
    assert lowering.apply(diff(ruleset, ABSENT)) == EMPTY
    assert lowering.apply(diff(ABSENT, ruleset)) == lower(ruleset, _OPTIONS)[0]
