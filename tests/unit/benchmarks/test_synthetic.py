"""Synthetic clusters: reproducible, of the requested size, readable by the decoders, and changed by events."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
import pytest

from benchmarks.data import events
from benchmarks.data.events import Event
from nfagent.decode.registry import DECODERS
from nfagent.desired.state import DesiredState
from nfagent.lab.objects.documents import document
from nfagent.lab.objects.synthetic import FARM, SIZES, Size, Synthetic, synthetic
from nfagent.nftables.objects import Ruleset

SMALL = SIZES[1_000]
Stream = Callable[[Synthetic, int], Iterator[Event]]
STREAMS: tuple[Stream, ...] = (
    events.peer_churn,
    events.relabels,
    events.isolations,
    events.namespace_relabels,
    events.pod_churn,
    events.storm,
)
each_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.__name__)


def digest(seed: int) -> str:
    """Return a digest of a cluster and its events."""
    cluster = synthetic(SMALL, seed)
    found = hashlib.sha256(msgspec.json.encode(list(cluster.items())))
    for stream in STREAMS:
        found.update(msgspec.json.encode([event.item for event in stream(cluster, 20)]))
    return found.hexdigest()


def loaded(cluster: Synthetic) -> DesiredState:
    desired = DesiredState(cluster.node)
    for item in cluster.items():
        desired.put(item)
    return desired


def test_the_seed_determines_the_cluster() -> None:
    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


@pytest.mark.parametrize("size", [SIZES[1_000], SIZES[15_000], Size(300, 10, 50, 5), Size(200, 25, 20, 0)])
def test_a_cluster_has_the_requested_size(size: Size) -> None:
    cluster = synthetic(size, 1)
    assert (len(cluster.pods), len(cluster.policies)) == (size.pods, size.policies)
    assert sum(pod.node == cluster.node for pod in cluster.pods) == size.local
    assert sum(pod.namespace == FARM and pod.node == cluster.node for pod in cluster.pods) == size.farm
    elsewhere = Counter(pod.node for pod in cluster.pods if pod.node != cluster.node)
    assert max(elsewhere.values()) <= 61


def test_names_and_addresses_are_unique_and_in_their_node_s_ranges() -> None:
    cluster = synthetic(SMALL, 1)
    items = list(cluster.items())
    assert max(Counter(item.ref for item in items).values()) == 1
    addresses = [address for pod in cluster.pods for address in pod.addresses]
    assert len(set(addresses)) == len(addresses)
    nodes = {node.name: node for node in cluster.nodes}
    for pod in cluster.pods:
        assert [any(cidr.contains(one) for cidr in nodes[pod.node].pod_cidrs) for one in pod.addresses] == [True, True]


def test_pods_share_identities() -> None:
    desired = loaded(synthetic(SIZES[15_000], 1))
    assert len(desired.cluster.members) < 1_500
    assert desired.cluster.local.keys() == {
        (pod.namespace, pod.name) for pod in desired.cluster.pods.values() if pod.node == "node-1"
    }


def test_documents_decode_to_their_objects() -> None:
    for item in synthetic(SMALL, 1).items():
        written = msgspec.json.decode(msgspec.json.encode(document(item)))
        assert DECODERS[written["apiVersion"], written["kind"]](written) == item


def ruleset(desired: DesiredState) -> Ruleset:
    return desired.ruleset()


@each_stream
def test_every_event_changes_the_state_and_the_last_restores_it(stream: Stream) -> None:
    cluster = synthetic(SMALL, 1)
    desired = loaded(cluster)
    before = ruleset(desired)
    happened = [event.apply(desired) for event in stream(cluster, 21)]
    assert happened == [True] * 22
    assert ruleset(desired) == before
    assert {(pod.namespace, pod.name): pod for pod in cluster.pods} == desired.cluster.pods


def test_a_pod_that_joins_a_peer_set_changes_elements_only() -> None:
    cluster = synthetic(SMALL, 1)
    desired = loaded(cluster)
    before = ruleset(desired)
    for event in events.peer_churn(cluster, 10):
        event.apply(desired)
        after = ruleset(desired)
        assert (after != before) == (event.item is not None)
        assert (after.chains, after.maps, after.sets.keys()) == (before.chains, before.maps, before.sets.keys())


def test_an_isolation_puts_every_local_pod_of_the_farm_into_a_policy_set() -> None:
    cluster = synthetic(SMALL, 1)
    desired = loaded(cluster)
    before = len(ruleset(desired).maps["ingress4"].elements)
    for event in events.isolations(cluster, 4):
        event.apply(desired)
        isolated = len(ruleset(desired).maps["ingress4"].elements) - before
        assert isolated == (0 if event.item is None else SMALL.farm)


@pytest.mark.parametrize("stream", [events.relabels, events.namespace_relabels], ids=lambda stream: stream.__name__)
def test_a_relabelling_changes_members_of_sets(stream: Stream) -> None:
    cluster = synthetic(SMALL, 1)
    desired = loaded(cluster)
    before = ruleset(desired)
    seen = []
    for event in stream(cluster, 20):
        event.apply(desired)
        seen.append(ruleset(desired) != before)
    assert any(seen)
    assert not any(seen[1::2])
