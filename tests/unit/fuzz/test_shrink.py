"""The shrinker keeps what a case needs for failing, removes everything else, and stops in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.fuzz.case import Case, Document, ManifestChange, step_of
from tests.fuzz.shrink import fewest, shrink, smaller


def thing(name: str, **spec: Any) -> ManifestChange:  # noqa: ANN401 - a document's own fields
    document = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": name, "labels": {"a": "b"}}, "spec": spec}
    return ManifestChange(f"{name}.yaml", document)


def gone(name: str) -> ManifestChange:
    return ManifestChange(f"{name}.yaml", None)


def case(*steps: Sequence[ManifestChange]) -> Case:
    return Case(tuple(step_of(changes, "clear") for changes in steps))


def never_over() -> bool:
    return False


def present(tried: Case) -> dict[str, Document]:
    """Return the documents at the end, by name."""
    left: dict[str, Document] = {}
    for step in tried.steps:
        for change in step.changes:
            left.pop(change.file.removesuffix(".yaml"), None)
            if change.document is not None:
                left[change.file.removesuffix(".yaml")] = change.document
    return left


NEEDED: dict[str, tuple[list[int], Callable[[Sequence[int]], bool]]] = {
    "the first of many": ([0], lambda kept: 0 in kept),
    "the last of many": ([16], lambda kept: 16 in kept),
    "three that stand apart": ([2, 9, 13], lambda kept: {2, 9, 13} <= set(kept)),
    "two link_flows": ([7, 8], lambda kept: {7, 8} <= set(kept)),
    "nothing": ([], lambda _kept: True),
    "everything": (list(range(17)), lambda kept: len(kept) == 17),
}


@pytest.mark.parametrize(("needed", "fails"), NEEDED.values(), ids=NEEDED)
def test_only_needed_items_are_left(needed: list[int], fails: Callable[[Sequence[int]], bool]) -> None:
    assert list(fewest(tuple(range(17)), fails)) == needed


def test_a_case_that_needs_no_history_becomes_one_step_of_few_documents() -> None:
    tried = case(
        [thing("one"), thing("two"), thing("three")], [thing("four"), gone("two")], [thing("two")], [gone("three")]
    )
    small = shrink(tried, lambda tried: {"one", "two"} <= present(tried).keys(), never_over)
    assert [[change.file for change in step.changes] for step in small.steps] == [["one.yaml", "two.yaml"]]


def test_a_case_that_needs_its_history_keeps_the_steps_that_matter() -> None:
    def comes_back(tried: Case) -> bool:
        there = [bool(change.document) for step in tried.steps for change in step.changes if change.file == "two.yaml"]
        return there == [True, False, True]

    tried = case([thing("one"), thing("two")], [thing("one")], [gone("two"), thing("three")], [], [thing("two")])
    small = shrink(tried, comes_back, never_over)
    assert [[(change.file, bool(change.document)) for change in step.changes] for step in small.steps] == [
        [("two.yaml", True)],
        [("two.yaml", False)],
        [("two.yaml", True)],
    ]
    assert {step.then for step in small.steps} == {"commit"}


def test_unneeded_parts_of_a_document_are_removed() -> None:
    def has_the_port(tried: Case) -> bool:
        rules = present(tried).get("one", {}).get("spec", {}).get("rules", [])
        return any(80 in rule.get("ports", []) for rule in rules)

    rules = [{"ports": [53], "from": "x"}, {"ports": [53, 80, 99], "from": "y"}]
    small = shrink(case([thing("one", rules=rules, other={"deep": [1, 2]})]), has_the_port, never_over)
    assert present(small) == {
        "one": {
            "apiVersion": "v1",
            "kind": "Thing",
            "metadata": {"name": "one"},
            "spec": {"rules": [{"ports": [80]}]},
        }
    }


def test_each_smaller_document_lacks_one_part_and_large_parts_come_first() -> None:
    document = thing("one", ports=[1, 2]).document
    assert document is not None
    head = {"apiVersion": "v1", "kind": "Thing"}
    labelled = {"name": "one", "labels": {"a": "b"}}
    assert list(smaller(document)) == [
        {**head, "metadata": labelled},
        {**head, "metadata": {"name": "one"}, "spec": {"ports": [1, 2]}},
        {**head, "metadata": labelled, "spec": {}},
        {**head, "metadata": {"name": "one", "labels": {}}, "spec": {"ports": [1, 2]}},
        {**head, "metadata": labelled, "spec": {"ports": [2]}},
        {**head, "metadata": labelled, "spec": {"ports": [1]}},
    ]


def test_when_the_time_is_over_the_smallest_case_so_far_is_returned() -> None:
    asked = 0

    def fails(_tried: Case) -> bool:
        nonlocal asked
        asked += 1
        return True

    tried = case([thing("one"), thing("two")], [thing("three")])
    assert shrink(tried, fails, lambda: asked == 1) == case([thing("one"), thing("three"), thing("two")])
    assert asked == 1


def test_a_minimal_case_stays_unchanged() -> None:
    tried = case([thing("one")], [gone("one")])
    assert shrink(tried, lambda smaller: smaller == tried, never_over) == tried
