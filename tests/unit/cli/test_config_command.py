"""`nfagent config`: what it shows of a start now and of the running agent, and what it remarks."""

from __future__ import annotations

import asyncio
import json
import tomllib
from functools import partial
from pathlib import Path

import pytest

from nfagent.config import Settings, load_settings
from nfagent.desired.state import DesiredState
from nfagent.loaded_settings import load_with_origins
from nfagent.settings_parts import SettingsParts
from tests.unit.cli.agents import introspection, running
from tests.unit.cli.called import Call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nfagent.toml"
    path.write_text('log_level = "debug"\n[logging]\ngroup = 7\n')
    return path


def agent(file: Path, **flags: str) -> SettingsParts:
    return SettingsParts(partial(load_with_origins, file, flags=flags))


def test_each_setting_has_a_line_with_its_value_and_its_origin(call: Call, file: Path) -> None:
    said = call("config", "--node", "node-a")
    assert (said.code, said.err) == (0, "")
    header, *lines = said.out.splitlines()
    assert header.split() == ["SETTING", "VALUE", "FROM"]
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows["node"] == ['"node-a"', "--node"]
    assert rows["log_level"] == ['"debug"', str(file)]
    assert rows["logging.group"] == ["7", str(file)]
    assert rows["logging.burst"] == ["500", "default"]
    assert rows["runtime_dir"][1] == "NFAGENT_RUNTIME_DIR"


def test_only_those_that_differ_on_demand(call: Call, file: Path, tmp_path: Path) -> None:
    said = call("config", "--changed", "-o", "json")
    found = {entry["key"]: entry for entry in json.loads(said.out)["settings"]}
    assert set(found) == {"log_level", "logging.group", "runtime_dir", "log_dir", "state_dir"}
    origin = {"kind": "file", "where": str(file)}
    assert found["logging.group"] == {"key": "logging.group", "value": 7, "default": 100, "origin": origin}
    assert call("config", "--config", tmp_path / "none").code == 2


def test_toml_output_is_a_settings_file_that_means_the_same(call: Call, tmp_path: Path) -> None:
    said = call("config", "-o", "toml")
    again = tmp_path / "again.toml"
    again.write_text(said.out)
    assert load_settings(again, {}) == load_settings()
    assert "log_level" in tomllib.loads(said.out)


def test_a_wrong_setting_is_an_error(call: Call, file: Path) -> None:
    file.write_text("[logging]\ngroups = 7\n")
    said = call("config")
    assert (said.code, said.out) == (2, "")
    assert f"{file}: unknown setting logging.groups" in said.err


def test_a_variable_that_is_no_setting_is_remarked(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFAGENT_LOGGNG_GROUP", "7")
    said = call("config", "-o", "json")
    words = (
        "NFAGENT_LOGGNG_GROUP in the environment is no setting, and has no effect; did you mean NFAGENT_LOGGING_GROUP?"
    )
    assert (said.code, said.err) == (0, f"warning: {words}\n")
    assert json.loads(said.out)["remarks"] == [words]


def test_what_the_running_agent_has_otherwise_is_remarked(call: Call, file: Path) -> None:
    parts = agent(file, node="node-a")
    file.write_text("[logging]\ngroup = 8\n")
    with running(introspection(DesiredState("node-a")), routes=[parts.route]):
        here, there = call("config", "--changed"), call("config", "--running", "-o", "json")
    assert here.err.splitlines() == [
        'warning: the running agent has node = "node-a" (--node)',
        f'warning: the running agent has log_level = "debug" ({file})',
        f"warning: the running agent has logging.group = 7 ({file})",
    ]
    found = {entry["key"]: entry["value"] for entry in json.loads(there.out)["settings"]}
    assert (there.code, found["node"], found["logging.group"]) == (0, "node-a", 7)
    assert len(found) == len(list(load_with_origins(file).entries()))


def test_what_a_reload_left_for_a_restart_is_remarked(call: Call, file: Path) -> None:
    parts = agent(file)
    file.write_text("[logging]\ngroup = 8\n")
    asyncio.run(parts.reload())
    file.write_text("[logging]\ngroup = x\n")
    asyncio.run(parts.reload())
    file.write_text("")
    with running(introspection(DesiredState("node-a")), routes=[parts.route]):
        said = call("config", "--running")
    restart, kept = said.err.splitlines()
    assert restart == f"warning: logging.group = 8 ({file}) needs a restart: systemctl restart nfagent"
    assert kept.startswith(f"warning: the last reload kept every setting as it was: {file}: is not TOML")


def test_without_an_agent_there_are_no_settings_of_it(call: Call) -> None:
    said = call("config", "--running")
    assert said.code == 2
    assert said.err.endswith("leave --running out, or run: systemctl start nfagent\n")


def test_an_agent_that_has_no_such_answer_is_named_as_such(call: Call) -> None:
    with running(introspection(DesiredState("node-a"))):
        here, there = call("config"), call("config", "--running")
    assert here.code == 0
    assert here.err.startswith("warning: what the running agent has isn't known: the running agent is older than")
    assert there.code == 2
    assert there.err == "error: the running agent is older than this command; systemctl restart nfagent\n"


def test_all_settings_at_their_defaults_are_said_to_be(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNTIME_DIR", "LOG_DIR", "STATE_DIR"):
        monkeypatch.delenv(f"NFAGENT_{name}")
    monkeypatch.setattr(Settings, "socket_path", Path("/nowhere"))
    assert call("config", "--changed").out == "every setting has its default\n"
