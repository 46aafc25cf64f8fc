"""`nfagent lab report` in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nfagent.lab.samples import Series, Try, encode_samples
from tests.support.latency_samples import even_tries, latency_samples, whole_run
from tests.unit.cli.called import Call


@pytest.fixture(autouse=True)
def _matplotlib_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
