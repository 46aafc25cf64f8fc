"""Shrinks a failing case: fewer steps, fewer documents, smaller documents. Pure: it calls a predicate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeAlias, TypeVar

import msgspec

from tests.fuzz.case import Case, Document, ManifestChange, Step, step_of
from tests.fuzz.document_parts import Path, paths, without

Fails: TypeAlias = Callable[[Case], bool]
"""Whether a case still fails in the same manner."""

_T = TypeVar("_T")

# Without these a document has no name: removing them is the same as deleting the document.
_KEPT: set[Path] = {
    ("apiVersion",),
    ("kind",),
    ("metadata",),
    ("metadata", "name"),
    ("metadata", "namespace"),
}


def shrink(case: Case, fails: Fails, over: Callable[[], bool]) -> Case:
    """Reduce a failing case until nothing can be removed, or the time is over."""

    def still(smaller: Case) -> bool:
        return bool(smaller.steps) and not over() and fails(smaller)

    case = _as_one_step(case, still)
    before = None
    while case != before:
        before = case
        case = _fewer_steps(case, still)
        case = _fewer_changes(case, still)
        case = _plainer_actions(case, still)
        case = _smaller_documents(case, still)
    return case


def fewest(items: Sequence[_T], fails: Callable[[Sequence[_T]], bool]) -> Sequence[_T]:
    """Remove items that aren't needed for failing: halves first, then smaller pieces, then one by one."""
    size = max(1, len(items) // 2)
    while items:
        start = 0
        while start < len(items):
            fewer = (*items[:start], *items[start + size :])
            if fails(fewer):
                items = fewer
            else:
                start += size
        if size == 1:
            break
        size //= 2
    return items


def smaller(document: Document) -> Iterator[Document]:
    """Yield the document with one part less, for each part that isn't needed; large parts first."""
    for path in paths(document):
        if path not in _KEPT:
            yield without(document, path)


def _as_one_step(case: Case, still: Fails) -> Case:
    merged = _merged(case.steps)
    # Documents that are deleted in the end are omitted.
    initial = Case((step_of((c for c in merged.changes if c.document is not None), merged.then),))
    return initial if len(case.steps) > 1 and still(initial) else case


def _merged(steps: Sequence[Step]) -> Step:
    return step_of(chain.from_iterable(step.changes for step in steps), steps[-1].then)


def _fewer_steps(case: Case, still: Fails) -> Case:
    case = Case(tuple(fewest(case.steps, lambda steps: still(Case(tuple(steps))))))
    number = 0
    while number < len(case.steps) - 1:
        steps = (*case.steps[:number], _merged(case.steps[number : number + 2]), *case.steps[number + 2 :])
        if still(Case(steps)):
            case = Case(steps)
        else:
            number += 1
    return case


def _fewer_changes(case: Case, still: Fails) -> Case:
    places = [(number, index) for number, step in enumerate(case.steps) for index in range(len(step.changes))]

    def only(kept: Sequence[tuple[int, int]]) -> Case:
        chosen = set(kept)
        return Case(
            tuple(
                msgspec.structs.replace(
                    step, changes=tuple(c for index, c in enumerate(step.changes) if (number, index) in chosen)
                )
                for number, step in enumerate(case.steps)
            )
        )

    return only(fewest(places, lambda kept: still(only(kept))))


def _plainer_actions(case: Case, still: Fails) -> Case:
    for number, step in enumerate(case.steps):
        plain = _with_step(case, number, msgspec.structs.replace(step, then="commit"))
        if plain != case and still(plain):
            case = plain
    return case


def _smaller_documents(case: Case, still: Fails) -> Case:
    for number, index in [(n, i) for n, step in enumerate(case.steps) for i in range(len(step.changes))]:
        trying = True
        while trying:
            trying = False
            for less in _smaller_by(case, number, index):
                if still(less):
                    case, trying = less, True
                    break
    return case


def _smaller_by(case: Case, number: int, index: int) -> Iterator[Case]:
    step = case.steps[number]
    document = step.changes[index].document
    for less in smaller(document) if document is not None else ():
        changes = (*step.changes[:index], ManifestChange(step.changes[index].file, less), *step.changes[index + 1 :])
        yield _with_step(case, number, msgspec.structs.replace(step, changes=changes))


def _with_step(case: Case, number: int, step: Step) -> Case:
    return Case((*case.steps[:number], step, *case.steps[number + 1 :]))
