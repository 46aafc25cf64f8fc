"""A case put to the judges without packets, step by step: whatever they find first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random

from nfagent.policy.evaluate import Flow
from tests.fuzz.case import Case, Finding, Question
from tests.fuzz.readings import Make, Readings
from tests.fuzz.terrain import FORMS, Form, flows, judged_flows
from nfagent.ruleset.desired import Desired

_WATCHED = 40
_FORMS_A_STEP = 2


def search(case: Case, random: Random, count: Callable[[int], None], make: Make = Desired) -> Finding | None:
    """Ask both judges about whole grids after every step, all forms after the last; give what differs first.

    random: which forms are asked in between, and which connections are watched
    count:  is told how many questions were asked
    """
    watched = random.sample(judged_flows(), _WATCHED)
    readings = Readings(watched, make)
    for number, step in enumerate(case.steps):
        last = number == len(case.steps) - 1
        forms = FORMS if last else random.sample(FORMS, _FORMS_A_STEP)
        ...
