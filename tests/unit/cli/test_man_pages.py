"""Manual pages: one for each command, with all that its help has; nfagent.toml(5) with every setting."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from nfagent.cli import man_pages
from tests.unit.cli.test_main import all_commands

SETTINGS = (Path(__file__).parents[3] / "systemd/nfagent.toml").read_text()
PAGES = man_pages.command_pages()
COMMANDS = all_commands()
REQUESTS = {".TH", ".SH", ".PP", ".TP", ".nf", ".fi", ".I"}


def page_of(command: str) -> str:
    return PAGES[f"nfagent-{command.replace(' ', '-')}.1"]


def plain(page: str) -> str:
    """Return a page's text without escapes and requests."""
    text = re.sub(r"\\f[BIR]|\\&", "", page)
    for escaped, character in {"\\-": "-", "\\(aq": "'", "\\(ga": "`", "\\(dq": '"', "\\(ti": "~", "\\e": "\\"}.items():
        text = text.replace(escaped, character)
    return " ".join(line for line in text.splitlines() if not line.startswith("."))


def test_every_command_has_a_page_and_no_page_lacks_its_command() -> None:
    assert set(PAGES) == {"nfagent.1"} | {f"nfagent-{name.replace(' ', '-')}.1" for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_the_options_the_text_and_the_examples_of_its_command(name: str) -> None:
    command, text = COMMANDS[name], plain(page_of(name))
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    options = [option for parameter in shown for option in parameter.opts if option.startswith("-")]
    assert [option for option in (*options, "-h, --help") if option not in text] == []
    words = " ".join((command.help or "").replace("\b", "").split())
    assert words in " ".join(text.split())
    examples = [line.removeprefix("Example:").strip() for line in (command.epilog or "").splitlines()]
    assert [example for example in examples if example.strip("\b") not in text] == []


def test_a_group_lists_its_commands() -> None:
    text = plain(page_of("lab"))
    group = COMMANDS["lab"]
    assert isinstance(group, click.Group)
    assert [name for name in group.commands if f"nfagent-lab-{name}(1)" not in text] == []


@pytest.mark.parametrize("page", [*PAGES.values(), man_pages.settings_page(SETTINGS)], ids=[*PAGES, "nfagent.toml.5"])
def test_only_our_own_lines_are_requests_of_roff(page: str) -> None:
    found = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert found <= REQUESTS
    assert "\b" not in page


@pytest.mark.parametrize("page", [*PAGES.values(), man_pages.settings_page(SETTINGS)], ids=[*PAGES, "nfagent.toml.5"])
def test_man_formats_a_page_without_a_warning(page: str, tmp_path: Path) -> None:
    if shutil.which("groff") is None or shutil.which("man") is None:
        pytest.skip("man is missing; run: apt-get install man-db")
    file = tmp_path / "page.1"
    file.write_text(page)
    command = ["man", "--local-file", "--warnings", "--encoding=UTF-8", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", "MANWIDTH": "200"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "NAME" in done.stdout


def test_the_settings_page_has_every_setting_with_its_default_below_its_section() -> None:
    text = man_pages.settings_page(SETTINGS)
    settings = re.findall(r"^# (\w+) = (.+)$", SETTINGS, re.MULTILINE)
    assert len(settings) > 30
    assert [key for key, default in settings if f"{key} = {default}" not in plain(text.replace(".TP\n", ""))] == []
    assert text.count(".TP") == len(settings)
    assert re.findall(r"^\.SH \[(\w+)\]$", text, re.MULTILINE) == re.findall(r"^\[(\w+)\]$", SETTINGS, re.MULTILINE)


@pytest.mark.parametrize(
    ("comment", "line"),
    [
        (".SH evil", "\\&.SH evil"),
        ("a\\fBb", "a\\efBb"),
        ("'so /etc/shadow", "\\(aqso /etc/shadow"),
        ("--node", "\\-\\-node"),
    ],
    ids=["a request", "an escape", "a request by an apostrophe", "a hyphen that can be copied"],
)
def test_text_that_roff_would_obey_is_text(comment: str, line: str) -> None:
    assert line in man_pages.settings_page(f"# {comment}\n# key = 1\n").splitlines()


def test_the_date_is_that_of_the_source_and_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    undated = man_pages.settings_page(SETTINGS)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1769817600")
    dated = man_pages.settings_page(SETTINGS)
    assert dated.replace('"2026-01-31"', '""', 1) == undated != dated


def test_the_program_writes_all_of_them(tmp_path: Path) -> None:
    settings = tmp_path / "nfagent.toml"
    settings.write_text(SETTINGS)
    man_pages.main([str(tmp_path / "man"), str(settings)])
    assert {path.name for path in (tmp_path / "man").iterdir()} == {*PAGES, "nfagent.toml.5"}
