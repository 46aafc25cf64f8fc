"""The delta that each event returns."""

from __future__ import annotations

import pytest

from nfagent.decode.core import named_labels
from nfagent.model.objects import Labels, Namespace, Node, ObjectRef, Pod
from nfagent.state.cluster import NO_CHANGE, ClusterDelta, ClusterState, Identity
from tests.support.work_counts import CountedText, text_uses

WEB: Labels = (("app", "web"),)
NEW: Labels = (("app", "new"),)


def pod(name: str, labels: Labels = WEB, node: str = "a", address: str = "10.0.0.1") -> Pod:
    return Pod("shop", name, labels, node, (address,))


@pytest.fixture
def state() -> ClusterState:
    return ClusterState("a")


def test_the_first_pod_of_an_identity_makes_it_appear_and_the_last_makes_it_vanish(state: ClusterState) -> None:
    identity = Identity("shop", WEB)
    assert state.put(pod("one")) == ClusterDelta(pod=(None, pod("one")), appeared=identity)
    assert state.put(pod("two")) == ClusterDelta(pod=(None, pod("two")))
    assert state.remove(pod("one").ref) == ClusterDelta(pod=(pod("one"), None))
    assert state.remove(pod("two").ref) == ClusterDelta(pod=(pod("two"), None), vanished=identity)


def test_what_a_pod_of_many_labels_costs_grows_with_their_number_alone(state: ClusterState) -> None:
    def labels() -> Labels:
        return tuple((f"key-{number:05}", CountedText(f"value-{number}")) for number in range(20_000))

    def follow() -> None:
        state.put(pod("one", labels()))
        state.put(pod("two", labels()))
        state.remove(pod("one").ref)
        state.put(pod("two"))

    assert 0 < text_uses(follow) < 20 * 20_000
    assert (set(state.by_label), set(state.by_key)) == ({("app", "web")}, {"app"})


def test_a_relabelled_pod_moves_from_one_identity_to_another(state: ClusterState) -> None:
    state.put(pod("one"))
    change = state.put(pod("one", NEW))
    assert (change.vanished, change.appeared) == (Identity("shop", WEB), Identity("shop", NEW))
    assert (set(state.by_label), set(state.by_key)) == ({("app", "new")}, {"app"})


def test_an_equal_object_and_one_that_is_not_there_change_nothing(state: ClusterState) -> None:
    for item in (pod("one"), Node("a"), Namespace("shop", named_labels("shop", ()))):
        state.put(item)
        assert state.put(item) == NO_CHANGE
    for kind in ("Pod", "Node", "Namespace"):
        assert state.remove(ObjectRef(kind, "", "missing")) == NO_CHANGE


def test_a_namespace_changes_where_its_labels_do(state: ClusterState) -> None:
    plain, team = named_labels("shop", ()), named_labels("shop", (("team", "red"),))
    assert state.namespace_labels("shop") == plain
    assert state.put(Namespace("shop", plain)) == NO_CHANGE
    assert state.put(Namespace("shop", team)) == ClusterDelta(namespace="shop")
    assert state.remove(ObjectRef("Namespace", "", "shop")) == ClusterDelta(namespace="shop")
    assert state.namespace_labels("shop") == plain


def test_an_address_of_two_pods_belongs_to_the_first_by_name(state: ClusterState) -> None:
    state.put(pod("two"))
    state.put(pod("one"))
    assert state.holder("10.0.0.1") == pod("one")
    state.remove(pod("one").ref)
    assert state.holder("10.0.0.1") == pod("two")
    state.remove(pod("two").ref)
    assert state.holder("10.0.0.1") is None


def test_local_are_this_nodes_pods_without_host_network(state: ClusterState) -> None:
    host = Pod("shop", "host", node="a", addresses=("192.168.0.1",), host_network=True)
    for item in (pod("here"), pod("there", node="b"), host, Pod("shop", "waiting", node="a", phase="Pending")):
        state.put(item)
    assert set(state.local) == {("shop", "here"), ("shop", "waiting")}
    assert set(state.by_address) == {"10.0.0.1"}
