"""What `nfagent check` says of settings, of the running agent's, of the source in use, and of a folder of manifests."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nfagent.cli import check_host
from nfagent.cli.check_forwarding import forwarding_checks
from nfagent.cli.check_result import Check
from nfagent.desired.state import DesiredState
from nfagent.errors import ValidationIssue
from nfagent.introspection.answers import AgentAnswerer, AnswerSources
from nfagent.introspection.freshness import WHOLE
from nfagent.kernel.table_listings import TableListings
from nfagent.loaded_settings import load_with_origins
from nfagent.settings_parts import SettingsParts
from nfagent.time_slices import TimeSlices
from tests.unit.cli.agents import STATUS, FakeListings, running
from tests.unit.cli.called import Call


@pytest.fixture(autouse=True)
def _only_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the checks of the host, which take seconds."""
    monkeypatch.setattr(check_host, "run_checks", lambda _settings: [])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    path = tmp_path / "nfagent.toml"
    path.write_text("[logging]\ngroup = 7\n")
    return path


def parts(file: Path, **flags: str) -> SettingsParts:
    return SettingsParts(partial(load_with_origins, file, flags=flags))


def answering(problems: tuple[ValidationIssue, ...] = (), **source: Any) -> AgentAnswerer:  # noqa: ANN401 - of a status
    """Return the answers of an agent with a source of objects."""
    desired, status = DesiredState("node-a"), msgspec.structs.replace(STATUS, **source)

    async def read_services() -> str:
        return ""

    listings = FakeListings()
    reports = AnswerSources(lambda: WHOLE, lambda: problems, lambda: status, read_services)
    return AgentAnswerer(desired, TableListings(listings.ruleset, listings.counters), TimeSlices(), reports)


def checks(call: Call, *arguments: str | Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(call("check", "-o", "json", *arguments).out)["checks"]
    return found


def named(found: list[dict[str, str]], name: str) -> list[tuple[str, str]]:
    return [(each["result"], each["found"]) for each in found if each["name"] == name]


def test_the_files_and_variables_that_settings_are_from_are_listed(call: Call, file: Path) -> None:
    (file.parent / "conf.d" / "10-x.toml").write_text('node = "node-a"')
    ((result, found),) = named(checks(call), "settings")
    assert result == "ok"
    assert found.split(", ")[:2] == [str(file), str(file.parent / "conf.d" / "10-x.toml")]
    assert "NFAGENT_LOG_DIR" in found


def test_a_variable_that_is_no_setting_is_a_warning(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFAGENT_LOG_LVEL", "debug")
    _, (result, found) = named(checks(call), "settings")
    assert result == "warn"
    assert found.endswith("did you mean NFAGENT_LOG_LEVEL?")


def test_the_agent_has_what_the_files_say_and_flags_of_its_own(call: Call, file: Path) -> None:
    with running(answering(files={}), routes=[parts(file, node="node-a").route]):
        found = named(checks(call), "settings in use")
    assert found == [("ok", 'the running agent has what the files say; besides: node = "node-a" (--node)')]


def test_a_file_that_changed_since_is_a_warning_with_what_applies_it(call: Call, file: Path) -> None:
    agent = parts(file)
    file.write_text("[logging]\ngroup = 8\nburst = 600\n")
    with running(answering(files={}), routes=[agent.route]):
        before = [each for each in checks(call) if each["name"] == "settings in use"]
        asyncio.run(agent.reload())
        after = [each for each in checks(call) if each["name"] == "settings in use"]
    assert [each["fix"] for each in before] == ["systemctl reload nfagent"] * 2
    assert [(each["found"], each["fix"]) for each in after] == [
        (
            f"the running agent has logging.group = 7; the files now say logging.group = 8 ({file})",
            "systemctl restart nfagent",
        )
    ]


def test_an_agent_of_another_version_is_named_as_such(call: Call) -> None:
    with running(answering(files={})):
        found = [each for each in checks(call) if each["name"] == "settings in use"]
    assert found == [
        {
            "name": "settings in use",
            "result": "warn",
            "found": "not known: the running agent is older than this command",
            "fix": "systemctl restart nfagent",
        }
    ]


def following(*, synced: bool, trouble: str = "") -> dict[str, Any]:
    return {"server": "https://k, by kc", "synced": synced, "resources": {"Pod": {"trouble": trouble}}}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            {"files": {"a.yaml": "x", "b.yaml": "y"}},
            ("ok", "the running agent reads 2 files of folder MANIFESTS"),
        ),
        ({"apiserver": following(synced=True)}, ("ok", "the running agent reads API server https://k, by kc")),
        (
            {"apiserver": following(synced=True, trouble="refused")},
            ("warn", "the running agent reads API server https://k, by kc: interrupted: refused"),
        ),
        (
            {"apiserver": following(synced=False)},
            ("warn", "the running agent reads API server https://k, by kc: not everything was read yet"),
        ),
    ],
    ids=["a folder", "an API server", "an interrupted watch", "not everything yet"],
)
def test_the_source_is_that_of_the_running_agent(
    call: Call, file: Path, manifests: Path, source: dict[str, Any], expected: tuple[str, str]
) -> None:
    with running(answering(**source), routes=[parts(file, manifests=str(manifests)).route]):
        ((result, found),) = named(checks(call), "objects")
    assert (result, found) == (expected[0], expected[1].replace("MANIFESTS", str(manifests)))


def test_problems_with_objects_of_the_running_agent_are_a_warning(call: Call, file: Path) -> None:
    problems = (ValidationIssue(reason="x", object="Pod a/b"),)
    with running(answering(problems, apiserver=following(synced=True)), routes=[parts(file).route]):
        ((result, found),) = named(checks(call), "objects")
    assert (result, found.rpartition("; ")[2]) == ("warn", "1 problem with objects")


def test_a_flag_that_names_a_source_is_checked_instead(call: Call, file: Path, manifests: Path) -> None:
    with running(answering(apiserver=following(synced=False)), routes=[parts(file).route]):
        found = checks(call, "--manifests", manifests, "--node", "node-a")
    assert named(found, "objects") == [("ok", f"folder {manifests}")]
    assert named(found, "manifests") == [("ok", "1 Node, 2 Pods, 1 policy; 2 Pods of node node-a")]


def test_problems_of_manifests_are_warnings_with_the_file_to_edit(call: Call, broken: Path) -> None:
    found = checks(call, "--manifests", broken, "--node", "node-b")
    (_, _), (first, broken_policy), (second, typo) = named(found, "manifests")
    assert (first, second) == ("warn", "warn")
    assert "NetworkPolicy shop/broken" in broken_policy
    assert typo.startswith("typo.yaml")
    fixes = {each["fix"] for each in found if each["name"] == "manifests"}
    assert fixes == {"", f"edit {broken / 'policy.yaml'}", f"edit {broken / 'typo.yaml'}"}
    ((result, words),) = named(found, "node")
    assert (result, words.split(";")[0]) == ("warn", "there is no Node node-b (did you mean node-a?)")


@pytest.mark.parametrize("other", [("--cluster",), ("--kubeconfig", "x")], ids=["cluster", "kubeconfig"])
def test_a_folder_and_an_api_server_exclude_each_other(call: Call, manifests: Path, other: tuple[str, ...]) -> None:
    said = call("check", "--manifests", manifests, *other)
    assert said.code == 2
    assert f"--manifests and {other[0]} exclude each other; give one of them" in said.err


@pytest.mark.parametrize(
    ("sysctls", "addresses", "expected"),
    [
        ({}, "", ("ok", "this kernel has no IPv6")),
        ({"forwarding": "1"}, "", ("ok", "on")),
        (
            {"forwarding": "0", "disable_ipv6": "1"},
            "",
            ("ok", "off, and not needed: IPv6 is disabled here (net.ipv6.conf.all.disable_ipv6)"),
        ),
        (
            {"forwarding": "0", "disable_ipv6": "0"},
            "fe80::1 04 40 20 80 eth0\n::1 01 80 10 80 lo\n",
            ("ok", "off, and not needed: no interface has an address of IPv6 beyond link-local"),
        ),
        (
            {"forwarding": "0", "disable_ipv6": "0"},
            "fd00::2 04 40 00 82 eth0\n",
            ("warn", "off: Pods with IPv6 addresses reach nothing by them outside their node"),
        ),
    ],
    ids=["no IPv6", "forwarding", "disabled", "link-local alone", "an address"],
)
def test_forwarding_of_ipv6_is_needed_where_there_is_an_address(
    tmp_path: Path, sysctls: dict[str, str], addresses: str, expected: tuple[str, str]
) -> None:
    (tmp_path / "net/ipv4").mkdir(parents=True)
    (tmp_path / "net/ipv4/ip_forward").write_text("1\n")
    for name, value in sysctls.items():
        path = tmp_path / "net/ipv6/conf/all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    (tmp_path / "if_inet6").write_text(addresses)
    ipv4, ipv6 = forwarding_checks(tmp_path, tmp_path / "if_inet6")
    assert ipv4 == Check("IPv4 forwarding", "ok", "on")
    assert (ipv6.name, ipv6.result, ipv6.found) == ("IPv6 forwarding", *expected)
