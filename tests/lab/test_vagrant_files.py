"""The files of vagrant/ are what their programs can read; a lab that runs them is `make vagrant-test`."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from nfagent.lab.machine.binaries import CHECKOUT

FOLDER = CHECKOUT / "vagrant"
SCRIPTS = sorted(
    path
    for path in (*FOLDER.iterdir(), *(FOLDER / "provision").iterdir())
    if path.is_file() and path.read_text("utf-8").startswith("#!/usr/bin/env bash")
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_the_script(script: object) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing_in_the_script(script: object) -> None:
    done = subprocess.run(
        ["shellcheck", "--severity=warning", str(script)], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""


@pytest.mark.skipif(shutil.which("ruby") is None, reason="no Ruby here")
def test_ruby_can_read_the_vagrantfile() -> None:
    done = subprocess.run(["ruby", "-c", str(FOLDER / "Vagrantfile")], capture_output=True, text=True, check=False)
    assert done.stdout == "Syntax OK\n", done.stderr


def test_every_setting_of_the_vagrantfile_is_in_its_head() -> None:
    text = (FOLDER / "Vagrantfile").read_text("utf-8")
    head = text[: text.index("\nrequire")]
    assert {name for name in re.findall(r"setting\('(\w+)'", text) if f"NFAGENT_LAB_{name}" not in head} == set()
