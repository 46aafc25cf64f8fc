"""Problems are tracked by event: the cost of reporting changes doesn't depend on other problems."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfagent.decode.issue_tracker import IssueTracker
from nfagent.errors import ValidationIssue
from nfagent.kube.reflector import Reflector
from nfagent.manifests.index import ManifestIndex
from nfagent.model.gvk import RESOURCES
from tests.support.apiserver_documents import event
from tests.support.scripted_source import initial as initial_list
from tests.support.two_node_cluster import labelled, policy

NUMBERS = st.integers(0, 3)
PROBLEMS = {number: ValidationIssue(reason=f"reason {number}") for number in range(4)}
[POLICIES] = [resource for resource in RESOURCES if resource.kind == "NetworkPolicy"]


@given(st.lists(st.one_of(st.tuples(NUMBERS, st.lists(NUMBERS, max_size=3)), st.none())))
def test_news_are_the_difference_between_two_looks(history: list[tuple[int, list[int]] | None]) -> None:
    kept, model, seen = IssueTracker[int](), dict[int, tuple[ValidationIssue, ...]](), set[ValidationIssue]()
    for step in [*history, None]:
        if step is None:
            now = {problem for problems in model.values() for problem in problems}
            assert tuple(map(set, kept.drain_changes())) == (now - seen, seen - now)
            seen = now
            continue
        owner, found = step
        kept[owner] = model[owner] = tuple(PROBLEMS[number] for number in found)
        model = {key: problems for key, problems in model.items() if problems}
        assert dict(kept) == model


def test_who_has_none_can_not_be_forgotten_twice() -> None:
    kept = IssueTracker[str]()
    kept["a"] = (PROBLEMS[0],)
    del kept["a"]
    with pytest.raises(KeyError):
        del kept["a"]
    assert kept.drain_changes() == ([], [])


def test_news_come_in_the_order_of_their_words() -> None:
    kept = IssueTracker[int]()
    for number in (2, 0, 1):
        kept[number] = (PROBLEMS[number],)
    assert kept.drain_changes() == ([PROBLEMS[0], PROBLEMS[1], PROBLEMS[2]], [])


def closed(number: int) -> dict[str, Any]:
    """Return the description of a policy that fails closed: its ports are invalid."""
    document = policy(f"shop/p{number:04}", labelled(app="web"), ingress=[{"ports": [{"port": 0}]}])
    return {**document, "apiVersion": "networking.k8s.io/v1"}


def calls(work: Callable[[], object]) -> int:
    """Count the calls of Python functions that something makes, and of the built-in ones that it calls."""
    count = 0

    def note(_frame: FrameType, happened: str, _argument: object) -> None:
        nonlocal count
        count += happened in {"call", "c_call"}

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


class Followed:
    """Policies of an API server."""

    def __init__(self, faulty: int) -> None:
        self._reflector = Reflector(POLICIES, lambda _: ())
        documents = [closed(number) for number in range(faulty)]
        list(self._reflector.feed_watch(initial_list(*documents)))

    def change(self) -> None:
        sound = {**policy("shop/sound", labelled(app="web")), "apiVersion": "networking.k8s.io/v1"}
        assert list(self._reflector.feed_watch(event("ADDED", sound)))

    def news(self) -> tuple[list[ValidationIssue], list[ValidationIssue]]:
        return self._reflector.problems.drain_changes()


class Read:
    """Policies of a folder, each in a file of its own."""

    def __init__(self, faulty: int) -> None:
        self._folder = ManifestIndex()
        for number in range(faulty):
            self._folder.update(f"{number}.json", json.dumps(closed(number)))

    def change(self) -> None:
        sound = {**policy("shop/sound", labelled(app="web")), "apiVersion": "networking.k8s.io/v1"}
        assert self._folder.update("sound.json", json.dumps(sound))

    def news(self) -> tuple[list[ValidationIssue], list[ValidationIssue]]:
        return self._folder.issues.drain_changes()


@pytest.mark.parametrize("source", [Followed, Read], ids=["an API server", "a folder"])
def test_an_event_costs_the_same_however_many_policies_fail_closed(source: type[Followed | Read]) -> None:
    def cost(faulty: int) -> int:
        made = source(faulty)
        assert len(made.news()[0]) == faulty

        def work() -> None:
            made.change()
            assert made.news() == ([], [])

        return calls(work)

    cost(1)
    assert cost(1000) <= cost(10) + 20
