"""The history of a cycle: it begins and ends with the small cluster, and the seed determines it."""

from __future__ import annotations

import pytest

from tests.fuzz.case import Case
from tests.fuzz.generator import generator
from tests.fuzz.packets import fits
from tests.soak.plan import draw_cycle, history_of, rest_step


def files_after(case: Case) -> dict[str, object]:
    held: dict[str, object] = {}
    for change in (change for step in case.steps for change in step.changes):
        if change.document is None:
            del held[change.file]  # nothing is deleted that isn't there
        else:
            held[change.file] = change.document
    return held


@pytest.mark.parametrize("number", range(4))
def test_a_cycle_begins_and_ends_at_rest_and_can_be_repeated(number: int) -> None:
    case = draw_cycle(generator(5, number))
    assert case == draw_cycle(generator(5, number))
    assert case.steps[0] == rest_step()
    assert files_after(case) == files_after(Case((rest_step(),)))
    assert {step.then for step in case.steps} <= {"clear", "wait"}
    assert case.steps[-1].then == "clear"
    assert fits(case)


def test_cycles_have_policies_of_every_kind() -> None:
    kinds = {
        change.document["kind"]
        for number in range(6)
        for step in draw_cycle(generator(1, number)).steps[1:-1]
        for change in step.changes
        if change.document is not None
    }
    assert {"Pod", "Namespace", "Node", "NetworkPolicy", "AdminNetworkPolicy", "EgressNATPolicy", "ConfigMap"} <= kinds


def test_in_the_second_half_the_histories_of_the_first_come_again_in_their_order() -> None:
    assert [history_of(cycle, 0) for cycle in range(4)] == [0, 1, 2, 3]
    assert [history_of(cycle, 4) for cycle in range(4, 13)] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
