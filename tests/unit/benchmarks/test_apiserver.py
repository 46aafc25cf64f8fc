"""The synthetic API server serves the whole cluster, and figures are computed correctly."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import pytest

from benchmarks.data.synthetic_pods import LIFE, Stage, sizes, written
from benchmarks.harness.synthetic_apiserver import EVENTS_A_ROLLOUT, PODS, SyntheticAPIServer, cluster_mix, peers_mix
from benchmarks.suites.apiserver import commit_waits, linear_fit
from benchmarks.suites.apiserver_child import RecordedCommits
from nfagent.clock import SystemClock
from nfagent.decode.fast_pod import decode_pod_json
from nfagent.desired.state import DesiredState
from nfagent.errors import KernelError
from nfagent.kube.client import ApiClient
from nfagent.kube.credentials import ClientConfig
from nfagent.kube.informers import Informers
from nfagent.lab.objects.synthetic import Size, synthetic
from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef, Pod

SMALL = Size(300, 30, 40, 5)
SECONDS = 20.0
KINDS = 6
"""Number of served kinds; the others' CRDs are missing."""


def recorded(commits: list[tuple[float, int]]) -> RecordedCommits:
    return RecordedCommits(commits=commits, began=10, longest_turn=0.0, peak=0.0, transactions=0, applied_at=0.0)


def test_a_linear_fit_has_the_slope_and_its_standard_error() -> None:
    flat = linear_fit([(0, 7.0), (1, 7.0), (2, 7.0), (3, 7.0)])
    assert (flat.slope, flat.error) == (0.0, 0.0)
    # By hand: residuals 1/3, -2/3, 1/3 of the line x + 1/3; sqrt(2/3 / 1 / 2).
    bent = linear_fit([(0, 0.0), (1, 2.0), (2, 2.0)])
    assert bent.slope == pytest.approx(1.0)
    assert bent.error == pytest.approx((1 / 3) ** 0.5)


def test_an_event_waits_for_the_first_commit_that_includes_it() -> None:
    found = commit_waits([1.0, 2.0, 2.5], recorded([(1.5, 11), (3.0, 13), (4.0, 13)]))
    assert found == pytest.approx([500.0, 1000.0, 500.0])


def test_an_event_without_commit_is_an_error() -> None:
    with pytest.raises(KernelError, match="1 of 2 events were never committed"):
        commit_waits([1.0, 2.0], recorded([(1.5, 11)]))


def test_a_synthetic_pod_document_decodes_to_its_pod_and_has_a_real_size() -> None:
    for pod in synthetic(SMALL, 1).pods:
        assert decode_pod_json(written(pod, 77)) == (pod, "77")
        assert 3_000 < len(written(pod, 77)) < 5_000
        assert sum(sizes(pod).values()) < len(written(pod, 77))


@pytest.mark.parametrize("stage", [*LIFE, "unready"])
def test_a_pod_is_decoded_at_every_stage_of_its_life(stage: Stage) -> None:
    pod = synthetic(SMALL, 1).pods[0]
    read = decode_pod_json(written(pod, 1, stage))
    assert read is not None
    assert (read[0].node == "") == (stage == "pending")
    assert bool(read[0].addresses) == (stage not in {"pending", "scheduled", "creating"})
    assert read[0].deleting == (stage in {"ending", "ended"})
    assert (msgspec.structs.replace(read[0], deleting=False) == pod) == (stage in {"running", "unready", "ending"})


def test_a_rollout_s_events_leave_the_cluster_as_it_was() -> None:
    cluster = synthetic(SMALL, 1)
    known = {(pod.namespace, pod.name): pod for pod in cluster.pods}
    before, changed = dict(known), Counter[bool]()
    for change in itertools.islice(cluster_mix(cluster), EVENTS_A_ROLLOUT):
        read = decode_pod_json(change.body(1))
        assert read is not None
        key = (read[0].namespace, read[0].name)
        assert (key in known) == (change.event_type != b"ADDED")
        changed[change.event_type == b"DELETED" or known.get(key) != read[0]] += 1
        if change.event_type == b"DELETED":
            del known[key]
        else:
            known[key] = read[0]
    assert known == before
    assert changed == {True: 60, False: 80}


def test_peers_come_and_go_in_turns() -> None:
    words = [change.event_type for change in peers_mix(synthetic(SMALL, 1), 6)]
    assert words == [b"ADDED", b"DELETED"] * 3


class Sink:
    """Applies changes to a desired state, and knows when everything was read."""

    def __init__(self) -> None:
        self.desired = DesiredState("node-1")
        self.whole = asyncio.Event()
        self.changes = 0

    async def apply(self, changes: Iterable[Item | ObjectRef], received: float | None = None) -> None:  # noqa: ARG002 - of the protocol
        for change in changes:
            self.changes += self.desired.remove(change) if isinstance(change, ObjectRef) else self.desired.put(change)

    def on_synced(self) -> None:
        self.whole.set()


def follow(body: Callable[[SyntheticAPIServer, Sink, Informers], Awaitable[None]], *, streaming: bool) -> None:
    """Follow a small synthetic cluster, and call `body` after it was read."""

    async def main() -> None:
        server = SyntheticAPIServer(synthetic(SMALL, 1), streaming=streaming)
        access = ClientConfig(server=f"http://127.0.0.1:{await server.serve()}", origin="a test")

        async def find() -> ClientConfig:
            return access

        sink, asked = Sink(), ApiClient(find, environment={})
        source = Informers(asked, SystemClock(), sink, sink.desired.keys)
        following = asyncio.create_task(source.run())
        try:
            async with asyncio.timeout(SECONDS):
                await sink.whole.wait()
                await body(server, sink, source)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await asked.close()
            server.close()

    asyncio.run(main())


def versions(source: Informers) -> set[str]:
    resources = source.status()["apiserver"]["resources"].values()
    return {each["version"] if each["phase"] == "watching" else "" for each in resources if each["phase"] != "missing"}


@pytest.mark.parametrize("streaming", [True, False], ids=["streamed", "by pages"])
def test_the_whole_cluster_is_read_and_a_relist_changes_nothing(streaming: bool) -> None:  # noqa: FBT001 - by parametrize
    async def body(server: SyntheticAPIServer, sink: Sink, source: Informers) -> None:
        cluster = synthetic(SMALL, 1)
        assert sink.desired.cluster.pods == {(pod.namespace, pod.name): pod for pod in cluster.pods}
        assert len(sink.desired.index.policies) == len(cluster.policies)
        changes = sink.changes
        while server.watched < KINDS:  # noqa: ASYNC110 - there is no event for a watch that began
            await asyncio.sleep(0)
        done = await server.do({"do": "expire"})
        while versions(source) != {done.version}:  # noqa: ASYNC110 - there is no event for a list that changed nothing
            await asyncio.sleep(0)
        assert sink.changes == changes

    follow(body, streaming=streaming)


def test_events_reach_the_watch_at_a_rate_or_as_fast_as_they_are_read() -> None:
    async def body(server: SyntheticAPIServer, sink: Sink, _source: Informers) -> None:
        before = sink.changes
        done = await server.do({"do": "events", "mix": "peers", "count": 4, "rate": 1000})
        assert len(done.moments) == 4
        await server.do({"do": "events", "mix": "cluster", "count": EVENTS_A_ROLLOUT, "rate": 0})
        while sink.changes < before + 54:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)

    follow(body, streaming=True)


def test_pages_follow_each_other_without_a_gap() -> None:
    async def main() -> list[int]:
        server = SyntheticAPIServer(synthetic(SMALL, 1), streaming=False)
        access = ClientConfig(server=f"http://127.0.0.1:{await server.serve()}", origin="a test")

        async def find() -> ClientConfig:
            return access

        asked, found, query = ApiClient(find, environment={}), list[list[str]](), {"limit": "70"}
        try:
            while "continue" in query or not found:
                page = msgspec.json.decode((await asked.request("GET", PODS, query=query)).body)
                found.append([item["metadata"]["name"] for item in page["items"]])
                query = {
                    "limit": "70",
                    **{key: page["metadata"][key] for key in ("continue",) if key in page["metadata"]},
                }
        finally:
            await asked.close()
            server.close()
        assert sorted(itertools.chain(*found)) == sorted(pod.name for pod in synthetic(SMALL, 1).pods)
        return [len(names) for names in found]

    assert asyncio.run(main()) == [70, 70, 70, 70, 20]


def test_pods_are_listed_in_the_order_of_their_keys() -> None:
    pods: list[Pod] = sorted(synthetic(SMALL, 1).pods, key=lambda pod: (pod.namespace, pod.name))

    async def body(_server: SyntheticAPIServer, sink: Sink, _source: Informers) -> None:
        assert list(sink.desired.cluster.pods.values()) == pods

    follow(body, streaming=True)
