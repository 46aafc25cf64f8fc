"""Attribution of packets that were logged before what they are judged by changed."""

from __future__ import annotations

import pytest

from nfagent.model.gvk import Item
from nfagent.model.objects import ObjectRef
from nfagent.verdicts.attribution import Attributor
from nfagent.verdicts.history import ObjectHistory
from nfagent.verdicts.records import PolicyName, Record, RecordEndpoint
from tests.support.two_node_cluster import (
    DECODERS,
    Document,
    TwoNodeCluster,
    labelled,
    namespace,
    pod,
    policy,
    tier_policy,
)
from tests.unit.verdicts.test_attribution import DB, NOW, TCP, WEB, logged, named, packet, ports, shop

SECOND = 10**9
FROM_WEB = policy(
    "shop/from-web", labelled(app="db"), ingress=[{"from": [{"podSelector": labelled(app="web")}]}], types=["Ingress"]
)
ON_5432 = policy("shop/on-5432", labelled(app="db"), ingress=[{"ports": [{"port": 5432}]}], types=["Ingress"])
FROM_TEAM = policy(
    "shop/from-team",
    labelled(app="db"),
    ingress=[{"from": [{"namespaceSelector": labelled(team="red")}]}],
    types=["Ingress"],
)
WEB_POD, DB_POD = pod("shop/web", "a", 10, app="web"), pod("shop/db", "a", 20, app="db")
TO_DB = packet(WEB, DB, TCP, ports(40000, 5432))
BY_WEB = "allow ingress shop/from-web"


def item(document: Document) -> Item:
    decoded = DECODERS[document["kind"]](document)
    assert decoded is not None
    return decoded


def guard(*names: str) -> Document:
    """Describe a policy of the admin tier with a rule of each name: the first denies port 5432, the next 5433."""
    rules = [
        {
            "name": name,
            "action": "Deny",
            "from": [{"namespaces": {}}],
            "ports": [{"portNumber": {"protocol": "TCP", "port": number}}],
        }
        for number, name in enumerate(names, 5432)
    ]
    return tier_policy("AdminNetworkPolicy", "guard", {"namespaces": {}}, priority=5, ingress=rules)


class Node:
    """A node whose objects change; NOW is when the first ones were committed."""

    def __init__(self, *documents: Document) -> None:
        self.view = TwoNodeCluster(WEB_POD, DB_POD, *documents).views["a"]
        self._now = NOW
        self.history = ObjectHistory(self.view, lambda: self._now)
        self.attributor = Attributor(self.view, self.history)
        self.commit(0)

    def set_clock(self, seconds: float) -> None:
        self._now = NOW + int(seconds * SECOND)

    def change(self, *events: Document | ObjectRef) -> None:
        for event in events:
            if isinstance(event, ObjectRef):
                self.history.remove(event)
            else:
                self.history.put(item(event))

    def commit(self, seconds: float) -> None:
        self._now = NOW + int(seconds * SECOND)
        self.history.cover()
        self.view.drain_changes()
        self.history.committed()

    def record(self, prefix: str, seconds: float | None, payload: bytes = TO_DB) -> Record:
        """Return the record of a packet that was logged so many seconds after NOW; None without a timestamp."""
        when = None if seconds is None else NOW + int(seconds * SECOND)
        record = self.attributor.attribute(logged(prefix, payload, when), self._now)
        assert record is not None, self.attributor.counters
        return record


def ref(kind: str, name: str) -> ObjectRef:
    return ObjectRef(kind, "" if kind == "AdminNetworkPolicy" else "shop", name)


def test_a_pod_that_is_gone_when_its_packet_is_read_is_named() -> None:
    node = Node(FROM_WEB)
    node.change(ref("Pod", "web"))
    node.commit(10)

    assert node.record(BY_WEB, 9).src == shop("web")
    assert node.record(BY_WEB, 11).src == RecordEndpoint(instance=WEB)
    assert node.record(BY_WEB, None).src == RecordEndpoint(instance=WEB)


def test_the_verdict_of_a_rule_that_is_gone_is_forgotten_with_the_objects_of_its_time() -> None:
    node = Node(FROM_WEB)
    node.change(ref("NetworkPolicy", "from-web"))
    node.commit(10)
    known = {}
    # What a commit removes is computed for it, and counted from the next one on.
    for seconds in (20, 79, 81):
        node.change(pod(f"shop/other{seconds}", "a", seconds))
        node.commit(seconds)
        known[seconds] = node.view.verdict_key(BY_WEB) is not None

    assert known == {20: True, 79: True, 81: False}


def test_the_verdict_of_a_rule_that_no_commit_has_removed_yet_is_not_forgotten() -> None:
    node = Node(FROM_WEB)
    node.change(pod("shop/other", "a", 30))
    node.history.cover()
    node.change(ref("NetworkPolicy", "from-web"))
    node.view.drain_changes()
    node.set_clock(10)
    node.history.committed()
    node.commit(100)

    assert node.view.verdict_key(BY_WEB) is not None


def test_an_address_names_the_pod_that_held_it_then() -> None:
    node = Node(FROM_WEB)
    node.change(ref("Pod", "web"))
    node.commit(10)
    node.change(pod("shop/other", "a", 10, app="web"))
    node.commit(20)
    node.change(ref("Pod", "other"), pod("shop/third", "a", 10, app="web"))
    node.commit(30)

    assert [node.record(BY_WEB, at).src.pod_name for at in (5, 25, 35)] == ["web", "other", "third"]


def test_a_pod_that_gets_an_address_which_nothing_had_is_named_before_its_commit() -> None:
    node = Node(FROM_WEB)
    node.change(pod("shop/late", "a", 30, app="web"))
    early = packet("10.64.0.30", DB, TCP, ports(1, 5432))

    assert node.record(BY_WEB, 1, early).src == shop("late")


@pytest.mark.parametrize(
    ("before", "events", "old", "new"),
    [
        pytest.param(
            (FROM_WEB, ON_5432),
            (ref("NetworkPolicy", "on-5432"),),
            named("from-web", "on-5432"),
            named("from-web"),
            id="a policy that was deleted allowed it",
        ),
        pytest.param(
            (FROM_WEB,),
            (ON_5432,),
            named("from-web"),
            named("from-web", "on-5432"),
            id="a policy that is new didn't",
        ),
        pytest.param(
            (FROM_WEB, ON_5432),
            (policy("shop/on-5432", labelled(app="db"), ingress=[{"ports": [{"port": 1}]}], types=["Ingress"]),),
            named("from-web", "on-5432"),
            named("from-web"),
            id="a policy allowed it that allows another port now",
        ),
        pytest.param(
            (FROM_WEB, FROM_TEAM, namespace("shop", team="red")),
            (namespace("shop", team="blue"),),
            named("from-team", "from-web"),
            named("from-web"),
            id="the Namespace had other labels",
        ),
        pytest.param(
            (FROM_WEB, FROM_TEAM, namespace("shop", team="red")),
            (ref("Pod", "web"), ref("Pod", "db"), ref("NetworkPolicy", "from-team"), ref("NetworkPolicy", "from-web")),
            named("from-team", "from-web"),
            None,
            id="both Pods and all policies are gone: no rule can have logged a later one",
        ),
    ],
)
def test_an_allow_names_the_policies_that_allowed_when_it_was_logged(
    before: tuple[Document, ...],
    events: tuple[Document | ObjectRef, ...],
    old: tuple[PolicyName, ...],
    new: tuple[PolicyName, ...] | None,
) -> None:
    node = Node(*before)
    node.change(*events)
    assert node.record(BY_WEB, 9).policies == old, "before the commit the old rules are in force"
    assert node.record(BY_WEB, None).policies == old

    node.commit(10)

    assert node.record(BY_WEB, 9).policies == old
    if new is None:
        assert node.attributor.attribute(logged(BY_WEB, TO_DB, NOW + 11 * SECOND), NOW) is None
        assert node.attributor.counters.foreign == 1
        return
    assert node.record(BY_WEB, 11).policies == new
    assert node.record(BY_WEB, None).policies == new


def test_what_changes_during_a_commit_is_in_force_after_the_next_one() -> None:
    node = Node(FROM_WEB)
    node.history.cover()
    node.change(ON_5432)
    node.history.committed()

    assert node.record(BY_WEB, 1).policies == named("from-web")
    node.commit(10)
    assert node.record(BY_WEB, 11).policies == named("from-web", "on-5432")


def test_a_refused_commit_leaves_the_old_objects_in_force() -> None:
    node = Node(FROM_WEB)
    node.change(ON_5432)
    node.history.cover()  # and no `committed`
    assert node.record(BY_WEB, 5).policies == named("from-web")

    node.commit(10)

    assert node.record(BY_WEB, 5).policies == named("from-web")
    assert node.record(BY_WEB, 11).policies == named("from-web", "on-5432")


def test_a_packet_of_new_rules_whose_commit_is_not_noted_yet_is_judged_by_them() -> None:
    node = Node(ON_5432)
    node.change(FROM_WEB)
    node.view.drain_changes()

    assert node.record(BY_WEB, 1).policies == named("from-web", "on-5432")


def test_a_tiers_policy_is_named_with_the_rule_that_decided_then() -> None:
    node = Node(guard("no-db", "no-replica"))
    other = packet(WEB, DB, TCP, ports(1, 5433))
    node.change(guard("no-database"))
    node.commit(10)
    node.change(ref("AdminNetworkPolicy", "guard"))
    node.commit(20)

    found = [node.record("deny ingress anp.guard", *packet) for packet in ((5,), (5, other), (15,))]

    assert [record.isolating_policies for record in found] == [
        (PolicyName("guard", "", "AdminNetworkPolicy", rule),) for rule in ("no-db", "no-replica", "no-database")
    ]


def test_a_deny_names_all_that_isolated_also_when_they_are_gone() -> None:
    node = Node(FROM_WEB, ON_5432)
    node.change(ref("NetworkPolicy", "from-web"), ref("NetworkPolicy", "on-5432"), ref("Pod", "db"))
    node.commit(10)

    record = node.record("deny ingress shop/from-web_on-5432", 5)

    assert (record.isolating_policies, record.dest) == (named("from-web", "on-5432"), shop("db"))


def test_what_was_replaced_is_kept_for_a_minute() -> None:
    node = Node(FROM_WEB)
    node.change(ref("Pod", "web"))
    node.commit(10)

    node.commit(69)
    assert node.record(BY_WEB, 9).src == shop("web")
    node.commit(70)
    assert node.record(BY_WEB, 9).src == RecordEndpoint(instance=WEB)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        pytest.param("b", True, id="not by those of other nodes, whose Pods are many"),
        pytest.param("a", False, id="by those of this node, and what isn't known is no other program's"),
    ],
)
def test_a_pod_of_this_node_is_pushed_out_by_thousands_of_changes(where: str, *, kept: bool) -> None:
    node = Node(FROM_WEB)
    node.change(ref("Pod", "db"))
    node.commit(10)
    for number in range(2_100):  # of two addresses each
        node.change(pod("shop/other", where, 30, app="other", serial=str(number)))
        node.commit(11 + number / 1000)

    if kept:
        assert node.record(BY_WEB, 9).dest == shop("db")
    else:
        assert node.attributor.attribute(logged(BY_WEB, TO_DB, NOW + 9 * SECOND), NOW) is None
        assert (node.attributor.counters.unknown, node.attributor.counters.foreign) == (1, 0)


def long_policy(serial: int) -> Document:
    """Describe a policy of 10,000 addresses, 2 MB as a value."""
    blocks = [{"ipBlock": {"cidr": f"10.{serial}.{number >> 8}.{number & 255}/32"}} for number in range(10_000)]
    return policy("shop/long", labelled(app="other"), ingress=[{"from": blocks}], types=["Ingress"])


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        pytest.param(2, True, id="not by two, so that a packet read right after has its Pod"),
        pytest.param(8, False, id="by eight, which would take memory as 8,000 Pods do"),
    ],
)
def test_changes_of_a_long_policy_weigh_as_much_as_they_list(changes: int, *, kept: bool) -> None:
    node = Node(FROM_WEB, long_policy(0))
    node.change(ref("Pod", "db"))
    node.commit(10)
    for number in range(1, 1 + changes):
        node.change(long_policy(number))
        node.commit(10 + number)

    found = node.attributor.attribute(logged(BY_WEB, TO_DB, NOW + 9 * SECOND), NOW)
    assert (found is not None, node.attributor.counters.unknown) == ((True, 0) if kept else (False, 1))


def test_the_latest_changes_of_other_nodes_pods_are_kept() -> None:
    late = pod("shop/late", "b", 30, app="web")
    node = Node(FROM_WEB, late)
    node.change(ref("Pod", "late"))
    node.commit(10)
    early = packet(late["status"]["podIPs"][0]["ip"], DB, TCP, ports(1, 5432))
    assert node.record(BY_WEB, 9, early).src == shop("late")
    for number in range(2_100):
        node.change(pod("shop/other", "b", 31, app="other", serial=str(number)))
        node.commit(11 + number / 1000)
    assert node.record(BY_WEB, 9, early).src.instance


def test_times_before_the_clock_was_set_back_are_not_compared() -> None:
    node = Node(FROM_WEB)
    node.change(ref("Pod", "web"))
    node.commit(3600)
    node.change(pod("shop/other", "a", 10, app="web"))
    node.commit(10)

    assert node.record(BY_WEB, 11).src == shop("other")
    node.change(ref("Pod", "other"))
    node.commit(20)
    assert node.record(BY_WEB, 15).src == shop("other")
    assert node.record(BY_WEB, 21).src == RecordEndpoint(instance=WEB)


def test_after_the_clock_was_set_back_packets_are_judged_by_present_objects_before_the_next_commit_too() -> None:
    node = Node(FROM_WEB)
    node.change(ref("Pod", "web"), pod("shop/other", "a", 10, app="web"))
    node.commit(3600)
    node.set_clock(10)

    assert node.record(BY_WEB, 10).src == shop("other")


def test_pods_and_policies_of_a_record_are_of_the_same_generation() -> None:
    node = Node(FROM_WEB)
    node.change(ref("Pod", "db"), pod("shop/old", "a", 20, app="none"))
    node.commit(10)
    node.change(ref("Pod", "old"), DB_POD)
    node.commit(20)

    # No policy isolated the old Pod: rules of the new one allowed it, before their commit was noted.
    assert node.record(BY_WEB, 19.9).dest == shop("db")
    assert node.record("deny ingress shop/from-web", 9).dest == shop("db")


def test_a_packet_without_a_timestamp_is_ours_for_two_seconds_after_its_pod_is_gone() -> None:
    node = Node(FROM_WEB)
    node.change(ref("Pod", "db"))
    node.commit(10)
    assert node.record(BY_WEB, None).policies == named("from-web")
    node.commit(13)
    assert node.attributor.attribute(logged(BY_WEB, TO_DB), NOW) is None
    assert node.attributor.counters.foreign == 1


def test_of_several_pods_that_had_an_address_the_one_that_the_policy_selected_is_named_when_one_is_left() -> None:
    twin = {**DB_POD, "metadata": {**DB_POD["metadata"], "namespace": "early"}}
    node = Node(FROM_WEB, twin)
    assert node.record(BY_WEB, 5).dest == shop("db")
    node.change(ref("Pod", "db"))
    node.commit(10)

    assert node.record(BY_WEB, 5).dest == shop("db")
