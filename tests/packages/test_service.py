"""The Debian package under a booted systemd: nothing is started, an upgrade restarts, removal and purge clean up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nspawn_machine import CHECKOUT, NspawnMachine, debian_12

SETTINGS = 'node = "node-a"\nmanifests = "/srv/manifests"\n'
STARTED = "systemctl show --value --property MainPID nfagent"


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory, deb: Path, older: Path | str) -> Iterator[NspawnMachine]:
    """Boot Debian 12 with new.deb in /root, and old.deb: the new one again where there is no older one."""
    with NspawnMachine(debian_12(), tmp_path_factory.mktemp("nspawn")) as machine:
        for name, package in {"new": deb, "old": deb if isinstance(older, str) else older}.items():
            with package.open("rb") as opened:
                subprocess.run(machine.command(f"cat >/root/{name}.deb"), stdin=opened, check=True)
        yield machine


def failed(machine: NspawnMachine) -> str:
    return machine.run("systemctl list-units --failed --no-legend --plain nfagent*")


def test_an_installation_starts_and_enables_nothing(booted: NspawnMachine) -> None:
    said = booted.run("dpkg --install /root/old.deb 2>&1")
    assert "systemctl enable --now nfagent" in said
    assert booted.run("systemctl is-enabled nfagent", codes=(1,)).strip() == "disabled"
    assert booted.run("systemctl is-active nfagent", codes=(3,)).strip() == "inactive"
    assert failed(booted) == ""


def test_an_upgrade_restarts_a_running_agent_once_and_keeps_its_table(booted: NspawnMachine) -> None:
    for manifest in (CHECKOUT / "examples/demo").iterdir():
        booted.write(f"/srv/manifests/{manifest.name}", manifest.read_text())
    booted.write("/etc/nfagent/nfagent.toml", SETTINGS)
    booted.run("systemctl enable --now nfagent 2>&1")
    booted.wait_until("nfagent dump diff")
    before, tables = booted.run(STARTED), booted.run("nft --json --handle list tables")

    booted.run("dpkg --install --force-confold /root/new.deb 2>&1")
    assert booted.run("systemctl is-active nfagent").strip() == "active"
    assert booted.run(STARTED) != before
    booted.wait_until("nfagent dump diff")
    assert booted.run("nft --json --handle list tables") == tables
    assert booted.run("systemctl show --value --property NRestarts nfagent").strip() == "0"
    assert booted.run("cat /etc/nfagent/nfagent.toml") == SETTINGS
    assert failed(booted) == ""


def test_a_removal_stops_the_agent_and_leaves_its_table(booted: NspawnMachine) -> None:
    rules = booted.run("nft --json list table inet nfagent")
    booted.run("systemctl start nfagent-early")  # as a boot does
    booted.run("dpkg --remove nfagent 2>&1")
    assert booted.run("systemctl is-active nfagent", codes=(3, 4)).strip() == "inactive"
    assert booted.run("nft --json list table inet nfagent") == rules
    assert booted.run("systemctl list-units --no-legend --plain 'nfagent*'") == ""
    assert failed(booted) == ""


def test_a_purge_leaves_no_file_and_no_table(booted: NspawnMachine) -> None:
    booted.run("dpkg --purge nfagent 2>&1")
    assert "nfagent" not in booted.run("nft list tables")
    assert booted.run(f"find /etc /usr /var/lib /var/log /run -xdev -name '*nfagent*' -not -path '{CHECKOUT}/*'") == ""
