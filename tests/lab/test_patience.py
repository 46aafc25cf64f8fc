"""Deadlines of the lab on slow machines."""

from __future__ import annotations

import pytest

from nfagent.lab.machine.patience import VARIABLE, patient


@pytest.mark.parametrize(
    ("factor", "seconds"),
    [("", 0.6), ("1", 0.6), ("8", 4.8), ("0", 0.6), ("-3", 0.6), ("many", 0.6)],
    ids=["no factor", "the factor 1", "a factor", "zero is none", "a negative one is none", "a word is none"],
)
def test_a_deadline_is_multiplied_by_the_factor_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, factor: str, seconds: float
) -> None:
    monkeypatch.setenv(VARIABLE, factor)
    assert patient(0.6) == pytest.approx(seconds)
