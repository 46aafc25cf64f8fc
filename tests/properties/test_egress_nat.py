"""Egress NAT: the ruleset of a history translates what the precedence of its objects says."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from nfagent.desired.state import DesiredState
from nfagent.egress.gateway_election import chosen
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

DESTINATIONS = (
    "10.64.0.200",
    "10.200.0.1",
    "169.254.1.1",
    "192.168.0.1",
    "203.0.113.9",
    "9.9.9.9",
    "2001:db8:99::1",
    "fd00::1",
)
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
    pods_with_addresses = [pod for pod in view.cluster.pods.values() if pod.holds_addresses]
    for pod, destination in product(pods_with_addresses, DESTINATIONS):
        for source in pod.addresses:
            if family_of(source) == family_of(destination):
                check(view, source, destination)


def check(view: DesiredState, source: str, destination: str) -> None:
    """Assert that this node's rules do with a Pod's packet what is decided for its Pod."""
    ruleset, pod = view.ruleset(), view.cluster.holder(source)
    assert pod is not None
    decided = translation(pod, destination, view.cluster, view.egress, MasqueradeSettings())
    packet = opening(Flow(source, destination, "udp", 53))
    marked = run(ruleset, "prerouting", packet)
    here, mark = pod.node == view.cluster.node, MasqueradeSettings().gateway_mark
    if decided.gateway is None:
        assert (marked.verdict, marked.mark) == ("accept", 0)
        if here:
            assert run(ruleset, "forward", packet).translated == (decided.kind == "node"), (source, decided)
        return
    floating = chosen(view.gateways.of_group(decided.gateway), source)
    if floating is None or not floating.holder:
        assert marked.counters == ("drop/no-gateway",)
    elif floating.holder == view.cluster.node:
        assert marked.mark == mark.of_held(floating.number)
        assert run(ruleset, "forward", packet._replace(mark=marked.mark)).source == floating.address
    elif here:
        assert marked.mark == mark.of_routed(floating.number)
        left = run(ruleset, "forward", packet._replace(mark=marked.mark))
        assert (left.translated, left.source) == (False, "")
    else:
        assert marked.counters == ("drop/not-holder",)
