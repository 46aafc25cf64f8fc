"""Egress NAT: the ruleset of a history translates what the precedence of its objects says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.egress.masquerade import MasqueradeSettings
from nfagent.egress.translation import translation
from nfagent.model.gvk import Item
from nfagent.model.netaddr import family_of
from nfagent.model.objects import ObjectRef
from nfagent.policy.evaluator import Flow
from tests.properties.objects import MASQUERADE, namespaces, nodes, pods
from tests.properties.strategies import catch_up
from tests.support.fake_nftables import FakeNftables
from tests.support.nft_interpreter import opening, run

DESTINATIONS = ("10.64.0.200", "10.200.0.1", "192.168.0.1", "203.0.113.9", "9.9.9.9", "2001:db8:99::1", "fd00::1")
_MOST = 14
OBJECTS = st.lists(st.one_of(pods(), pods(), namespaces(), nodes(), MASQUERADE, MASQUERADE), min_size=4, max_size=_MOST)
REMOVED = st.lists(st.integers(0, _MOST - 1), max_size=4)


def happen(objects: list[Item], removed: list[int], batch: int) -> DesiredState:
    """Put all objects, then remove some: so many at a time are drained into a kernel's table."""
    view, kernel = DesiredState("a"), FakeNftables()
    catch_up(view, kernel)
    events: list[Item | ObjectRef] = [*objects, *(objects[at].ref for at in removed if at < len(objects))]
    for number, event in enumerate(events):
        if isinstance(event, ObjectRef):
            view.remove(event)
        else:
            view.put(event)
        if number % batch == 0:
            kernel.apply(view.drain_changes())
    kernel.apply(view.drain_changes())
    view.clear_recheck(view.recheck_addresses)
    kernel.apply(view.drain_changes())
    assert kernel.ruleset == view.ruleset()
    return view


@given(OBJECTS, REMOVED, st.integers(1, 4))
def test_the_ruleset_of_a_history_translates_what_precedence_says(
    objects: list[Item], removed: list[int], batch: int
) -> None:
    view = happen(objects, removed, batch)
    ruleset = view.ruleset()
    assert ruleset == view.rebuilt().ruleset()
    for pod in view.cluster.local.values():
        for source in pod.addresses if pod.holds_addresses else ():
            for destination in DESTINATIONS:
                if family_of(source) != family_of(destination):
                    continue
                decided = translation(
                    view.cluster.holder(source), destination, view.cluster, view.egress, MasqueradeSettings()
                )
                result = run(ruleset, "forward", opening(Flow(source, destination, "udp", 53)))
                assert result.translated == (decided.kind == "node"), (source, destination, decided)
