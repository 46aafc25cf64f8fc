"""What the log says of changes of policies: a line for each, with its Pods; one line for many."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress

import msgspec
import pytest

from nfagent.controllers.change_log import PolicyChangeLog, WaitLog
from nfagent.controllers.policy_changes import MOST_LINES, PolicyChanges
from nfagent.desired.state import DesiredState
from nfagent.model.networkpolicy import NetworkPolicy
from nfagent.model.objects import ObjectRef
from nfagent.time_slices import TimeSlices
from tests.support.steps import finished
from tests.support.two_node_cluster import decoded, labelled, namespace, node, pod, policy, tier_policy

PODS = [pod(f"shop/db-{number}", "a", number + 10, app="db") for number in range(2)]
REMOTE = pod("shop/far", "b", 30, app="db")
WEBS = [pod(f"shop/web-{number}", "a", number + 40, app="web") for number in range(4)]
DBS = "(shop/db-0, shop/db-1)"
BOTH = {"types": ["Ingress", "Egress"]}


class Scene:
    """A state with Pods on node a, whose changes are noted."""

    def __init__(self) -> None:
        self.desired = DesiredState("a")
        self.changes = PolicyChanges(self.desired, self.desired)
        for document in (node("a"), namespace("shop"), *PODS, REMOTE, *WEBS):
            self.changes.put(decoded(document))
        self.changes.begin()

    def put(self, *documents: dict[str, object]) -> list[str]:
        for document in documents:
            self.changes.put(decoded(document))
        return finished(self.changes.lines())

    def remove(self, *paths: str, kind: str = "NetworkPolicy") -> list[str]:
        for path in paths:
            space, _, name = path.rpartition("/")
            self.changes.remove(ObjectRef(kind, space, name))
        return finished(self.changes.lines())


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_policy_s_lines_name_the_pods_of_this_node_that_it_isolates(scene: Scene) -> None:
    assert scene.put(policy("shop/db", labelled(app="db"))) == [
        "NetworkPolicy shop/db added: isolates 2 Pods of this node for ingress (shop/db-0, shop/db-1)"
    ]
    assert scene.put(policy("shop/db", labelled(app="db"), **BOTH)) == [
        "NetworkPolicy shop/db changed: isolates 2 Pods of this node for ingress and egress (shop/db-0, shop/db-1)"
    ]
    assert scene.remove("shop/db") == [
        (
            f"NetworkPolicy shop/db deleted: it isolated 2 Pods of this node for ingress and egress {DBS}"
            "; no policy isolates 2 Pods (shop/db-0, shop/db-1) for ingress any more"
            "; no policy isolates 2 Pods (shop/db-0, shop/db-1) for egress any more"
        )
    ]


def test_many_pods_are_a_number(scene: Scene) -> None:
    assert scene.put(policy("shop/all")) == ["NetworkPolicy shop/all added: isolates 6 Pods of this node for ingress"]


def test_a_pod_that_another_policy_isolates_stays_so(scene: Scene) -> None:
    scene.put(policy("shop/db", labelled(app="db"), **BOTH), policy("shop/all"))
    assert scene.remove("shop/db") == [
        (
            f"NetworkPolicy shop/db deleted: it isolated 2 Pods of this node for ingress and egress {DBS}"
            "; no policy isolates 2 Pods (shop/db-0, shop/db-1) for egress any more"
        )
    ]


def test_a_change_that_selects_other_pods_says_which_are_free_now(scene: Scene) -> None:
    scene.put(policy("shop/p", labelled(app="db")))
    assert scene.put(policy("shop/p", labelled(app="none"))) == [
        (
            "NetworkPolicy shop/p changed: selects no Pod of this node"
            "; no policy isolates 2 Pods (shop/db-0, shop/db-1) for ingress any more"
        )
    ]


def test_what_a_policy_of_no_pod_here_does_is_said_too(scene: Scene) -> None:
    assert scene.put(policy("shop/far", labelled(app="x"))) == [
        "NetworkPolicy shop/far added: selects no Pod of this node"
    ]
    assert scene.remove("shop/far") == ["NetworkPolicy shop/far deleted: it selected no Pod of this node"]


def test_a_policy_that_fails_closed_or_is_audited_or_is_of_a_tier_is_said_to_be(scene: Scene) -> None:
    closed = policy("shop/closed", labelled(app="db"), ingress=[{"from": [{"ipBlock": {"cidr": "x"}}]}])
    audited = policy("shop/audited", labelled(app="db"))
    audited["metadata"]["annotations"] = {"nfagent.io/audit": "true"}
    rule = {"name": "r", "action": "Deny", "from": [{"namespaces": {}}]}
    tier = tier_policy("AdminNetworkPolicy", "anp", {"namespaces": {}}, priority=5, ingress=[rule])
    assert scene.put(closed, audited, tier) == [
        "AdminNetworkPolicy anp added: judges 6 Pods of this node for ingress",
        "NetworkPolicy shop/audited added: audits 2 Pods of this node for ingress (shop/db-0, shop/db-1)",
        (
            "NetworkPolicy shop/closed added: fails closed, and isolates 2 Pods of this node for ingress "
            "(shop/db-0, shop/db-1)"
        ),
    ]
    assert scene.remove("shop/audited") == [
        "NetworkPolicy shop/audited deleted: it audited 2 Pods of this node for ingress (shop/db-0, shop/db-1)"
    ]
    assert scene.remove("anp", kind="AdminNetworkPolicy") == [
        "AdminNetworkPolicy anp deleted: it judged 6 Pods of this node for ingress"
    ]


def test_what_comes_and_goes_between_two_looks_or_does_not_change_is_not_mentioned(scene: Scene) -> None:
    scene.changes.put(decoded(policy("shop/short", labelled(app="db"))))
    assert scene.remove("shop/short", "shop/unknown") == []
    scene.put(policy("shop/same"))
    assert scene.put(policy("shop/same")) == []
    assert not scene.changes.pending


def test_many_changes_have_one_line(scene: Scene) -> None:
    scene.put(policy("shop/old-0"), policy("shop/old-1"))
    scene.changes.remove(ObjectRef("NetworkPolicy", "shop", "old-0"))
    scene.changes.put(decoded(policy("shop/old-1", labelled(app="db"))))
    several = [policy(f"shop/new-{number}", labelled(app="web")) for number in range(MOST_LINES)]
    assert scene.put(*several) == [
        (
            "7 policies changed (5 added, 1 changed, 1 deleted), NetworkPolicy shop/new-0 among them: "
            "6 of these select Pods of this node now"
        )
    ]


def test_many_deletions_have_one_line(scene: Scene) -> None:
    paths = [f"shop/p-{number}" for number in range(MOST_LINES + 1)]
    scene.put(*map(policy, paths))
    assert scene.remove(*paths) == ["6 policies changed (6 deleted), NetworkPolicy shop/p-0 among them"]


def test_the_pods_that_policies_isolate_are_counted(scene: Scene) -> None:
    assert scene.changes.isolated_pods() == 0
    audited = policy("shop/audited")
    audited["metadata"]["annotations"] = {"nfagent.io/audit": "true"}
    scene.put(audited, policy("shop/db", labelled(app="db"), types=["Egress"]))
    assert scene.changes.isolated_pods() == 2


def test_changes_are_counted_by_kind(scene: Scene) -> None:
    scene.put(policy("shop/a"), policy("shop/b"), pod("shop/more", "b", 60), policy("shop/a", labelled(app="db")))
    scene.remove("shop/b")
    assert scene.changes.drain_counts() == (
        "2 NetworkPolicies added, 1 NetworkPolicy changed, 1 NetworkPolicy deleted, 1 Pod added"
    )
    assert scene.changes.drain_counts() == ""


def test_nothing_is_noted_before_the_begin() -> None:
    desired = DesiredState("a")
    changes = PolicyChanges(desired, desired)
    changes.put(decoded(policy("shop/a")))
    changes.remove(ObjectRef("NetworkPolicy", "shop", "a"))
    assert (changes.pending, changes.drain_counts()) == (False, "")


class Skipping:
    """Time that passes with each wait."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self.now += seconds
        self.waits.append(seconds)
        await asyncio.sleep(0)
        return event.is_set()


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "nfagent"):
        yield


def test_a_storm_is_looked_at_once_a_second(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    clock = Skipping()
    policies = scene.desired.index.policies
    written = PolicyChangeLog(scene.changes, clock, lambda: len(policies), lambda: True, TimeSlices())
    written.begin()
    item = decoded(policy("shop/p"))
    assert isinstance(item, NetworkPolicy)

    async def storm() -> None:
        running = asyncio.create_task(written.run())
        for number in range(1000):
            scene.changes.put(msgspec.structs.replace(item, name=f"p-{number}"))
            written.note()
            await asyncio.sleep(0)
        await written.idle.wait()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(storm())
    looks = clock.waits.count(0.2)
    assert 1 <= looks <= clock.now - 1000.0 + 1
    assert len(caplog.messages) <= MOST_LINES * looks
    assert sum(int(line.split()[0]) for line in caplog.messages if line[0].isdigit()) >= 1000 - MOST_LINES * looks


def test_the_end_of_all_policies_is_a_warning(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    in_force = True
    policies = scene.desired.index.policies
    written = PolicyChangeLog(scene.changes, Skipping(), lambda: len(policies), lambda: in_force, TimeSlices())
    scene.put(policy("shop/a"), policy("shop/far", labelled(app="x")))
    written.begin()
    scene.changes.remove(ObjectRef("NetworkPolicy", "shop", "a"))
    scene.changes.remove(ObjectRef("NetworkPolicy", "shop", "far"))
    in_force = False
    asyncio.run(written.write())
    *_, last = caplog.records
    assert (last.levelname, last.getMessage()) == (
        "WARNING",
        "no policy is left, of 2 before: none isolates a Pod of this node; not in force yet",
    )
    assert all(message.endswith("; not in force yet") for message in caplog.messages)
    caplog.clear()
    asyncio.run(written.write())
    assert caplog.messages == []


def test_what_is_waited_for_is_written_every_minute_for_as_long_as_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    clock, found = Skipping(), "the manifests to be read"
    waits = WaitLog(clock, lambda: found)
    for _ in range(2):
        clock.now += 60
        waits.look()
    assert caplog.messages == [
        "still waiting for the manifests to be read; for 1 minute now",
        "still waiting for the manifests to be read; for 2 minutes now",
    ]
    found = ""
    waits.look()
    found = "the kernel"
    waits.look()
    assert len(caplog.messages) == 2, "it began since the last look"
    clock.now += 7200
    waits.look()
    assert caplog.messages[2:] == ["still waiting for the kernel; for 2 hours now"]
