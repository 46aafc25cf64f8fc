"""A transaction is one batch: packets meet the ruleset before it or the one after it, also where it is refused."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.nftables.commit_parts import commits, cut_unreachable
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import ABSENT, INTERVAL_KINDS, Ruleset
from nfagent.nftables.transaction import AddRule, AddSet, ChangeElements, Delete, RewriteChain, Transaction, size_of
from tests.properties.strategies import PROTOCOLS, RANDOM, desired, flows, histories, worlds
from tests.support.fake_nftables import FakeNftables, Refused
from tests.support.nft_interpreter import HookName, HookPacket, opening, run

_FLOWS = 20
HOOKS: tuple[HookName, HookName] = ("forward", "input")


def verdicts(ruleset: Ruleset, shown: list[HookPacket]) -> list[tuple[str, bool]]:
    results = [run(ruleset, hook, packet) for packet in shown for hook in HOOKS]
    return [(result.verdict, result.translated) for result in results]


def states(before: Ruleset, transaction: Transaction, largest: int) -> list[Ruleset]:
    """Return the contents of the table after each batch."""
    kernel = FakeNftables(before)
    passed = []
    for part in cut_unreachable(transaction, largest):
        kernel.apply(part)
        passed.append(kernel.ruleset)
    return passed


@given(worlds(), worlds(), st.integers(1, 50))
def test_a_change_of_a_table_that_is_there_is_never_cut(first: list[Item], second: list[Item], largest: int) -> None:
    before, after = desired("a", first).ruleset(), desired("a", second).ruleset()
    transaction = diff(before, after)
    if transaction:
        assert list(cut_unreachable(transaction, largest)) == [transaction]
        assert states(before, transaction, largest) == [after]
    removal = diff(before, ABSENT)
    assert list(cut_unreachable(removal, largest)) == [removal]
    replacement = (Delete("table"), *diff(ABSENT, after))
    assert list(cut_unreachable(replacement, largest)) == [replacement]
    assert states(before, replacement, largest) == [after]


@given(worlds(), worlds(), PROTOCOLS)
def test_packets_see_a_change_at_its_last_commit_and_no_rule_looks_up_an_interval_set_of_its_own_commit(
    first: list[Item], second: list[Item], protocol: tuple[str, int | None]
) -> None:
    scene, after = desired("a", first), desired("a", second).ruleset()
    before = scene.ruleset()
    shown = [opening(flow) for flow in flows(sorted(scene.cluster.by_address), *protocol)][:_FLOWS]
    kernel = FakeNftables(before)
    parts = list(commits(diff(before, after)))
    for number, part in enumerate(parts, 1):
        kernel.apply(part)
        if number < len(parts):
            assert verdicts(kernel.ruleset, shown) == verdicts(before, shown)
    assert kernel.ruleset == after
    assert not any(filled_intervals(part) & looked_up(part) for part in parts)


def filled_intervals(part: Transaction) -> set[str]:
    added = {item.name for item in part if isinstance(item, AddSet) and item.shape.kind in INTERVAL_KINDS}
    return {item.set for item in part if isinstance(item, ChangeElements)} & added


def looked_up(part: Transaction) -> set[str]:
    """Return the names of sets in the rules that a commit writes, among other words."""
    texts = (item.text() for item in part if isinstance(item, AddRule | RewriteChain))
    return {word.removeprefix("@") for text in texts for word in text.split()}


@given(worlds(), PROTOCOLS, st.integers(1, 50))
def test_a_table_from_nothing_shows_packets_no_rule_before_its_last_part(
    world: list[Item], protocol: tuple[str, int | None], largest: int
) -> None:
    scene = desired("a", world)
    transaction = diff(ABSENT, scene.ruleset())
    shown = [opening(flow) for flow in flows(sorted(scene.cluster.by_address), *protocol)][:_FLOWS]
    passed = states(ABSENT, transaction, largest)
    assert passed[-1] == scene.ruleset()
    assert len(passed) > 1
    for held in passed[:-1]:
        assert all(chain.hook is None for chain in held.chains.values())
        assert verdicts(held, shown) == verdicts(ABSENT, shown)
    parts = list(cut_unreachable(transaction, largest))
    assert sum(map(size_of, parts)) == size_of(transaction)


@given(worlds(), st.integers(1, 50), st.data())
def test_a_table_of_which_only_the_first_parts_were_written_is_completed_in_one_batch(
    world: list[Item], largest: int, data: st.DataObject
) -> None:
    wanted = desired("a", world).ruleset()
    left = data.draw(st.sampled_from(states(ABSENT, diff(ABSENT, wanted), largest)[:-1]))
    rest = diff(left, wanted)
    assert list(cut_unreachable(rest, largest)) == [rest]
    assert states(left, rest, largest) == [wanted]


@given(histories(), RANDOM)
def test_every_event_leads_from_one_ruleset_to_the_next_in_one_step(
    history: list[Item | ObjectRef], random: Random
) -> None:
    view = DesiredState("a")
    view.mark_synced()
    for event in history:
        before = view.ruleset()
        if isinstance(event, ObjectRef):
            view.remove(event)
        else:
            view.put(event)
        transaction = view.drain_changes()
        held = states(before, transaction, 1) if transaction else [before]
        assert held == [view.ruleset()]
        if random.randrange(2):
            view.clear_recheck(view.recheck_addresses)
            view.drain_changes()


@given(worlds(), worlds(), st.data())
def test_a_refusal_of_any_command_leaves_the_table_as_it_was(
    first: list[Item], second: list[Item], data: st.DataObject
) -> None:
    before, after = desired("a", first).ruleset(), desired("a", second).ruleset()
    transaction = list(diff(before, after))
    transaction.insert(data.draw(st.integers(0, len(transaction))), Delete("set", "absent"))
    kernel = FakeNftables(before)
    with pytest.raises(Refused):
        kernel.apply(tuple(transaction))
    assert kernel.ruleset == before
