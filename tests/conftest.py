"""For every test: Hypothesis profiles, skipped kernel tests without root, and a deadline."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer

from tests.support.record_schema import refused_lines
from tests.support.schedule import FileSchedule
from tests.support.session_report import conclude

DEADLINE_SECONDS = {"apiserver": 900, "kernel": 300, "vagrant": 3600, "": 180}
"""By marker. Tests of the API server may wait for its build."""

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("quick", deadline=None, max_examples=20, suppress_health_check=_SLOW)
settings.register_profile("thorough", deadline=None, max_examples=500, suppress_health_check=_SLOW)
# Commands that tests start write into pipes, where a row is one line; a width that this process was given isn't theirs.
os.environ.pop("COLUMNS", None)
# Images of containers often have Python write no bytecode. Each worker and agent would compile its modules: a second.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("kernel"):
            item.add_marker(pytest.mark.skip(reason="needs root: network namespaces and nf_tables"))


def pytest_collection_finish() -> None:
    """Take what was collected out of later garbage collections: a full one would look at it for half a second."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileSchedule | None:
    return FileSchedule(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    conclude(terminalreporter, terminalreporter.stats, config.rootpath)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Handle SIGINT as on a terminal: a background job of a script ignores it, and its children with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _records_match_the_schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hold every record that agents and other writers of this test run logged against its JSON Schema."""
    yield
    refused = list(refused_lines(tmp_path_factory.getbasetemp()))
    assert refused == [], "tests/unit/verdicts/test_record_schema.py says how the schema is written anew"


@pytest.fixture(autouse=True)
def _deadline(request: pytest.FixtureRequest) -> Iterator[None]:
    """End a test that hangs. The thorough profile takes its time."""
    marker = next((name for name in DEADLINE_SECONDS if name and request.node.get_closest_marker(name)), "")
    thorough = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
    seconds = DEADLINE_SECONDS[marker] * (60 if thorough else 1)

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
