"""The set-up of the repository itself: import laws that bite, settings that parse, exceptions with a reason."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import msgspec
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


LOCKS = ("requirements.txt", "requirements-dev.txt")
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]


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


def locked(name: str) -> dict[str, str]:
    """Read a lock: what is pinned, and its version."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", (ROOT / name).read_text(), re.MULTILINE))


def asked(section: str, option: str) -> list[Requirement]:
    """Read what setup.cfg asks for."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    return [Requirement(line) for line in config[section][option].splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("lock", LOCKS)
def test_whatever_setup_cfg_asks_for_is_locked_and_what_builds_it(lock: str) -> None:
    wanted = asked("options", "install_requires") + [Requirement(line) for line in BUILD]
    if lock == "requirements-dev.txt":
        wanted += asked("options.extras_require", "dev")
    found = locked(lock)
    lacking = [str(one) for one in wanted if found.get(canonicalize_name(one.name), "") not in one.specifier]
    assert lacking == [], "run: make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_whatever_a_locked_package_asks_for_is_locked(lock: str) -> None:
    """As the packages that are installed here say."""
    found = locked(lock)
    texts = [(name, text) for name in found for text in metadata.requires(name) or ()]
    wanted = [(name, Requirement(text)) for name, text in texts]
    needed = [(name, one) for name, one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    assert [
        f"{name}: {one}" for name, one in needed if found.get(canonicalize_name(one.name), "") not in one.specifier
    ] == []


def test_the_agents_lock_is_a_part_of_the_one_for_tests() -> None:
    run, dev = map(locked, LOCKS)
    assert run.items() < dev.items()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_hashes_and_names_no_place_that_packages_come_from(lock: str) -> None:
    lines = [line for line in (ROOT / lock).read_text().splitlines() if not re.match(r"\s*(#|$)", line)]
    strange = r"(?!\S+==\S+ \\$|    --hash=sha256:[0-9a-f]{64}( \\)?$)"
    assert [line for line in lines if re.match(strange, line)] == []
    assert all(lines[at + 1].startswith("    --hash=") for at, line in enumerate(lines) if "==" in line)


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
