"""Incremental indexes compared with rebuilt ones, and a history with its final state."""

from __future__ import annotations

from itertools import islice
from random import Random
from typing import Any

from hypothesis import given, settings

from nfagent.desired.state import DesiredState
from nfagent.model.admin_policy import TierPolicy
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.nftables.render import table_text
from nfagent.state.cluster import ClusterState
from nfagent.state.peer_index import PeerIndex
from nfagent.state.policy_index import PolicyIndex
from nfagent.state.services import ServiceIndex
from tests.properties.strategies import RANDOM, catch_up, histories
from tests.support.fake_nftables import FakeNftables

HISTORIES = histories()


def take(desired: DesiredState, event: Item | ObjectRef) -> bool:
    return desired.remove(event) if isinstance(event, ObjectRef) else desired.put(event)


def contents(indexed: ClusterState | ServiceIndex | PolicyIndex | PeerIndex) -> dict[str, Any]:
    held = {name: value for name, value in vars(indexed).items() if name != "_cluster"}
    indexes = (PeerIndex, ServiceIndex)
    return {name: contents(value) if isinstance(value, indexes) else value for name, value in held.items()}


@settings(max_examples=3 * settings().max_examples)
@given(HISTORIES)
def test_indexes_equal_rebuilt_ones_after_every_event(history: list[Item | ObjectRef]) -> None:
    desired = DesiredState("a")
    for event in history:
        take(desired, event)
        assert contents(desired.cluster) == contents(desired.cluster.rebuilt())
        assert contents(desired.index) == contents(desired.index.rebuilt())


def final_objects(history: list[Item | ObjectRef]) -> list[Item]:
    left: dict[ObjectRef, Item] = {}
    for event in history:
        if isinstance(event, ObjectRef):
            left.pop(event, None)
        else:
            left[event.ref] = with_last_good(event, left.get(event.ref))
    return list(left.values())


def with_last_good(item: Item, before: Item | None) -> Item:
    """Return a tier policy with the subject of its previous version, if its own is unreadable."""
    if isinstance(item, TierPolicy) and (before is None or isinstance(before, TierPolicy)):
        return item.with_last_good(before)
    return item


@given(HISTORIES, RANDOM)
def test_a_history_ends_in_what_its_last_objects_make_in_any_order(
    history: list[Item | ObjectRef], random: Random
) -> None:
    lived = DesiredState("a")
    for event in history:
        take(lived, event)
    objects = final_objects(history)
    random.shuffle(objects)
    fresh = DesiredState("a")
    for item in objects:
        fresh.put(item)
    assert lived.ruleset() == fresh.ruleset() == lived.rebuilt().ruleset()
    assert table_text(lived.ruleset()) == table_text(fresh.ruleset())


@given(HISTORIES, RANDOM)
def test_the_changes_of_a_history_lead_the_kernel_to_the_whole(history: list[Item | ObjectRef], random: Random) -> None:
    """Drained after every event or after a few, with restarts in between that compare the whole table."""
    desired = DesiredState("a")
    kernel = FakeNftables()
    catch_up(desired, kernel)
    for event in history:
        take(desired, event)
        fate = random.randrange(6)
        if fate == 0:
            desired = desired.rebuilt()
            catch_up(desired, kernel)
        elif fate > 1:
            kernel.apply(desired.drain_changes())
            assert kernel.ruleset == desired.ruleset()
    kernel.apply(desired.drain_changes())
    assert kernel.ruleset == desired.ruleset()
    assert not desired.dirty


@given(HISTORIES, RANDOM)
def test_events_between_the_steps_of_preparing_end_in_the_whole(
    history: list[Item | ObjectRef], random: Random
) -> None:
    desired = DesiredState("a")
    kernel = FakeNftables()
    catch_up(desired, kernel)
    for event in history:
        take(desired, event)
        for _ in islice(desired.prepare(), random.randrange(12)):
            pass
        if random.randrange(3) == 0:
            kernel.apply(desired.drain_changes())
    kernel.apply(desired.drain_changes())
    desired.clear_recheck(desired.recheck_addresses)
    kernel.apply(desired.drain_changes())
    assert kernel.ruleset == desired.ruleset() == desired.rebuilt().ruleset()


@given(HISTORIES)
def test_putting_an_object_again_or_removing_it_twice_changes_nothing(history: list[Item | ObjectRef]) -> None:
    desired = DesiredState("a")
    for event in history:
        take(desired, event)
        desired.mark_synced()
        if isinstance(event, ObjectRef):
            desired.remove(event)
        else:
            assert not desired.put(event)
        assert desired.drain_changes() == ()
