"""A transaction in phases has the effect of one commit, and no packet sees a state in between."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.nftables import transaction
from nfagent.nftables.diff import diff
from nfagent.nftables.objects import Ruleset
from nfagent.nftables.transaction import ChangeElements, ChangeMapElements, Transaction, split_for_commit
from nfagent.policy.evaluator import Flow
from tests.properties.strategies import PROTOCOLS, RANDOM, desired, flows, histories, worlds
from tests.support.fake_nftables import FakeNftables
from tests.support.nft_interpreter import HookName, HookPacket, later, opening, reply, run

_FLOWS = 20
HOOKS: tuple[HookName, HookName] = ("forward", "input")


def packets(judged: list[Flow]) -> list[HookPacket]:
    """Return first packets, and those of established connections in both directions."""
    return [packet for flow in judged for packet in (opening(flow), later(flow), reply(flow))]


def verdicts(ruleset: Ruleset, shown: list[HookPacket]) -> list[tuple[str, bool]]:
    results = [run(ruleset, hook, packet) for packet in shown for hook in HOOKS]
    return [(result.verdict, result.translated) for result in results]


def steps(before: Ruleset, transaction: Transaction) -> list[Ruleset]:
    """Return the contents of the table after each phase."""
    kernel = FakeNftables(before)
    passed = []
    for phase in split_for_commit(transaction):
        kernel.apply(phase)
        passed.append(kernel.ruleset)
    return passed


def assert_nothing_in_between(
    before: Ruleset, transaction: Transaction, after: Ruleset, shown: list[HookPacket]
) -> None:
    old, new = verdicts(before, shown), verdicts(after, shown)
    changed = False
    passed = steps(before, transaction) or [before]
    for held in passed:
        seen = verdicts(held, shown)
        assert seen in ([new] if changed else [old, new])
        changed = changed or (seen == new and new != old)
    assert passed[-1] == after


@given(worlds(), worlds(), PROTOCOLS)
def test_packets_see_either_of_two_rulesets_for_every_transaction_between_them(
    first: list[Item], second: list[Item], protocol: tuple[str, int | None]
) -> None:
    before, after = desired("a", first), desired("a", second)
    addresses = sorted({*before.cluster.by_address, *after.cluster.by_address})
    shown = [opening(flow) for flow in flows(addresses, *protocol)]
    difference = diff(before.ruleset(), after.ruleset())
    assert_nothing_in_between(before.ruleset(), difference, after.ruleset(), shown)


@given(worlds(), worlds(), PROTOCOLS, st.integers(1, 9))
def test_structure_in_parts_however_small_shows_packets_either_ruleset(
    first: list[Item], second: list[Item], protocol: tuple[str, int | None], size: int
) -> None:
    before, after = desired("a", first), desired("a", second)
    addresses = sorted({*before.cluster.by_address, *after.cluster.by_address})
    shown = [opening(flow) for flow in flows(addresses, *protocol)][:_FLOWS]
    difference = diff(before.ruleset(), after.ruleset())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "_PER_TRANSACTION", size)
        assert_nothing_in_between(before.ruleset(), difference, after.ruleset(), shown)


@given(histories(), PROTOCOLS, RANDOM)
def test_packets_of_new_and_live_connections_see_either_side_of_every_event(
    history: list[Item | ObjectRef], protocol: tuple[str, int | None], random: Random
) -> None:
    view = DesiredState("a")
    view.mark_synced()
    for event in history:
        before, known = view.ruleset(), set(view.cluster.by_address)
        if isinstance(event, ObjectRef):
            view.remove(event)
        else:
            view.put(event)
        judged = list(flows(sorted(known | set(view.cluster.by_address)), *protocol))
        shown = packets(random.sample(judged, min(_FLOWS, len(judged))))
        transaction = view.drain_changes()
        assert_nothing_in_between(before, transaction, view.ruleset(), shown)
        if random.randrange(2):
            view.clear_recheck(view.recheck_addresses)
            view.drain_changes()


@given(worlds(), worlds(), st.data())
def test_phases_hold_all_commands_in_an_order_that_the_kernel_takes(
    first: list[Item], second: list[Item], data: st.DataObject
) -> None:
    before, after = desired("a", first).ruleset(), desired("a", second).ruleset()
    if data.draw(st.booleans()):
        before, after = after, before
    transaction = diff(before, after)
    parts = split_for_commit(transaction)
    assert sorted(command.text() for part in parts for command in part) == sorted(item.text() for item in transaction)
    assert (steps(before, transaction) or [before])[-1] == after
    if len(parts) > 1:
        alone = [all(isinstance(item, ChangeElements | ChangeMapElements) for item in part) for part in parts]
        assert alone.count(True) <= 1
