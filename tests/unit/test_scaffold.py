"""The repository itself: import contracts, settings, locked packages, lint exceptions with a reason."""

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
PACKAGES = (
    *("cli", "introspection", "metrics", "controllers", "reporting", "kube", "manifests", "kernel", "checkpoint"),
    *(
        "system",
        "simulate",
        "verdicts",
        "explain",
        "desired",
        "netlink",
        "nftables",
        "policy",
        "egress",
        "state",
        "decode",
    ),
    *("model", "lab"),
    *(f"lab/{name}" for name in ("apiserver", "cluster", "demo", "ebpf", "latency", "machine", "objects", "probes")),
    *(f"lab/{name}" for name in ("report", "topology", "vagrant")),
)
CONTRACTED = frozenset(
    line.strip().removeprefix("nfagent.").replace(".", "/")
    for line in (ROOT / "setup.cfg").read_text().partition("[importlinter]")[2].splitlines()
    if line.startswith("    nfagent.")
)
"""Modules that a contract names: import-linter requires them."""


LOCKS = ("requirements.txt", "requirements-dev.txt")
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """Return a checkout with empty packages and the repository's contracts."""
    for package in PACKAGES:
        (tmp_path / "nfagent" / package).mkdir(parents=True)
        (tmp_path / "nfagent" / package / "__init__.py").touch()
    for module in ("__init__", "__main__", "lab/check", *CONTRACTED - set(PACKAGES)):
        (tmp_path / "nfagent" / f"{module}.py").touch()
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    return tmp_path


def broken_contracts(checkout: Path) -> tuple[str, ...]:
    """Return the names of the contracts that import-linter finds broken in a checkout."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False, timeout=120)
    found = tuple(re.findall(r"^(.+) BROKEN$", done.stdout, re.MULTILINE))
    assert (done.returncode == 0) == (found == ()), done.stdout + done.stderr
    return found


DOWNWARD = "imports go downward only"
PURE = "pure modules have no I/O: no clock, no socket, no process, no logging"
LAB_DOWNWARD = "the lab imports downward only"
ONLY_SAMPLES = "a report is made from samples, without a lab"
NO_LAB = "nothing of the agent imports the lab"
INDEPENDENT = "compiler and evaluator do not import each other"
OWN_MATCHING = "the compiler matches peers and ports by itself"


@pytest.mark.parametrize(
    ("module", "imported", "contracts"),
    [
        pytest.param("policy/__init__", "nfagent.state", (), id="policy may import state"),
        pytest.param("state/__init__", "nfagent.policy", (DOWNWARD,), id="state may not import policy"),
        pytest.param("egress/__init__", "nfagent.policy", (DOWNWARD,), id="egress may not import policy"),
        pytest.param("kernel/__init__", "nfagent.controllers", (DOWNWARD,), id="kernel may not import controllers"),
        pytest.param("kube/__init__", "nfagent.manifests", (DOWNWARD,), id="kube may not import manifests"),
        pytest.param("decode/__init__", "nfagent.desired", (DOWNWARD,), id="decode may not import desired"),
        pytest.param("nftables/__init__", "nfagent.explain", (DOWNWARD,), id="nftables may not import explain"),
        pytest.param("config", "nfagent.agent", (DOWNWARD,), id="config may not import the agent"),
        pytest.param("netlink/__init__", "socket", (PURE,), id="netlink may not open a socket"),
        pytest.param("errors", "time", (PURE,), id="errors may not read the clock"),
        pytest.param("kube/reflector", "asyncio", (PURE,), id="the reflector has no I/O"),
        pytest.param("kube/__init__", "socket", (), id="kube may open a socket"),
        pytest.param("kernel/__init__", "socket", (), id="kernel may open a socket"),
        pytest.param("kernel/__init__", "nfagent.lab", (NO_LAB,), id="kernel may not import the lab"),
        pytest.param("cli/__init__", "nfagent.lab", (), id="the command line may import the lab"),
        pytest.param("lab/__init__", "nfagent.agent", (), id="the lab may import anything"),
        pytest.param("lab/latency/run", "nfagent.lab.ebpf", (), id="latency may import the eBPF path"),
        pytest.param("lab/ebpf/agent", "nfagent.lab.latency", (LAB_DOWNWARD,), id="the eBPF path without latency"),
        pytest.param("lab/report/page", "nfagent.lab.latency.samples", (), id="a report may read samples"),
        pytest.param("lab/report/page", "nfagent.lab.cluster", (ONLY_SAMPLES,), id="a report needs no lab"),
        pytest.param(
            "policy/compiler", "nfagent.policy.evaluator", (INDEPENDENT, OWN_MATCHING), id="compiler without evaluator"
        ),
        pytest.param("policy/evaluator", "nfagent.policy.compiler", (INDEPENDENT,), id="evaluator without compiler"),
        pytest.param("policy/evaluator", "nfagent.model", (), id="the evaluator may import the model"),
    ],
)
def test_import_contract(skeleton: Path, module: str, imported: str, contracts: tuple[str, ...]) -> None:
    (skeleton / "nfagent" / f"{module}.py").write_text(f"import {imported}\n")
    assert broken_contracts(skeleton) == contracts


def test_a_package_without_a_place_in_the_layers_is_refused(skeleton: Path) -> None:
    (skeleton / "nfagent" / "attic.py").touch()
    assert broken_contracts(skeleton) == (DOWNWARD,)


def test_a_module_of_the_lab_without_a_place_in_its_layers_is_refused(skeleton: Path) -> None:
    (skeleton / "nfagent" / "lab" / "attic.py").touch()
    assert broken_contracts(skeleton) == (LAB_DOWNWARD,)


def test_every_exception_from_ruff_has_its_reason_beside_it() -> None:
    text = (ROOT / "ruff.toml").read_text()
    config = tomllib.loads(text)["lint"]
    ignored = [*config["ignore"], *(rule for rules in config["per-file-ignores"].values() for rule in rules)]
    reasoned = re.findall(r'^    "([A-Z]+\d*)", +# \S.+$', text, re.MULTILINE)
    assert sorted(reasoned) == sorted(ignored)


def locked(name: str) -> dict[str, str]:
    """Return the pinned packages of a lock, with their versions."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", (ROOT / name).read_text(), re.MULTILINE))


def asked(section: str, option: str) -> list[Requirement]:
    """Return the requirements of setup.cfg."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    return [Requirement(line) for line in config[section][option].splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_of_setup_cfg_and_of_the_build_is_locked(lock: str) -> None:
    wanted = asked("options", "install_requires") + [Requirement(line) for line in BUILD]
    if lock == "requirements-dev.txt":
        wanted += asked("options.extras_require", "dev")
    found = locked(lock)
    lacking = [str(one) for one in wanted if found.get(canonicalize_name(one.name), "") not in one.specifier]
    assert lacking == [], "run: make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_of_a_locked_package_is_locked(lock: str) -> None:
    """The requirements come from the metadata of the installed packages."""
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
    lines = [re.fullmatch(r"  (?:make ([a-z-]+))? +(\S.*)", line) for line in done.stdout.splitlines()]
    assert None not in lines
    assert {line[1] for line in lines if line} >= {"help", "demo", "test", "unit", "lint", "install", "uninstall"}
    assert len({line.start(2) for line in lines if line}) == 1
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_make_lists_every_target_that_is_for_people() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)) - {"modules", "$(VENV)/ready"}
    assert targets == set(re.findall(r"^([a-z-]+):[^#\n]*## \S", text, re.MULTILINE))


@pytest.mark.parametrize(("extra", "package"), [("fuzz", "atheris"), ("browser", "playwright")])
def test_what_one_target_alone_needs_is_locked_apart(extra: str, package: str) -> None:
    found = locked(f"requirements-{extra}.txt")
    assert [one.name for one in asked("options.extras_require", extra) if found[one.name] in one.specifier] == [package]
    assert found.keys().isdisjoint(locked("requirements-dev.txt"))


def test_every_file_of_the_package_that_is_not_python_is_in_the_wheel() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    found = {path for path in (ROOT / "nfagent").rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    for package, patterns in config["options.package_data"].items():
        folder = ROOT.joinpath(*package.split("."))
        found -= {path for pattern in patterns.split(",") for path in folder.glob(pattern.strip())}
    assert found == set()
