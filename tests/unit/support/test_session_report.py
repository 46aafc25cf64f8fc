"""The report at the end of a test run, with one process and with two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.support.session_report import conclude

def pytest_terminal_summary(terminalreporter, config):
    conclude(terminalreporter, terminalreporter.stats, config.rootpath)
"""
POD = '''"""Pods are born.

And more of it.
"""
import pytest

@pytest.mark.parametrize("number", range(3))
def test_many(number):
    pytest.skip("no Pods: run `make pods`")

def test_told(record_property):
    record_property("printed", "a table\\nof two lines")
'''
NODE = '''"""Nodes are met."""
import pytest

pytestmark = pytest.mark.skip(reason="needs root")

def test_one():
    pass

@pytest.mark.skip(reason="no Pods: run `make pods`")
def test_another():
    pass
'''


@pytest.mark.parametrize("processes", [0, 2], ids=["one process", "two processes"])
def test_what_was_not_tested_is_listed_once_by_what_is_missing(tmp_path: Path, processes: int) -> None:
    for name, text in (("conftest", CONFTEST), ("test_pod", POD), ("test_node", NODE)):
        (tmp_path / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(processes), "-p", "no:cacheprovider", "--rootdir", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    told, _, listed = done.stdout.partition(" not tested here: 5 tests ")
    assert "\na table\nof two lines\n" in told
    assert listed.strip("=\n").splitlines()[:-1] == [
        "4 tests: no Pods: run `make pods`",
        "    test_node.py (1): Nodes are met.",
        "    test_pod.py (3): Pods are born.",
        "1 test: needs root",
        "    test_node.py (1): Nodes are met.",
    ]
