"""nfagent check on machines that lack something, as far as that can be had without root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.called import Call


@pytest.fixture
def _no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide libnftables' Python package from processes that the test starts."""
    (tmp_path / "nftables.py").write_text("raise ImportError('hidden')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nfagent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)


def by_name(text: str) -> dict[str, Any]:
    return {item["name"]: item for item in json.loads(text)["checks"]}


@pytest.mark.usefixtures("_no_library")
def test_without_the_library_check_says_what_to_install() -> None:
    done = process("check", "-o", "json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["able"] is False
    assert by_name(done.stdout)["libnftables"] == {
        "name": "libnftables",
        "result": "FAIL",
        "found": "python3-nftables is missing",
        "mend": "apt-get install python3-nftables nftables",
    }


@pytest.mark.usefixtures("_no_library")
def test_without_the_library_run_says_what_to_install(manifests: Path) -> None:
    done = process("run", "--manifests", manifests)
    assert done.returncode == 2
    assert done.stderr == "error: python3-nftables is missing; run: apt-get install python3-nftables nftables\n"


@pytest.mark.usefixtures("_no_library")
def test_without_the_library_render_works_all_the_same(manifests: Path) -> None:
    assert process("render", "--manifests", manifests, "--node", "node-a").returncode == 0


def test_a_settings_file_that_is_wrong_is_named_and_the_rest_is_checked(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[logging]\ngroup = 'many'\n")
    said = call("check", "--config", tmp_path / "bad.toml", "-o", "json")
    assert said.code == 2
    found = by_name(said.out)
    assert found["settings"]["result"] == "FAIL"
    assert "logging.group" in found["settings"]["found"]
    assert len(found) > 5


@pytest.mark.parametrize(
    ("folder", "result"), [("manifests", "ok"), ("nowhere", "FAIL"), ("", "warn")], ids=["there", "missing", "not set"]
)
def test_the_manifests_folder_is_looked_at(
    call: Call, manifests: Path, monkeypatch: pytest.MonkeyPatch, folder: str, result: str
) -> None:
    monkeypatch.setenv("NFAGENT_MANIFESTS", str(manifests.parent / folder) if folder else "")
    assert by_name(call("check", "-o", "json").out)["manifests"]["result"] == result


def test_text_says_below_a_line_what_mends_it_and_ends_with_the_answer(call: Call) -> None:
    header, *lines = call("check").out.splitlines()
    number = next(number for number, line in enumerate(lines) if line.startswith("manifests"))
    assert lines[number + 1].startswith(" " * header.index("FOUND") + "to mend: set manifests in ")
    assert lines[-1].startswith("this node can")
