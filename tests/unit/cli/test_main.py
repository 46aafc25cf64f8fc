"""The command line as a whole: what it lists, imports, and says when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from nfagent.cli import COMMANDS, nfagent
from tests.unit.cli.called import Call, unread_pipe

HEAVY = {
    "aiohttp",
    "asyncio",
    "msgspec",
    "nftables",
    "pyroute2",
    "asyncinotify",
    "yaml",
    "nfagent.agent",
    "nfagent.config",
}


def all_commands() -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, (module, _) in COMMANDS.items():
        command = getattr(import_module(f"nfagent.cli.{module}"), module)
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": item for inner, item in command.commands.items()}
    return found


def modules_after(*arguments: str) -> set[str]:
    program = (
        "import sys, json\nfrom nfagent.cli import main\n"
        f"try:\n    main({list(arguments)!r})\n"
        "except SystemExit:\n    print('\\n' + json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["lab", "--help"], ["dump", "--help"]], ids=" ".join)
def test_help_loads_click_and_nothing_heavier(arguments: list[str]) -> None:
    assert HEAVY & modules_after(*arguments) == set()


def test_the_listing_imports_no_command() -> None:
    loaded = modules_after("--help")
    assert {name for name in loaded if name.startswith("nfagent.cli.")} == set()


@pytest.mark.parametrize("name", list(all_commands()))
def test_the_help_of_every_command_fits_80_columns(call: Call, name: str) -> None:
    assert max(map(len, call(*name.split(), "--help").out.splitlines())) <= 80


@pytest.mark.parametrize("name", list(all_commands()))
def test_the_help_of_every_command_has_an_example_of_it(name: str) -> None:
    command = all_commands()[name]
    assert command.epilog is not None
    assert "Example:" in command.epilog
    assert f"nfagent {name}" in command.epilog


# `lab exec` runs another command, and -o of `lab latency` names the file for its samples, which are JSON.
@pytest.mark.parametrize(
    "name",
    [name for name in all_commands() if name not in {"run", "ui", "lab", "lab exec", "lab latency", "completion"}],
)
def test_every_query_command_has_json_output(name: str) -> None:
    outputs = [option for option in all_commands()[name].params if option.name == "output"]
    assert len(outputs) == 1
    assert isinstance(outputs[0].type, click.Choice)
    assert {"text", "json"} <= set(outputs[0].type.choices)


def test_every_command_is_listed_with_its_short_help(call: Call) -> None:
    listing = call("--help")
    assert listing.code == 0
    for name, (_, words) in COMMANDS.items():
        assert f"{name}  " in listing.out
        assert words in listing.out


def test_an_unknown_command_lists_all_commands(call: Call) -> None:
    said = call("frobnicate")
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("error: there is no command 'frobnicate'; there are run, render, ")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("exlpain",), "there is no command 'exlpain'; did you mean explain? There are run, "),
        (("lab", "dmo"), "Did you mean 'demo'?"),
        (("dump", "--manifest", "x"), "Did you mean '--manifests'?"),
    ],
    ids=["a command", "a command of a group", "a flag"],
)
def test_what_is_misspelt_is_told_what_was_meant(call: Call, words: tuple[str, ...], meant: str) -> None:
    said = call(*words)
    assert said.code == 2
    assert meant in said.err


def test_a_wrong_option_points_to_the_command_s_own_help(call: Call) -> None:
    said = call("dump", "--frob")
    assert said.code == 2
    assert "see: nfagent dump --help" in said.err


def test_a_closed_stdout_ends_the_command_quietly() -> None:
    with unread_pipe() as stdout:
        command = [sys.executable, "-m", "nfagent", "--help"]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (130, "")


def test_an_interrupt_ends_the_command_quietly(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nfagent, "invoke", interrupted)
    assert call("check") == (130, "", "")


def test_a_setting_that_is_wrong_is_an_error_of_usage(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.setenv("NFAGENT_LOGGING_GROUP", "70000")
    said = call("dump", "kernel")
    assert said.code == 2
    assert "logging.group" in said.err


@pytest.mark.parametrize("group", [[], ["lab"]], ids=["nfagent", "nfagent lab"])
def test_a_group_alone_shows_its_help_and_is_an_error_of_usage(call: Call, group: list[str]) -> None:
    said = call(*group)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("Usage: nfagent")


def test_output_to_a_full_disk_is_an_error_in_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nfagent", "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (2, "error: the output can't be written: No space left on device\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("words", "code"), [("--version", 0), ("status", 2), ("frobnicate", 2)])
def test_closed_standard_streams_change_no_exit_code(words: str, code: int, closed: str, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m nfagent {words} {closed}"
    environment = os.environ | {"NFAGENT_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=environment,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
