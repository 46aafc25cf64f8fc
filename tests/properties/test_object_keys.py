"""The keys of `DesiredState` are exact for every kind: a relist removes objects that it doesn't list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfagent.decode.registry import DECODERS
from nfagent.desired.state import DesiredState
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.model.services import Service
from tests.properties.strategies import items

KINDS = {kind for _, kind in DECODERS}
SERVICES = st.builds(Service, namespace=st.just("shop"), name=st.sampled_from(["one", "two"]))
EVENTS = st.lists(st.tuples(items() | SERVICES, st.sampled_from([True, True, False])), max_size=20)
"""Objects, and whether each comes, or goes if it is there; their names are few."""


def held(desired: DesiredState) -> set[ObjectRef]:
    return {ObjectRef(kind, *key) for kind in KINDS for key in desired.keys(kind)}


@given(EVENTS)
def test_the_keys_are_those_that_were_put_and_not_removed(events: list[tuple[Item, bool]]) -> None:
    desired = DesiredState("a")
    present: set[ObjectRef] = set()
    for item, comes in events:
        if comes:
            desired.put(item)
            present.add(item.ref)
        else:
            desired.remove(item.ref)
            present.discard(item.ref)
        assert held(desired) == present
        assert {ref for ref in present if (found := desired.find(ref)) is not None and found.ref == ref} == present
        assert item.ref in present or desired.find(item.ref) is None
    assert held(desired.rebuilt()) == present
