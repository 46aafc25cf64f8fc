"""Names of Events: the same notice has the same name from every agent."""

from __future__ import annotations

import re

import msgspec
import pytest

from nfagent.model.objects import ObjectRef
from nfagent.reporting.events import event_name, event_namespace, events_path, new_event
from nfagent.reporting.notice import Notice, ObjectMeta

SAID = Notice(about=ObjectRef("NetworkPolicy", "shop", "db"), reason="FailsClosed", message="m")
KNOWN = ObjectMeta("u1", "7", 1)
NODE = Notice(about=ObjectRef("Node", "", "n1"), reason="RulesRefused", message="m", scope="node")
DIFFERENT = {
    "another object": (msgspec.structs.replace(SAID, about=ObjectRef("NetworkPolicy", "web", "db")), KNOWN),
    "another message": (msgspec.structs.replace(SAID, message="n"), KNOWN),
    "another reason": (msgspec.structs.replace(SAID, reason="NotEnforced"), KNOWN),
    "another type": (msgspec.structs.replace(SAID, event_type="Normal"), KNOWN),
    "a recreated object": (SAID, ObjectMeta("u2", "7", 1)),
}


@pytest.mark.parametrize(("notice", "meta"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_different_notice_is_another_event(notice: Notice, meta: ObjectMeta) -> None:
    assert event_name(notice, meta) != event_name(SAID, KNOWN)


def test_the_same_notice_is_the_same_event_for_any_resource_version() -> None:
    assert event_name(SAID, ObjectMeta("u1", "8", 2)) == event_name(SAID, KNOWN)


def test_a_once_notice_about_another_generation_is_another_event() -> None:
    news = msgspec.structs.replace(SAID, once=True)
    assert event_name(news, ObjectMeta("u1", "8", 2)) != event_name(news, ObjectMeta("u1", "7", 1))
    assert event_name(news, ObjectMeta("u1", "8", 1)) == event_name(news, ObjectMeta("u1", "7", 1))


@pytest.mark.parametrize("name", ["db", "a" * 253, f"{'a' * 235}.{'b' * 17}"], ids=["short", "long", "cut at a dot"])
def test_the_name_of_an_event_is_valid(name: str) -> None:
    found = event_name(msgspec.structs.replace(SAID, about=ObjectRef("NetworkPolicy", "shop", name)), KNOWN)
    assert len(found) <= 253
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", found)


def test_events_of_cluster_scoped_objects_go_to_default() -> None:
    assert (event_namespace(SAID.about), event_namespace(NODE.about)) == ("shop", "default")
    assert events_path(NODE.about) == "/api/v1/namespaces/default/events"


def test_a_node_event_has_the_host_of_its_agent() -> None:
    said = new_event(NODE, ObjectMeta("n1"), node="n1", now="t")
    assert said["source"] == {"component": "nfagent", "host": "n1"}
    assert said["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"}
