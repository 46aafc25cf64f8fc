"""The Debian package in a VM without network: installed, run hardened, upgraded under traffic, removed, purged.

One worker lives through all of it, in the order of the tests. What `make install` has put there is away meanwhile, but
for /opt/nfagent, whose Python the lab itself runs on.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.debian_packages import named_version, older_package, this_package
from tests.support.vagrant_vms import DB_ONLY_FROM_WEB, WORKER, VagrantVms, policy

pytestmark = pytest.mark.vagrant

OLD = "HEAD~20"
WEB_CLOSED = policy("web", "shop", {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]})
UNITS = ("nfagent", "nfagent-early")
CAP_NET_ADMIN = 1 << 12
MOST_EXPOSURE = 2.0
# Senders share the emulated processors with the upgrade.
PAUSE = 0.05
VERSION = "dpkg-query -W -f '${Version}' nfagent"
INSTALL = "apt-get install --yes -qq -o Dpkg::Options::=--force-confold"
TABLES = "nft --json --handle list tables"

_KEPT = "/root/make-install.tar"
_AWAY = f"""
systemctl --quiet disable --now {" ".join(UNITS)}
/opt/nfagent/bin/nfagent cleanup
tar -cf {_KEPT} -C / etc/systemd/system etc/nfagent usr/local
rm -rf /etc/systemd/system/nfagent.service /etc/systemd/system/nfagent-early.service /etc/nfagent/nfagent.toml
rm -rf /usr/local/bin/nfagent /var/lib/nfagent /run/nfagent /var/log/network
systemctl daemon-reload
"""
_BACK = f"""
dpkg --purge nfagent >/dev/null 2>&1
rm -f /root/old.deb /root/new.deb
tar -xf {_KEPT} -C / && rm {_KEPT}
systemctl daemon-reload
systemctl --quiet enable --now nfagent
"""
# What dpkg, apt and journald write about any package, and what isn't the node's but the lab's.
_NOT_LISTED = (
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/root", "/opt/nfagent", "/vagrant", "/lab"),  # noqa: S108 - of the VM
    *("/var/cache", "/var/lib/apt", "/var/lib/dpkg", "/var/log/apt", "/var/log/dpkg.log", "/var/log/journal"),
    *("/var/lib/systemd/timers", "/var/lib/systemd/random-seed"),
)
_FILES = f"find / -xdev {' '.join(f'-path {path} -prune -o' for path in _NOT_LISTED)} -print"
# The names of the Pods' interfaces are other ones after a boot.
_LINKS = "ip -oneline link | cut -d: -f2 | grep -v veth"
_KERNEL = f"nft list tables; ip rule; ip -6 rule; {_LINKS}; ip route show table all protocol 78"
_FAILED = "systemctl --failed --no-legend --plain"


@pytest.fixture(scope="module")
def deb() -> Path:
    """Return the package of this checkout."""
    return this_package()


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package of an older commit."""
    found = older_package(OLD, tmp_path_factory.mktemp("older"))
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="module", autouse=True)
def before(vms: VagrantVms, deb: Path, older: Path) -> Iterator[dict[str, set[str]]]:
    """Take away what `make install` has installed, bring both packages; return files and kernel as they are then."""
    vms.apply(DB_ONLY_FROM_WEB, WEB_CLOSED)
    vms.run(WORKER, f"set -e{_AWAY}")
    try:
        for name, package in {"old": older, "new": deb}.items():
            with package.open("rb") as opened:
                subprocess.run(vms.command(WORKER, f"cat >/root/{name}.deb"), stdin=opened, check=True)
        yield state_of(vms)
    finally:
        vms.run(WORKER, _BACK)
        vms.wait_until_in_sync(WORKER)
        vms.delete(WEB_CLOSED)


def state_of(vms: VagrantVms) -> dict[str, set[str]]:
    """Return the worker's files, what its kernel has of tables, links and routing, and which units have failed."""
    return {"files": lines(vms, _FILES), "kernel": lines(vms, _KERNEL), "failed units": lines(vms, _FAILED)}


def lines(vms: VagrantVms, command: str) -> set[str]:
    return set(vms.run(WORKER, command).splitlines())


def enforces(vms: VagrantVms) -> bool:
    """Return whether the policies decide: web-1 reaches db-1, `cp` reaches neither, and another Pod is open."""
    web, db, visitor = (vms.address(pod) for pod in ("shop.web-1", "shop.db-1", "guest.visitor-1"))
    found = (vms.reaches("shop.web-1", db), vms.reaches("cp", db), vms.reaches("cp", web), vms.reaches("cp", visitor))
    return found == (True, False, False, True)


def test_it_is_installed_without_network_and_starts_nothing(
    vms: VagrantVms, older: Path, facts: dict[str, Any]
) -> None:
    assert vms.run(WORKER, "ip route show default; ip -6 route show default") == ""
    assert "unreachable" in vms.run(WORKER, "ip route get 192.0.2.1 2>&1", codes=(2,))
    began = time.monotonic()
    said = vms.run(WORKER, f"{INSTALL} /root/old.deb")
    facts["deb: seconds to install"] = round(time.monotonic() - began)
    assert "is installed, and not started" in said
    assert vms.run(WORKER, VERSION) == named_version(older)
    assert vms.run(WORKER, f"systemctl is-enabled {' '.join(UNITS)}", codes=(1,)).split() == ["disabled"] * 2
    assert vms.run(WORKER, f"systemctl is-active {' '.join(UNITS)}", codes=(3,)).split() == ["inactive"] * 2
    assert "nfagent" not in vms.run(WORKER, "nft list tables")


def test_enabled_it_enforces_the_policies_of_the_api_server(vms: VagrantVms) -> None:
    vms.run(WORKER, "systemctl --quiet enable --now nfagent")
    assert vms.run(WORKER, f"systemctl is-enabled {' '.join(UNITS)}").split() == ["enabled"] * 2
    vms.wait_until_enforced()
    program = vms.run(WORKER, "tr '\\0' ' ' </proc/$(systemctl show --value --property MainPID nfagent)/cmdline")
    assert "/usr/lib/nfagent/bin/nfagent run" in program
    assert enforces(vms)


def test_an_upgrade_under_traffic_loses_no_allowed_packet_and_lets_no_denied_one_pass(
    vms: VagrantVms, older: Path, deb: Path, facts: dict[str, Any]
) -> None:
    pid, tables = vms.property(WORKER, "nfagent", "MainPID"), vms.run(WORKER, TABLES)
    web, db = vms.address("shop.web-1"), vms.address("shop.db-1")
    count = {pod: vms.received(pod) for pod in ("shop.web-1", "shop.db-1")}
    allowed, denied = vms.send("shop.web-1", db, pause=PAUSE), vms.send("cp", web, pause=PAUSE)
    began = time.monotonic()
    vms.run(WORKER, f"{INSTALL} /root/new.deb")
    vms.wait_until_in_sync(WORKER)
    vms.wait_until_enforced()
    facts["deb: seconds to upgrade"] = round(time.monotonic() - began)
    sent, refused = vms.stop(allowed), vms.stop(denied)
    arrived, leaked = (vms.received(pod) - count[pod] for pod in ("shop.db-1", "shop.web-1"))
    facts[f"deb: upgrade from {named_version(older)}: allowed packets sent, arrived; denied ones sent, arrived"] = [
        *(sent, arrived),
        *(refused, leaked),
    ]
    assert vms.run(WORKER, VERSION) == named_version(deb)
    vms.run(WORKER, f"dpkg --compare-versions {named_version(older)} lt {named_version(deb)}")
    assert vms.property(WORKER, "nfagent", "MainPID") != pid
    assert vms.property(WORKER, "nfagent", "NRestarts") == "0"
    assert vms.run(WORKER, TABLES) == tables
    assert sent > 0
    assert refused > 0
    assert (arrived, leaked) == (sent, 0)


@pytest.mark.parametrize("unit", UNITS)
def test_its_exposure_is_below_two(vms: VagrantVms, facts: dict[str, Any], unit: str) -> None:
    said = vms.run(WORKER, f"LANG=C.UTF-8 systemd-analyze security --no-pager {unit}.service | tail -1")
    found = re.search(rf"Overall exposure level for {unit}\.service: (\d+\.\d+) ", said)
    assert found is not None, said
    facts[f"deb: systemd-analyze security {unit}"] = float(found[1])
    assert float(found[1]) < MOST_EXPOSURE


def test_it_runs_with_one_capability_a_filter_of_system_calls_and_no_new_privileges(
    vms: VagrantVms, facts: dict[str, Any]
) -> None:
    status = vms.run(WORKER, "cat /proc/$(systemctl show --value --property MainPID nfagent)/status")
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}
    facts["deb: the process"] = {
        name: found[name] for name in ("CapEff", "NoNewPrivs", "Seccomp", "Seccomp_filters", "VmRSS")
    }
    assert [int(found[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")] == [CAP_NET_ADMIN] * 3
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert int(found["Seccomp_filters"]) > 0


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        *((folder, "written") for folder in ("/run/nfagent", "/var/lib/nfagent", "/var/log/network")),
        *((folder, "Read-only file system") for folder in ("/etc/nfagent", "/usr/lib/nfagent", "/var/lib", "/run")),
    ],
)
def test_what_it_can_write_to(vms: VagrantVms, folder: str, said: str) -> None:
    inside = "nsenter --target=$(systemctl show --value --property MainPID nfagent) --mount"
    line = f"{inside} sh -c 'touch {folder}/nfagent-test && rm {folder}/nfagent-test && echo written' 2>&1"
    assert said in vms.run(WORKER, line, codes=(0, 1))


def test_check_finds_nothing_that_fails(vms: VagrantVms) -> None:
    found = vms.json(WORKER, "nfagent check --cluster -o json", codes=(0, 2))
    assert [item for item in found["checks"] if item["result"] not in {"ok", "warn"}] == []
    assert found["able"]


def test_after_a_boot_its_early_unit_has_loaded_the_rules_before_the_network(
    vms: VagrantVms, facts: dict[str, Any]
) -> None:
    boot = "/proc/sys/kernel/random/boot_id"
    earlier = vms.run(WORKER, f"cat {boot}").strip()
    vms.run(WORKER, "systemctl reboot", codes=(0, 255))
    vms.wait_until(WORKER, f"[ $(cat {boot}) != {earlier} ] && systemctl is-active kubelet")
    ended = int(vms.property(WORKER, "nfagent-early", "ExecMainExitTimestampMonotonic")) / 1e6
    network = int(vms.property(WORKER, "network-pre.target", "ActiveEnterTimestampMonotonic")) / 1e6
    facts["deb: seconds after the kernel's start: early unit ended, network"] = [ended, network]
    assert vms.property(WORKER, "nfagent-early", "Result") == "success"
    assert 0 < ended <= network
    assert "the saved ruleset of 20" in vms.run(WORKER, "journalctl --boot --unit nfagent-early --output cat")
    vms.wait_until_in_sync(WORKER)
    vms.wait_until_enforced()
    assert enforces(vms)


def test_a_removal_stops_it_and_leaves_its_rules_in_force(vms: VagrantVms) -> None:
    said = vms.run(WORKER, "apt-get remove --yes -qq nfagent")
    assert "its rules stay in force" in said
    assert vms.run(WORKER, "systemctl is-active nfagent", codes=(3, 4)).strip() == "inactive"
    assert vms.run(WORKER, "pgrep --full '^/usr/lib/nfagent/'", codes=(1,)) == ""
    assert vms.run(WORKER, "ls -d /usr/lib/nfagent /usr/bin/nfagent 2>/dev/null", codes=(2,)) == ""
    assert enforces(vms)


def test_a_purge_leaves_nothing(vms: VagrantVms, before: dict[str, set[str]]) -> None:
    vms.run(WORKER, "apt-get purge --yes -qq nfagent")
    after = state_of(vms)
    assert {what: sorted(found - before[what]) for what, found in after.items()} == {what: [] for what in after}
    assert sorted(before["files"] - after["files"]) == []
    assert "no packages found" in vms.run(WORKER, "dpkg-query -W nfagent 2>&1", codes=(1,))
    assert vms.run(WORKER, "ls -d /run/nfagent 2>/dev/null", codes=(2,)) == ""
    assert vms.run(WORKER, "systemctl list-units --all --no-legend --plain 'nfagent*'") == ""
    assert vms.reaches("cp", vms.address("shop.db-1"))
