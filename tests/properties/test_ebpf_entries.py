"""The map entries of the eBPF path against the evaluator, over random clusters and histories."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import msgspec
from hypothesis import event, given, settings

from nfagent.lab.ebpf.state import EbpfState
from nfagent.model.admin_policy import TierPolicy
from nfagent.model.gvk import Item
from nfagent.model.netaddr import is_link_local
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import Namespace, ObjectRef
from nfagent.policy.evaluator import DirectionVerdict, Flow, evaluate
from nfagent.state.cluster import PodKey
from tests.properties import verdict_flips
from tests.properties.strategies import PROTOCOLS, RANDOM, flows, histories, worlds
from tests.properties.test_increments import final_objects
from tests.support.ebpf_maps import MapsModel

HISTORIES = histories()
WORLDS = worlds() | verdict_flips.crowded_clusters()


def covered(changes: Iterable[Item | ObjectRef]) -> list[Item | ObjectRef]:
    """Leave out the policies of the tiers, and the audit mode: they would close most Pods."""
    kept = [change for change in changes if not isinstance(change, TierPolicy)]
    return [enforced(change) for change in kept]


def enforced(change: Item | ObjectRef) -> Item | ObjectRef:
    if isinstance(change, NetworkPolicy):
        return msgspec.structs.replace(change, audit=False)
    return msgspec.structs.replace(change, audits_policies=False) if isinstance(change, Namespace) else change


def happen(state: EbpfState, change: Item | ObjectRef) -> None:
    if isinstance(change, ObjectRef):
        state.remove(change)
    else:
        state.put(change)


def driven(changes: Iterable[Item | ObjectRef]) -> tuple[EbpfState, MapsModel]:
    state, maps = EbpfState("a"), MapsModel()
    for change in changes:
        happen(state, change)
    maps.apply(state.drain())
    return state, maps


def wrong_verdicts(state: EbpfState, maps: MapsModel, protocol: str, port: int | None) -> list[str]:
    """Return the flows whose verdict at a Pod of this node differs from the evaluator's; a refused Pod is closed."""
    cluster, policies = state.cluster, list(state.index.policies.values())
    found: list[str] = []
    for flow in flows(cluster.by_address, protocol, port):
        if is_link_local(flow.source) or is_link_local(flow.destination):
            continue  # never forwarded, whatever policies say
        verdict = evaluate(cluster, policies, flow)
        if verdict.exempt.startswith("a Pod always reaches itself"):
            continue  # such packets never leave the Pod
        for address, side in ((flow.source, verdict.egress), (flow.destination, verdict.ingress)):
            for pod in cluster.holders(address):
                if pod.node == "a":
                    found += _compared(
                        state, maps, flow, (pod.namespace, pod.name), side, incoming=address != flow.source
                    )
    return found


def _compared(
    state: EbpfState,
    maps: MapsModel,
    flow: Flow,
    pod: PodKey,
    side: DirectionVerdict | None,
    *,
    incoming: bool,
) -> Iterable[str]:
    closed = bool(state.coverage.refusal(state.cluster.pods[pod], state.cluster))
    event("refused" if closed else "covered")
    allowed = side is None or (side.allowed and not closed)
    passes = maps.allows(pod, "ingress" if incoming else "egress", flow)
    if allowed != passes:
        yield f"{flow} at {'/'.join(pod)}: the maps let it pass: {passes}"


@settings(max_examples=4 * settings().max_examples)
@given(WORLDS | WORLDS.map(covered), PROTOCOLS)
def test_the_evaluator_agrees_with_the_maps(world: list[Item | ObjectRef], protocol: tuple[str, int | None]) -> None:
    assert wrong_verdicts(*driven(world), *protocol) == []


@settings(max_examples=2 * settings().max_examples)
@given(HISTORIES | HISTORIES.map(covered), PROTOCOLS, RANDOM)
def test_the_changes_of_a_history_lead_to_the_maps_of_its_last_objects(
    history: list[Item | ObjectRef], protocol: tuple[str, int | None], random: Random
) -> None:
    state, maps = EbpfState("a"), MapsModel()
    for change in history:
        happen(state, change)
        if random.random() < 0.6:
            maps.apply(state.drain())
    maps.apply(state.drain())
    assert wrong_verdicts(state, maps, *protocol) == []
    _, fresh = driven(final_objects(history))
    assert maps.sizes == fresh.sizes, "nothing is left over"
    assert maps.identities.keys() == fresh.identities.keys()
    assert maps.blocks.keys() == fresh.blocks.keys()
    assert maps.unmasqueraded == fresh.unmasqueraded
    assert state.drain().is_empty


@given(HISTORIES)
def test_a_cluster_without_objects_has_no_entries(history: list[Item | ObjectRef]) -> None:
    state, maps = EbpfState("a"), MapsModel()
    for change in history:
        happen(state, change)
        maps.apply(state.drain())
    for item in final_objects(history):
        state.remove(item.ref)
    maps.apply(state.drain())
    assert (maps.policies, maps.identities, maps.blocks, maps.endpoints) == (set(), {}, {}, {})
    assert state.coverage.refusals == ()
