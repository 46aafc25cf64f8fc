"""The Debian package on a bare Debian 12 and 13 without network: installed, upgraded while it runs, removed, purged.

One machine a release lives through all of it, in the order of the tests.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages.conftest import RELEASES
from tests.support.bare_debian import CHECKOUT, BareDebian
from tests.support.debian_packages import named_version

START = "nohup nfagent run --manifests /srv/manifests --node node-a >/srv/agent.log 2>&1 & echo $! >/srv/agent.pid"
STOP = "kill $(cat /srv/agent.pid)"
STOPPED = "! kill -0 $(cat /srv/agent.pid) 2>/dev/null"
TABLE = "nft --json list table inet nfagent"
OURS = (
    "/usr/lib/nfagent",
    "/usr/bin/nfagent",
    "/usr/bin/kubectl-nfagent",
    "/usr/lib/systemd/system/nfagent.service",
    "/usr/share/man/man1/nfagent.1.gz",
)
STATE = ("/etc/nfagent/nfagent.toml", "/etc/default/nfagent", "/var/lib/nfagent")


@pytest.fixture(scope="module", params=RELEASES)
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareDebian]:
    with BareDebian(request.param, tmp_path_factory.mktemp("debian") / "root") as system:
        system.copy(CHECKOUT / "examples/demo", "/srv/manifests")
        yield system


@pytest.fixture(scope="module")
def _installed(machine: BareDebian, offline: Path, older: Path | str) -> None:
    """Install Debian's packages and nfagent by the tarball's own program; an older nfagent where there is one."""
    machine.copy(offline, "/srv/offline")
    folder = machine.root / "srv/offline" / machine.release
    (newer,) = folder.glob("nfagent_*.deb")
    kept = machine.root / "srv" / newer.name
    if isinstance(older, Path):
        newer.rename(kept)
        machine.copy(older, f"/srv/offline/{machine.release}")
        index(folder)
    machine.run("cd /srv/offline && ./install")
    if isinstance(older, Path):
        (folder / older.name).unlink()
        kept.rename(newer)
        index(folder)


def index(folder: Path) -> None:
    """Describe anew what a release's folder of the tarball has."""
    packages = subprocess.run(
        ["dpkg-scanpackages", "--multiversion", "."], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    (folder / "Packages").write_text(packages)
    sums = "find . -type f ! -name SHA256SUMS -print0 | xargs -0 sha256sum >SHA256SUMS"
    subprocess.run(["sh", "-c", sums], cwd=folder.parent, check=True)


def version_of(machine: BareDebian) -> str:
    return machine.run("dpkg-query -W -f '${Version}' nfagent")


def table_handle(machine: BareDebian) -> int:
    """Return the kernel's number of the table: another one would be a table that was made anew."""
    found = json.loads(machine.run("nft --json --handle list tables"))["nftables"]
    (handle,) = (item["table"]["handle"] for item in found if item.get("table", {}).get("family") == "inet")
    assert isinstance(handle, int)
    return handle


@pytest.mark.usefixtures("_installed")
class TestLife:
    def test_it_is_installed_without_network_and_not_started(self, machine: BareDebian) -> None:
        assert machine.run("nfagent --version").startswith("nfagent ")
        assert machine.run("dpkg-query -W -f '${db:Status-Abbrev}' nfagent").strip() == "ii"
        assert not machine.exists("/etc/systemd/system/multi-user.target.wants/nfagent.service")
        assert not machine.exists("/var/lib/nfagent")
        machine.run("nft list table inet nfagent", codes=(1,))

    def test_every_file_is_compiled_for_the_python_of_this_release(self, machine: BareDebian) -> None:
        tag = machine.run("python3 -c 'import sys; print(sys.implementation.cache_tag)'").strip()
        files = (machine.root / "usr/lib/nfagent/lib/shared/nfagent").rglob("*.py")
        assert [file for file in files if not (file.parent / "__pycache__" / f"{file.stem}.{tag}.pyc").exists()] == []

    def test_its_packages_fit_the_python_of_this_release(self, machine: BareDebian) -> None:
        modules = "aiohttp, asyncinotify, cryptography.x509, kubernetes.aio.config, msgspec, nftables, yaml, yarl"
        machine.run(f"/usr/lib/nfagent/bin/python3 -I -c 'import {modules}'")

    def test_it_renders_without_an_agent(self, machine: BareDebian) -> None:
        assert "table inet nfagent" in machine.run("nfagent render --manifests /srv/manifests --node node-a")

    def test_an_agent_enforces_manifests(self, machine: BareDebian) -> None:
        machine.run(START)
        machine.wait_until("nfagent dump diff")
        assert "policy" in machine.run(TABLE)
        assert json.loads(machine.run("nfagent dump state -A -o json"))["node"] == "node-a"

    def test_an_upgrade_under_a_running_agent_keeps_rules_and_settings(
        self, machine: BareDebian, deb: Path, older: Path | str
    ) -> None:
        if isinstance(older, str):
            pytest.skip(older)
        settings = machine.root / "etc/nfagent/nfagent.toml"
        settings.write_text('log_level = "info"\n' + settings.read_text())
        mine = settings.read_text()
        before, handle, rules = version_of(machine), table_handle(machine), machine.run(TABLE)
        machine.run("cd /srv/offline && ./install")
        assert before == named_version(older)
        assert version_of(machine) == named_version(deb)
        machine.run(f"dpkg --compare-versions {before} lt {version_of(machine)}")
        assert settings.read_text() == mine
        assert (table_handle(machine), machine.run(TABLE)) == (handle, rules)
        machine.run("nfagent dump diff")

        # What systemd does after that: a restart.
        machine.run(STOP)
        machine.wait_until(STOPPED)
        assert (table_handle(machine), machine.run(TABLE)) == (handle, rules)
        machine.run(START)
        machine.wait_until("nfagent dump diff")
        assert table_handle(machine) == handle

    @pytest.mark.parametrize(
        ("begun", "broken_off"),
        [
            pytest.param("upgrade 9.9", "abort-upgrade 9.9", id="an upgrade"),
            pytest.param("remove", "abort-remove", id="a removal"),
            pytest.param("deconfigure in-favour other 1", "abort-deconfigure in-favour other 1", id="one by another"),
        ],
    )
    def test_what_is_broken_off_leaves_the_package_as_it_was(
        self, machine: BareDebian, begun: str, broken_off: str
    ) -> None:
        """By the scripts' arguments of Debian's policy (chapter 6)."""
        of_files = "find /usr/lib/nfagent -name '*.pyc' | sort"
        before = machine.run(of_files)
        machine.run(f"/var/lib/dpkg/info/nfagent.prerm {begun}")
        assert machine.run(of_files) == ""
        machine.run(f"/var/lib/dpkg/info/nfagent.postinst {broken_off}")
        assert machine.run(of_files) == before
        assert machine.exists("/usr/lib/nfagent/compiled")

    def test_another_python_has_its_files_compiled(self, machine: BareDebian) -> None:
        """Debian's trigger, as an upgrade of the distribution pulls it."""
        machine.run("echo 3.0 >/usr/lib/nfagent/compiled")
        machine.run("dpkg-trigger --by-package=python3-minimal /usr/bin/python3 && dpkg --triggers-only nfagent")
        version = machine.run("python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'")
        assert (machine.root / "usr/lib/nfagent/compiled").read_text() == version

    @pytest.mark.parametrize(("version", "linked"), [(257, True), (252, False)])
    def test_a_setting_of_newer_systemds_is_used_where_systemd_knows_it(
        self, machine: BareDebian, version: int, *, linked: bool
    ) -> None:
        """By Debian's trigger too; a systemd that only prints its version is enough."""
        machine.run(f"printf '#!/bin/sh\necho systemd {version}\n' >/usr/bin/systemctl && chmod 755 /usr/bin/systemctl")
        machine.run("mkdir -p /usr/lib/nfagent/systemd && touch /usr/lib/nfagent/systemd/restart-backoff.conf")
        machine.run("dpkg-trigger --by-package=base-files /usr/lib/systemd/systemd && dpkg --triggers-only nfagent")
        assert machine.exists("/usr/lib/systemd/system/nfagent.service.d/restart-backoff.conf") == linked
        machine.run("rm -r /usr/bin/systemctl /usr/lib/nfagent/systemd")

    def test_manual_pages_and_completion_are_there(self, machine: BareDebian) -> None:
        assert machine.exists("/usr/share/man/man1/nfagent-explain.1.gz")
        assert machine.exists("/usr/share/man/man5/nfagent.toml.5.gz")
        assert machine.run("kubectl_complete-nfagent st").split() == ["status", ":4"]
        assert "kubectl nfagent logs -f" in machine.run("kubectl-nfagent --help")
        typed = ". /usr/share/bash-completion/completions/nfagent; COMP_WORDS=(nfagent ex); COMP_CWORD=1"
        assert machine.run(f"bash -c '{typed}; _nfagent_completion nfagent; echo ${{COMPREPLY[@]}}'").split() == [
            "explain"
        ]

    def test_removal_leaves_rules_settings_and_state(self, machine: BareDebian) -> None:
        rules = machine.run(TABLE)
        machine.run(STOP)
        machine.wait_until(STOPPED)
        said = machine.run("apt-get remove --yes -qq nfagent")
        assert "its rules stay in force" in said
        assert "nft delete table inet nfagent" in said
        assert machine.run(TABLE) == rules
        assert {path: machine.exists(path) for path in OURS} == dict.fromkeys(OURS, False)
        assert {path: machine.exists(path) for path in STATE} == dict.fromkeys(STATE, True)

    def test_a_purge_while_another_installation_runs_takes_nothing_of_it(self, machine: BareDebian) -> None:
        """The address is that which an agent binds; installed again first, since a purge is done once."""
        rules = machine.run(TABLE)
        machine.run("cd /srv/offline && ./install")
        held = (
            'import socket, time; s = socket.socket(socket.AF_UNIX); s.bind("\\0nfagent/inet/nfagent"); time.sleep(600)'
        )
        machine.run(f"nohup python3 -c '{held}' >/dev/null 2>&1 & echo $! >/tmp/held")
        machine.wait_until("grep -q @nfagent/inet/nfagent /proc/net/unix")
        said = machine.run("apt-get purge --yes -qq nfagent")
        assert "another installation is in use" in said
        assert machine.run(TABLE) == rules
        assert machine.exists("/var/lib/nfagent")
        machine.run("kill $(cat /tmp/held)")
        machine.wait_until("! grep -q @nfagent/inet/nfagent /proc/net/unix")

    def test_a_purge_removes_settings_state_logs_rules_and_nothing_of_others(self, machine: BareDebian) -> None:
        machine.run("cd /srv/offline && ./install")
        machine.run("mkdir -p /var/log/network && touch /var/log/network/policy_action.log.1 /etc/nfagent/kubeconfig")
        machine.run(
            "ip link add veth0 type veth peer name veth1 && ip link set veth0 up && ip link set veth1 up"
            " && ip address add 192.0.2.1/24 dev veth0"
            " && ip address add 198.51.100.7/32 dev veth0 metric 7235072"
            " && ip rule add priority 1078 fwmark 0x1 table 7235073 protocol 78"
            " && ip -6 rule add priority 1078 fwmark 0x1 table 7235073 protocol 78"
            " && ip route add default via 192.0.2.2 table 7235073 protocol 78"
            " && ip rule add priority 500 fwmark 0x2 table 77"
            " && nft add table inet others"
        )
        machine.run("apt-get purge --yes -qq nfagent")
        machine.run("nft list table inet nfagent", codes=(1,))
        machine.run("nft list table inet others")
        gone = (*OURS, *STATE, "/run/nfagent", "/var/log/network")
        assert {path: machine.exists(path) for path in gone} == dict.fromkeys(gone, False)
        assert machine.exists("/etc/nfagent/kubeconfig")
        addresses = machine.run("ip -o -4 address show dev veth0")
        assert ("192.0.2.1" in addresses, "198.51.100.7" in addresses) == (True, False)
        rules = machine.run("ip rule; ip -6 rule")
        assert ("1078:" in rules, "500:" in rules) == (False, True)
        assert machine.run("ip route show table all protocol 78").strip() == ""
        assert machine.run("dpkg-query -W nfagent", codes=(0, 1)).count("no packages found") == 1
