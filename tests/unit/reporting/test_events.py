"""The Events' names: who says the same gives the same name."""

from __future__ import annotations

import re

import msgspec
import pytest

from nfagent.model.objects import ObjectRef
from nfagent.reporting.events import event_name, event_namespace, events_path, new_event
from nfagent.reporting.notice import ExistingEvent, Notice

SAID = Notice(about=ObjectRef("NetworkPolicy", "shop", "db"), reason="FailsClosed", message="m")
KNOWN = ExistingEvent("u1", "7", 1)
NODE = Notice(about=ObjectRef("Node", "", "n1"), reason="RulesRefused", message="m", scope="node")
DIFFERENT = {
    "another object": (msgspec.structs.replace(SAID, about=ObjectRef("NetworkPolicy", "web", "db")), KNOWN),
    "another message": (msgspec.structs.replace(SAID, message="n"), KNOWN),
    "another reason": (msgspec.structs.replace(SAID, reason="NotEnforced"), KNOWN),
    "another weight": (msgspec.structs.replace(SAID, weight="Normal"), KNOWN),
    "an object made anew": (SAID, ExistingEvent("u2", "7", 1)),
}


@pytest.mark.parametrize(("statement", "known"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_differs_is_another_event(statement: Notice, known: ExistingEvent) -> None:
    assert event_name(statement, known) != event_name(SAID, KNOWN)


def test_the_same_is_the_same_event_whatever_version_the_object_has() -> None:
    assert event_name(SAID, ExistingEvent("u1", "8", 2)) == event_name(SAID, KNOWN)


def test_news_of_another_generation_is_another_event() -> None:
    news = msgspec.structs.replace(SAID, once=True)
    assert event_name(news, ExistingEvent("u1", "8", 2)) != event_name(news, ExistingEvent("u1", "7", 1))
    assert event_name(news, ExistingEvent("u1", "8", 1)) == event_name(news, ExistingEvent("u1", "7", 1))


@pytest.mark.parametrize("name", ["db", "a" * 253, f"{'a' * 235}.{'b' * 17}"], ids=["short", "long", "cut at a dot"])
def test_an_events_name_is_one_that_the_api_takes(name: str) -> None:
    found = event_name(msgspec.structs.replace(SAID, about=ObjectRef("NetworkPolicy", "shop", name)), KNOWN)
    assert len(found) <= 253
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", found)


def test_events_of_cluster_scoped_objects_go_to_default() -> None:
    assert (event_namespace(SAID.about), event_namespace(NODE.about)) == ("shop", "default")
    assert events_path(NODE.about) == "/api/v1/namespaces/default/events"


def test_what_is_said_of_a_node_names_the_machine_that_says_it() -> None:
    said = new_event(NODE, ExistingEvent("n1"), node="n1", now="t")
    assert said["source"] == {"component": "nfagent", "host": "n1"}
    assert said["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"}
