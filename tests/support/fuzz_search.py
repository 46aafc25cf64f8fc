"""Searches for a finding of the fuzzer, case by case, as in a run."""

from __future__ import annotations

from tests.fuzz.case import Case, Finding
from tests.fuzz.generator import draw_case, generator
from tests.fuzz.oracle_runner import OracleRunner


def first_finding(
    runner: OracleRunner, seed: int, cases: int, *, steady: bool, packets: bool = False, tables: bool = False
) -> tuple[Case, Finding]:
    """Return the first case with a finding, and the finding; AssertionError without one in so many cases."""
    for number in range(cases):
        random = generator(seed, number)
        case = draw_case(random, steady=steady)
        finding = runner.search(case, random, packets=packets, tables=tables)
        if finding is not None:
            return case, finding
    raise AssertionError(f"no finding in {cases} cases")
