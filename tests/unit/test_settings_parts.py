"""The running agent's settings: its first lines, what a reload applies, and what needs a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from nfagent import __version__
from nfagent.config import Settings
from nfagent.loaded_settings import load_with_origins
from nfagent.setting_layers import setting_keys
from nfagent.settings_parts import LIVE, SettingsParts, fixed
from nfagent.system.own_log import OwnLog
from nfagent.system.stderr_log import StderrLog


@pytest.fixture(autouse=True)
def _level(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    monkeypatch.delenv("NFAGENT_LOG_LEVEL", raising=False)
    caplog.set_level(logging.INFO, "nfagent")
    yield
    logging.getLogger("nfagent").setLevel(logging.NOTSET)


class Site:
    """A settings file, and the settings of an agent that reads it."""

    def __init__(self, folder: Path, text: str = "", own_log: OwnLog | None = None) -> None:
        self.file = folder / "nfagent.toml"
        self.file.write_text(text)
        self.parts = SettingsParts(partial(load_with_origins, self.file, {}, {"node": "node-a"}), own_log)

    def reload(self, text: str) -> None:
        self.file.write_text(text)
        asyncio.run(self.parts.reload())


def test_the_first_line_has_version_node_source_and_the_settings_that_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFAGENT_LOG_LVEL", "debug")
    site = Site(tmp_path, 'manifests = "/srv"\nlog_level = "info"\n[logging]\ngroup = 7\n')
    site.parts.announce()
    differing = f'node = "node-a" (--node), manifests = "/srv" ({site.file}), logging.group = 7 ({site.file})'
    assert caplog.messages == [
        f"nfagent {__version__} on node node-a, objects from the manifests in /srv; settings: {differing}",
        "NFAGENT_LOG_LVEL in the environment is no setting, and has no effect; did you mean NFAGENT_LOG_LEVEL?",
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(kubeconfig="/k"), "objects from the API server of kubeconfig /k; settings: kubeconfig"),
        (Settings(), "objects from the API server of $KUBECONFIG, the service account or the node's own kubeconfig; "),
    ],
    ids=["of a kubeconfig", "found by itself"],
)
def test_the_first_line_names_the_api_server_s_credentials(
    settings: Settings, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    fixed(settings).announce()
    assert said in caplog.messages[0]


def test_a_reload_applies_what_can_change_and_names_what_needs_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site, applied = Site(tmp_path), list[Settings]()
    site.parts.apply_with({"logging": applied.append, "reconcile": lambda _: pytest.fail("unchanged")})
    site.reload("[logging]\ngroup = 7\nburst = 600\nrecords_per_second = 550\n")

    current = site.parts.current.logging
    assert (current.group, current.burst, current.records_per_second) == (100, 600, 550)
    assert applied == [site.parts.current]
    assert caplog.messages == [
        f"reload: logging.records_per_second = 550 ({site.file}), was 500",
        f"reload: logging.burst = 600 ({site.file}), was 500",
        f"reload: logging.group = 7 ({site.file}) needs a restart; until then it is 100",
    ]
    view = site.parts.view()
    assert [str(entry) for entry in view.pending] == ["logging.group = 7"]
    assert {str(entry.origin) for entry in view.settings if entry.key in {"logging.burst", "logging.group"}} == {
        str(site.file),
        "default",
    }


def test_what_needs_a_restart_is_named_until_it_is_taken_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(tmp_path)
    for _ in range(2):
        site.reload("[logging]\ngroup = 7\n")
    assert [message.split(" (")[0] for message in caplog.messages] == ["reload: logging.group = 7"] * 2
    site.reload("")
    assert (caplog.messages[-1], site.parts.view().pending) == ("reload: no setting has changed", ())


def test_a_reload_of_wrong_settings_keeps_those_that_are_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path, "[logging]\nburst = 600\n")
    site.reload('log_level = "loud"\n[logging]\nburst = 700\n')
    assert site.parts.current.logging.burst == 600
    assert caplog.messages == [
        f"reload: every setting stays as it was: {site.file}: log_level = 'loud': write debug, info, warning, error"
    ]
    assert "log_level" in site.parts.view().problem
    assert site.parts.problem == site.parts.view().problem
    site.reload("[logging]\nburst = 700\n")
    assert (site.parts.current.logging.burst, site.parts.view().problem) == (700, "")


@pytest.mark.parametrize(("before", "after"), [("info", "error"), ("error", "debug")], ids=["less", "more"])
def test_the_line_about_a_changed_level_is_written_whichever_is_more_verbose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: str, after: str
) -> None:
    site = Site(tmp_path, f'log_level = "{before}"', OwnLog(StderrLog()))
    logging.getLogger("nfagent").setLevel(before.upper())
    site.reload(f'log_level = "{after}"')
    assert caplog.messages == [f'reload: log_level = "{after}" ({site.file}), was "{before}"']
    assert logging.getLogger("nfagent").level == getattr(logging, after.upper())


def test_the_settings_that_a_reload_changes_exist() -> None:
    assert set(LIVE) <= {key for key, _ in setting_keys(Settings)}
