"""The parts of `make faults`, each a process: together they have every fault, and each one once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault_injection.__main__ import PARTS, chosen
from tests.fault_injection.api_lab import api_faults
from tests.fault_injection.catalogue import faults_of

FOLDER = Path("/folder")
SYNCS = ("policy created", "policy changed", "policy deleted", "Pod added", "first start")
NAMES = [
    *(fault.name for fault in faults_of(FOLDER, FOLDER, FOLDER, FOLDER, FOLDER)),
    *(fault.name for fault in api_faults()),
    *(f"kill -9, {sync}" for sync in SYNCS),
]


@pytest.mark.parametrize("name", NAMES)
def test_exactly_one_part_has_the_fault(name: str) -> None:
    assert [part for part, patterns in PARTS.items() if chosen(patterns)(name)] in [[part] for part in PARTS]


def test_no_two_faults_have_the_same_name() -> None:
    assert len(NAMES) == len(set(NAMES))
