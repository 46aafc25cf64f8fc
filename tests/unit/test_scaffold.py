"""The set-up of the repository itself: import laws that bite, settings that parse, exceptions with a reason."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from nfagent.config import Settings

ROOT = Path(__file__).parents[2]
ROOMS = (
    *("cli", "edge", "source", "notices", "verdicts", "wire", "ruleset", "explain", "policy", "egress", "cluster"),
    "lab",
)
MODULES = (
    "__main__",
    "agent",
    "config",
    "reconcile",
    "intake",
    "revoke",
    "voice",
    "errors",
    "policy/compile",
    "policy/evaluate",
    "policy/matching",
    "cluster/selectors",
)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Give a house with every room and nothing in it, under the repository's own laws."""
    for room in ROOMS:
        (tmp_path / "nfagent" / room).mkdir(parents=True)
        (tmp_path / "nfagent" / room / "__init__.py").touch()
    (tmp_path / "nfagent" / "__init__.py").touch()
    for module in MODULES:
        (tmp_path / "nfagent" / f"{module}.py").touch()
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    return tmp_path


def broken_laws(house: Path) -> tuple[str, ...]:
    """Give the names of the contracts that import-linter finds broken in a house."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=house, capture_output=True, text=True, check=False, timeout=120)
    found = tuple(re.findall(r"^(.+) BROKEN$", done.stdout, re.MULTILINE))
    assert (done.returncode == 0) == (found == ()), done.stdout + done.stderr
    return found


DOWNWARD = "imports go downward only"
PURE = "the pure rooms touch no world: no clock, no socket, no process, no logging"
NO_LAB = "nothing of the agent imports the lab"
READINGS = "compile and evaluate do not know each other"


@pytest.mark.parametrize(
    ("module", "imported", "laws"),
    [
        pytest.param("policy/__init__", "nfagent.cluster", (), id="policy may read the cluster"),
        pytest.param("cluster/__init__", "nfagent.policy", (DOWNWARD,), id="the cluster may not look up to policy"),
        pytest.param("egress/__init__", "nfagent.policy", (DOWNWARD,), id="egress and policy are apart"),
        pytest.param("edge/__init__", "nfagent.reconcile", (DOWNWARD,), id="the edge does not know reconcile"),
        pytest.param("reconcile", "nfagent.edge", (DOWNWARD,), id="reconcile does not know the edge"),
        pytest.param("intake", "nfagent.reconcile", (DOWNWARD,), id="intake does not know reconcile"),
        pytest.param("config", "nfagent.agent", (DOWNWARD,), id="settings do not know the agent"),
        pytest.param("wire/__init__", "socket", (PURE,), id="wire may not open a socket"),
        pytest.param("errors", "time", (PURE,), id="no pure module may look at the clock"),
        pytest.param("edge/__init__", "socket", (), id="the edge may open a socket"),
        pytest.param("edge/__init__", "nfagent.lab", (NO_LAB,), id="the edge may not import the lab"),
        pytest.param("cli/__init__", "nfagent.lab", (), id="the command line may import the lab"),
        pytest.param("lab/__init__", "nfagent.agent", (), id="the lab may import anything"),
        pytest.param("policy/compile", "nfagent.policy.evaluate", (READINGS,), id="compile may not ask evaluate"),
        pytest.param("policy/evaluate", "nfagent.policy.compile", (READINGS,), id="evaluate may not ask compile"),
        pytest.param("policy/evaluate", "nfagent.cluster.selectors", (), id="evaluate may use the selectors"),
    ],
)
def test_import_law(house: Path, module: str, imported: str, laws: tuple[str, ...]) -> None:
    (house / "nfagent" / f"{module}.py").write_text(f"import {imported}\n")
    assert broken_laws(house) == laws


def test_a_room_without_a_place_in_the_layers_is_refused(house: Path) -> None:
    (house / "nfagent" / "attic.py").touch()
    assert broken_laws(house) == (DOWNWARD,)


def test_every_exception_from_ruff_has_its_reason_beside_it() -> None:
    text = (ROOT / "ruff.toml").read_text()
    config = tomllib.loads(text)["lint"]
    ignored = [*config["ignore"], *(rule for rules in config["per-file-ignores"].values() for rule in rules)]
    reasoned = re.findall(r'^    "([A-Z]+\d*)", +# \S.+$', text, re.MULTILINE)
    assert sorted(reasoned) == sorted(ignored)


def template_lines() -> list[str]:
    return (ROOT / "systemd" / "nfagent.toml").read_text().splitlines()


SETTING = re.compile(r"# ([a-z_0-9]+ = .+)")


def test_the_shipped_settings_change_nothing() -> None:
    settings = tomllib.loads("\n".join(template_lines()))
    assert [name for name, section in settings.items() if section != {}] == []


def test_without_comment_signs_the_shipped_settings_are_all_the_defaults() -> None:
    bare = tomllib.loads("\n".join(SETTING.sub(r"\1", line) for line in template_lines()))
    assert bare == msgspec.json.decode(msgspec.json.encode(Settings()))


def test_every_setting_has_a_sentence_above_it() -> None:
    lines = template_lines()
    settings = [at for at, line in enumerate(lines) if SETTING.fullmatch(line)]
    assert [lines[at] for at in settings if not lines[at - 1].startswith("# ") or lines[at - 1][-1] not in ".:"] == []


def test_make_alone_lists_the_targets_in_aligned_columns() -> None:
    environment = os.environ | {"MAKEFLAGS": ""}
    command = ["make", "--no-print-directory"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60)
    lines = [re.fullmatch(r"  make ([a-z]+)( +)(\S.*)", line) for line in done.stdout.splitlines()]
    found = {line[1]: line.start(3) for line in lines if line}
    assert None not in lines
    assert found.keys() >= {"help", "demo", "test", "unit", "lint", "install", "uninstall"}
    assert len(set(found.values())) == 1
