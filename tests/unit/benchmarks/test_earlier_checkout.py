"""The earlier version: found by a variable, and imported by this checkout's benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness.child_process import ROOT
from benchmarks.harness.earlier_checkout import (
    VARIABLE,
    benchmark_environment,
    earlier_checkout,
    has_earlier_checkout,
)
from nfagent.errors import HostError

_ORIGINS = "import benchmarks.results, nfagent; print(nfagent.__file__); print(benchmarks.results.__file__)"


def checkout(folder: Path) -> Path:
    """Write a checkout of a version without any other module."""
    package = folder / "earlier" / "nfagent"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("")
    return package.parent


def test_the_variable_names_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(checkout(tmp_path)))
    assert has_earlier_checkout()
    assert earlier_checkout() == tmp_path / "earlier"


def test_a_variable_that_names_no_checkout_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(HostError, match=f"set {VARIABLE}=FOLDER"):
        has_earlier_checkout()


def test_without_the_variable_there_is_no_earlier_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not has_earlier_checkout()
    with pytest.raises(HostError):
        earlier_checkout()


def test_a_child_has_the_earlier_nfagent_and_these_benchmarks(tmp_path: Path) -> None:
    earlier = checkout(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _ORIGINS],
        cwd=ROOT,
        env={**os.environ, **benchmark_environment(earlier, tmp_path / "packages")},
        capture_output=True,
        text=True,
        check=True,
    )
    nfagent, results = (Path(line).resolve() for line in done.stdout.splitlines())
    assert nfagent == earlier / "nfagent" / "__init__.py"
    assert results == ROOT / "benchmarks" / "results.py"
