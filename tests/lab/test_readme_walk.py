"""The walk in README: its commands, run in a lab as they stand there, answer what stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from nfagent.lab.cluster import running_labs

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("interruptible")]

ROOT = Path(__file__).parents[2]
NAME = f"t{os.getpid()}w"
SECTION = "## A walk: a Pod can't reach another"
ELISION = "…"
CHANGING = (
    (r"\d{4}-\d\d-\d\d[T ][\d:.]+Z?", "TIME"),
    (r"\b\d+ (s|min|h|milliseconds)\b", "N s"),
    # A second try of the client is another packet of the same connection.
    (r"\b\d+ packets?\b", "N packets"),
    (r"^ +\d+ (?=shop/)", "N "),
    (r" {3,}\d+(?=$|  denied)", "   N"),
    (r"\d+ records?", "N records"),
    (r"nfagent \d+\.\d+\.\S+(?=,)", "nfagent VERSION"),
    (r"\d+ process(es)?", "N processes"),
)
"""What differs from run to run; all else is compared."""


class Step(NamedTuple):
    command: str
    answer: str


def steps(document: str) -> Iterator[Step]:
    """Yield the commands of the walk's blocks, with what stands below each."""
    text = document.partition(SECTION)[2].partition("\n## ")[0]
    block = [line.removeprefix("    ") for line in text.splitlines() if line.startswith("    ") or not line]
    command, answer, until = "", list[str](), ""
    for line in block:
        if until:
            command += f"\n{line}"
            until = "" if line == until else until
        elif line.startswith("$ "):
            if command:
                yield Step(command, "\n".join(answer))
            command, answer = line.removeprefix("$ "), []
            until = line.partition("<<")[2]
        else:
            answer.append(line)
    yield Step(command, "\n".join(answer))


def comparable(text: str) -> str:
    """Return a text without what changes, and without lines that are then as the one before."""
    for pattern, instead in CHANGING:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return "\n".join(line for number, line in enumerate(lines) if number == 0 or line != lines[number - 1])


def matches(said: str, wanted: str) -> bool:
    pattern = ".*".join(map(re.escape, comparable(wanted).split(ELISION)))
    return re.fullmatch(pattern, comparable(said), re.DOTALL) is not None


STEPS = list(steps((ROOT / "README.md").read_text(encoding="utf-8")))


@pytest.fixture
def _lab() -> Iterator[None]:
    yield
    running_labs.remove(NAME)


def run(command: str) -> str:
    """Run a command in the lab of this test; return what it says."""
    for word in ("up", "exec"):
        command = command.replace(f"nfagent lab {word}", f"nfagent lab {word} --name {NAME}")
    command = command.replace("nfagent lab down", f"nfagent lab down {NAME}")
    command = command.replace("/run/nfagent-lab/lab/", f"/run/nfagent-lab/{NAME}/")
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout.replace(f"/run/nfagent-lab/{NAME}/", "/run/nfagent-lab/lab/").replace(f"'{NAME}'", "'lab'")


@pytest.mark.usefixtures("_lab")
def test_the_walk_answers_what_readme_says() -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl isn't in PATH")
    for step in STEPS:
        deadline = time.monotonic() + 60
        said = run(step.command)
        # Rules, records and counts come some moments after what they are of.
        while not matches(said, step.answer) and time.monotonic() < deadline:
            said = run(step.command)
        assert matches(said, step.answer), (
            f"$ {step.command}\n{comparable(said)}\n--- README:\n{comparable(step.answer)}"
        )


def test_the_walk_uses_the_tools_that_it_is_about() -> None:
    used = {found for step in STEPS for found in re.findall(r"nfagent (\w+)", step.command)}
    assert {"status", "logs", "explain", "try", "matrix"} <= used
    assert len(STEPS) > 10


@pytest.mark.parametrize(
    ("said", "wanted", "same"),
    [
        ("up 3 s\nx", "up 21 s\nx", True),
        ("a\nb\nc", "a\n…\nc", True),
        ("denied", "allowed", False),
        ("   1 shop/x  deny   1\n   1 shop/x  deny   1", "   2 shop/x  deny   3", True),
        ("a\nmore", "a", False),
    ],
)
def test_what_changes_is_left_out_of_the_comparison(said: str, wanted: str, same: bool) -> None:  # noqa: FBT001 - the case's outcome
    assert matches(said, wanted) == same
