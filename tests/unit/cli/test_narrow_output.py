"""What commands write fits the terminal; programs get their lines whole."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from nfagent.cli.check import check_lines
from nfagent.cli.check_result import Check
from tests.unit.cli.called import Call

VIEWS = {
    "explain": ("explain", "shop/db", "shop/web:5432/tcp"),
    "a denied connection": ("explain", "10.9.9.9", "shop/db:5432/tcp"),
    "policies": ("dump", "policies"),
    "state": ("dump", "state"),
    "matrix": ("matrix",),
}


@pytest.mark.parametrize("arguments", VIEWS.values(), ids=list(VIEWS))
@pytest.mark.parametrize("columns", [40, 60])
def test_no_line_is_wider_than_the_terminal(
    call: Call, broken: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], columns: int
) -> None:
    whole = call(*arguments, "--manifests", broken, "--node", "node-a")
    monkeypatch.setenv("COLUMNS", str(columns))
    said = call(*arguments, "--manifests", broken, "--node", "node-a")
    assert said.code == whole.code
    lines = (said.out + said.err).splitlines()
    assert max(map(len, lines)) <= columns
    if arguments[0] == "explain":
        assert "".join(said.out.split()) == "".join(whole.out.split()), "nothing is cut off"


@pytest.mark.parametrize("arguments", VIEWS.values(), ids=list(VIEWS))
def test_a_sentence_is_one_line_elsewhere_than_on_a_terminal(
    call: Call, broken: Path, arguments: tuple[str, ...]
) -> None:
    said = call(*arguments, "--manifests", broken, "--node", "node-a")
    assert not [line for line in said.out.splitlines() if line.startswith("    ") and line[4:5].isalpha()]
    if arguments == VIEWS["a denied connection"]:
        assert "to allow it: add an ingress rule to NetworkPolicy shop/db that allows" in said.out


def test_an_error_fits_the_terminal(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    said = call("status")
    assert max(map(len, said.err.splitlines())) <= 40
    assert "`nfagent check` says what this node lacks" in " ".join(said.err.split())


@pytest.mark.parametrize("command", ["status", "explain", "logs", "matrix"])
def test_a_description_fits_a_terminal_of_40_columns(call: Call, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    said = call(command, "--help")
    assert max(map(len, said.out.partition("\nOptions:")[0].splitlines())) <= 40
    assert said.out.splitlines()[0].startswith(f"Usage: nfagent {command}")


def test_what_programs_read_is_never_broken(call: Call, manifests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert tomllib.loads(call("config", "-o", "toml").out)["log_dir"]
    assert json.loads(call("dump", "policies", "--manifests", manifests, "--node", "node-a", "-o", "json").out)
    narrow = call("matrix", "--manifests", manifests, "--node", "node-a", "-o", "dot")
    monkeypatch.delenv("COLUMNS")
    assert narrow == call("matrix", "--manifests", manifests, "--node", "node-a", "-o", "dot")


@pytest.mark.parametrize("columns", [40, 60])
def test_fixes_of_check_fit_the_terminal_and_commands_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    sentence = "name a kubeconfig with --kubeconfig, or run from a folder with --manifests; see docs"
    command = "sysctl -w net.ipv6.conf.all.forwarding=1"
    found = [Check("IPv6 forwarding", "warn", "off", command), Check("objects", "warn", "none", sentence)]
    lines = check_lines(found)
    assert max(map(len, lines)) <= columns
    begin = next(number for number, line in enumerate(lines) if "sysctl" in line)
    end = next(number for number, line in enumerate(lines) if "objects" in line)
    *continued, last = lines[begin:end]
    assert all(line.endswith(" \\") for line in continued)
    assert " ".join(line.removesuffix(" \\").strip() for line in [*continued, last]) == f"fix: {command}"
    assert " ".join(" ".join(lines).partition("name a")[2].split()) == sentence.removeprefix("name a ")
