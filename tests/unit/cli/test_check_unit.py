"""What `nfagent check` finds where a systemd has nfagent.service loaded."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from nfagent.cli.check_result import Check
from nfagent.cli.check_unit import unit_checks
from nfagent.config import Settings

SHOWN = """\
LoadState=loaded
User=root
CapabilityBoundingSet=cap_net_admin
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
RuntimeDirectory=nfagent
StateDirectory=nfagent
LogsDirectory=network
"""
OK = Check("service unit", "ok", "nfagent.service reaches the files and folders of the settings")


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file whose content `systemctl show` prints from now on."""
    folder = tmp_path / "bin"
    folder.mkdir()
    text = tmp_path / "shown"
    text.write_text(SHOWN)
    (folder / "systemctl").write_text(f"#!/bin/sh\nexec /bin/cat {text}\n")
    (folder / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return text


def edited(setting: str) -> str:
    return f"systemctl edit nfagent    # [Service] {setting}\nsystemctl restart nfagent"


@pytest.mark.usefixtures("shown")
def test_the_default_settings_are_within_reach() -> None:
    assert list(unit_checks(Settings())) == [OK]


@pytest.mark.parametrize("text", ["LoadState=not-found\n", ""], ids=["no such unit", "no systemd that answers"])
def test_without_the_unit_nothing_is_checked(shown: Path, text: str) -> None:
    shown.write_text(text)
    assert list(unit_checks(Settings(log_dir="/srv/logs"))) == []


def test_without_systemctl_nothing_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(unit_checks(Settings(log_dir="/srv/logs"))) == []


@pytest.mark.usefixtures("shown")
def test_each_folder_out_of_reach_has_a_line_of_its_own_with_its_remedy() -> None:
    settings = Settings(log_dir="/srv/nowhere", state_dir="/var/lib/elsewhere", runtime_dir="/run/elsewhere")
    reason = "can't be written to: it is read-only (ProtectSystem=strict)"
    assert list(unit_checks(settings)) == [
        Check(
            "service unit",
            "warn",
            f"log_dir /srv/nowhere {reason}",
            f"mkdir -p /srv/nowhere\n{edited('ReadWritePaths=/srv/nowhere')}",
        ),
        Check("service unit", "warn", f"state_dir /var/lib/elsewhere {reason}", edited("StateDirectory=elsewhere")),
        Check("service unit", "FAIL", f"runtime_dir /run/elsewhere {reason}", edited("RuntimeDirectory=elsewhere")),
    ]


@pytest.mark.usefixtures("shown")
def test_a_log_folder_without_the_sink_is_not_looked_at() -> None:
    logging = msgspec.structs.replace(Settings().logging, sinks=("journald",))
    assert list(unit_checks(Settings(log_dir="/srv/nowhere", logging=logging))) == [OK]


def test_a_link_is_followed_to_where_it_leads(shown: Path, tmp_path: Path) -> None:
    shown.write_text(f"{SHOWN}InaccessiblePaths={tmp_path}/hidden\n")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "link").symlink_to("hidden")
    (found,) = unit_checks(Settings(token_file=str(tmp_path / "link" / "token")))
    assert (found.result, found.found.partition(": ")[2]) == ("FAIL", "InaccessiblePaths hides it")
