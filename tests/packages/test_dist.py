"""`make dist`: the wheel in a new virtual environment, and what sdist and wheel hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from tests.support.bare_debian import CHECKOUT
from tests.support.debian_packages import build

NOT_SOURCE = {".gitignore"}


@pytest.fixture(scope="module")
def made() -> tuple[Path, Path]:
    """Return the wheel and the sdist."""
    command = ["make", "--silent", "dist", f"VENV={Path(sys.executable).parents[1]}"]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=os.environ | {"MAKEFLAGS": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    (wheel,) = (CHECKOUT / "build/dist").glob("*.whl")
    (sdist,) = (CHECKOUT / "build/dist").glob("*.tar.gz")
    return wheel, sdist


def committed(*below: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", *below], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout: what is committed isn't known")
    return set(listed.stdout.splitlines())


def test_the_sdist_has_every_file_that_is_committed(made: tuple[Path, Path]) -> None:
    with tarfile.open(made[1]) as archive:
        names = {name.split("/", maxsplit=1)[1] for name in archive.getnames() if "/" in name}
    assert committed() - names - NOT_SOURCE == set()


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(made: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(made[0]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        inside = {name.split(".dist-info/")[1] for name in archive.namelist() if ".dist-info/" in name}
    assert names == committed("nfagent")
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= inside
    assert "nfagent/py.typed" in names


def test_the_metadata_is_complete(made: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(made[0]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# nfagent")
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert [field for field in ("Summary", "Keywords", "Requires-Python") if not metadata[field]] == []


def test_the_wheel_runs_in_a_new_virtual_environment(made: tuple[Path, Path], tmp_path: Path) -> None:
    wheels = build("packaging/wheels")
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv"], check=True)
    pip = [
        str(tmp_path / "venv/bin/python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--find-links",
        str(wheels),
    ]
    subprocess.run([*pip, str(made[0])], check=True)
    nfagent = tmp_path / "venv/bin/nfagent"
    said = subprocess.run([nfagent, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.startswith("nfagent ")
    render = [str(nfagent), "render", "--manifests", str(CHECKOUT / "examples/demo"), "--node", "node-a", "-o", "json"]
    found = subprocess.run(render, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert json.loads(found)["chains"]
