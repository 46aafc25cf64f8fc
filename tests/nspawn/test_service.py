"""The hardened service in a booted systemd: what it may do, that this suffices, and how systemd ends and starts it."""

from __future__ import annotations

import json

import pytest

from nfagent.verdicts.journal_entry import MESSAGE_ID
from tests.support.nspawn_machine import DEADLINE, NspawnMachine
from tests.support.nspawn_service import COMMAND, MANIFESTS, SETTINGS, NspawnService
from tests.support.packet_labs import wait_until

pytestmark = pytest.mark.kernel

VERDICTS = "/var/log/network/policy_action.log"
QUICK_WATCHDOG = "WatchdogSec=2\nTimeoutAbortSec=1"
CAP_NET_ADMIN = 1 << 12
ALSO_WEB = """---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: also-web}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
"""
COMMITTED = (
    "import json, sys; found = json.load(sys.stdin)['agent']['reconcile']; "
    "sys.exit(not (found['in_sync'] and found['commands'] > 10000))"
)
NFT = "/usr/sbin/nft"
TMP = "/tmp"  # noqa: S108 - the service has its own


def many_rules(number: int) -> str:
    """Return a policy with a thousand rules."""
    rules = ", ".join(
        f"{{from: [{{ipBlock: {{cidr: 172.{16 + number}.{at // 250}.{at % 250}/32}}}}], ports: [{{port: {at + 1}}}]}}"
        for at in range(1000)
    )
    return (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{namespace: shop, name: many-{number}}}\n"
        f"spec: {{podSelector: {{}}, ingress: [{rules}]}}\n"
    )


def status_fields(machine: NspawnMachine, pid: int) -> dict[str, str]:
    lines = machine.run(f"cat /proc/{pid}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_enforces_policies_with_one_capability_a_system_call_filter_and_no_new_privileges(
    machine: NspawnMachine, service: NspawnService
) -> None:
    assert service.shown("StatusText") == "enforcing"
    assert service.enforces
    found = status_fields(machine, service.pid)
    assert [int(found[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")] == [CAP_NET_ADMIN] * 3
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize(
    ("folder", "written"),
    [
        *((folder, True) for folder in ("/run/nfagent", "/var/lib/nfagent", "/var/log/network", TMP, f"/var{TMP}")),
        *((folder, False) for folder in ("/etc", "/usr", "/var/lib", "/root", "/opt")),
        *((folder, False) for folder in ("/run", "/run/systemd/system", "/proc/sys/net/ipv4", "/sys/fs/cgroup")),
    ],
)
def test_what_it_can_write_to(machine: NspawnMachine, service: NspawnService, folder: str, written: bool) -> None:  # noqa: FBT001 - a table's column
    machine.run("mkdir -p /run/systemd/system")
    inside = f"nsenter --target={service.pid} --mount"
    line = f"{inside} sh -c 'touch {folder}/nfagent-test && rm {folder}/nfagent-test'"
    assert (machine.run(f"{line} 2>/dev/null && echo yes; true") == "yes\n") is written


@pytest.mark.parametrize("path", ["/run/systemd/private", "/run/dbus/system_bus_socket"])
def test_it_sees_no_socket_by_which_root_is_obeyed(machine: NspawnMachine, service: NspawnService, path: str) -> None:
    assert machine.run(f"test -S {path} && echo there") == "there\n"
    connects = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
    inside = f"nsenter --target={service.pid} --mount setpriv --bounding-set=-all,+net_admin"
    assert "Error" in machine.run(f'{inside} python3 -c "{connects}" 2>&1; true')


def test_it_can_name_the_unit_of_another_process(machine: NspawnMachine, service: NspawnService) -> None:
    # A program that changes the table is reported so; its id is the kernel's, which isn't the machine's own here.
    process = machine.run("systemctl show --value --property MainPID systemd-journald").strip()
    inside = f"nsenter --target={service.pid} --mount setpriv --bounding-set=-all,+net_admin"
    program = f"from nfagent.system.process_unit import process_unit; print(process_unit({process}, 'systemd-journal'))"
    python = COMMAND.with_name("python")
    assert machine.run(f'{inside} {python} -c "{program}"') == "systemd-journald.service\n"


@pytest.mark.parametrize("file", ["environ", "mem", "fd/0"])
def test_other_processes_of_root_are_closed_to_it(machine: NspawnMachine, service: NspawnService, file: str) -> None:
    inside = f"nsenter --target={service.pid} --mount setpriv --bounding-set=-all,+net_admin"
    reading = f"{inside} python3 -c \"open('/proc/1/{file}', 'rb').read(1)\""
    assert "PermissionError" in machine.run(f"{reading} 2>&1; true")


def test_denied_connections_are_written_to_the_verdict_log(machine: NspawnMachine, service: NspawnService) -> None:
    before = int(machine.run(f"cat {VERDICTS} 2>/dev/null | wc -l"))
    assert not service.reaches("web", "db")

    def records() -> set[tuple[str, str, str]]:
        # Those of connections that tests before tried may come meanwhile.
        lines = machine.run(f"cat {VERDICTS} 2>/dev/null || true").splitlines()[before:]
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return {(one["disposition"], one["src"]["pod_name"], one["dest"]["pod_name"]) for one in found}

    wait_until(lambda: ("deny", "web", "db") in records(), DEADLINE)
    assert ("deny", "web", "db") in records()
    assert machine.run(f"stat -c '%a %U' {VERDICTS}").split() == ["640", "root"]


def test_denied_connections_are_written_to_the_journal(machine: NspawnMachine, service: NspawnService) -> None:
    service.restart(f'{SETTINGS}[logging]\nsinks = ["journald"]\n')
    assert not service.reaches("web", "db")
    machine.wait_until(f"journalctl --quiet --output=cat MESSAGE_ID={MESSAGE_ID} | grep -q .")


def test_a_reload_reads_changed_manifests_and_keeps_the_process(machine: NspawnMachine, service: NspawnService) -> None:
    pid = service.pid
    machine.write("/etc/manifests/cluster.yaml", MANIFESTS.replace("app: api}}}]", "app: web}}}]"))
    try:
        machine.run("systemctl reload nfagent")
        assert (service.reaches("api", "db"), service.reaches("web", "db")) == (False, True)
        assert (service.pid, service.shown("StatusText")) == (pid, "enforcing")
    finally:
        machine.write("/etc/manifests/cluster.yaml", MANIFESTS)


def test_a_large_manifest_is_read_by_a_child_process_with_limits(
    machine: NspawnMachine, service: NspawnService
) -> None:
    config = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{namespace: x, name: c{}}}\ndata: {{a: {}}}\n"
    machine.write("/etc/manifests/large.yaml", "".join(config.format(n, 900 * "x") for n in range(700)) + ALSO_WEB)
    try:
        machine.run("systemctl reload nfagent")
        service.wait_until_it_reaches("web", "db")
    finally:
        machine.run("rm /etc/manifests/large.yaml; systemctl reload nfagent")
    assert service.enforces


def test_its_rules_are_listed_by_a_process_of_their_own(machine: NspawnMachine, service: NspawnService) -> None:
    """That of nft: here one that crashes, as at a rule that it can't list."""
    drifts = service.state()["reconcile"]["drifts"]
    machine.run(f"mv {NFT} {NFT}-real")
    try:
        machine.write(NFT, "#!/bin/sh\necho 'no such expression' >&2\nkill -ABRT $$\n", "755")
        machine.run(f"{NFT}-real add set inet nfagent stranger '{{ type ipv4_addr; }}'")
        wait_until(lambda: service.state()["reconcile"]["drifts"] > drifts, DEADLINE)
    finally:
        machine.run(f"mv {NFT}-real {NFT}")
    assert "was ended by SIGABRT: no such expression" in service.log()
    assert "stranger" not in machine.run("nft list sets")
    assert service.enforces


def test_nat_rules_of_other_programs_are_listed_by_a_process_of_their_own(
    machine: NspawnMachine, service: NspawnService
) -> None:
    theirs = "type nat hook postrouting priority 90; ip daddr 10.0.0.0/8 masquerade;"
    try:
        machine.run(f"nft 'table ip theirs {{ chain post {{ {theirs} }}; }}'")
        wait_until(lambda: bool(service.state()["nat"]["conflicts"]), 2 * DEADLINE)
        assert service.state()["nat"]["problems"] == []
    finally:
        machine.run("nft delete table ip theirs")


def test_a_restart_starts_another_process_that_enforces_the_same(service: NspawnService) -> None:
    pid = service.pid
    service.restart()
    assert service.pid != pid
    assert service.enforces


def test_a_stopped_service_leaves_its_rules_in_force(machine: NspawnMachine, service: NspawnService) -> None:
    machine.run("systemctl stop nfagent")
    assert service.shown("Result") == "success"
    assert service.enforces


def test_a_killed_process_is_started_again_and_its_rules_stay_in_force(
    machine: NspawnMachine, service: NspawnService
) -> None:
    pid = service.pid
    machine.run(f"kill -KILL {pid}")
    assert service.enforces
    service.wait_for_another(pid)
    assert service.enforces


def test_a_process_that_stands_still_is_ended_by_the_watchdog_and_started_again(
    machine: NspawnMachine, service: NspawnService
) -> None:
    service.restart(drop_in=QUICK_WATCHDOG)
    pid = service.pid
    machine.run(f"kill -STOP {pid}")
    assert service.enforces
    service.wait_for_another(pid)
    assert service.enforces
    # Where each of its threads was, and why it was ended.
    assert "most recent call first" in service.log()
    assert "Failed with result 'watchdog'" in service.log()


def test_an_idle_process_is_not_ended_by_the_watchdog(machine: NspawnMachine, service: NspawnService) -> None:
    service.restart(drop_in="WatchdogSec=1")
    pid, began = service.pid, int(service.shown("WatchdogTimestampMonotonic"))
    fed = "systemctl show --value --property WatchdogTimestampMonotonic nfagent"
    machine.wait_until(f"[ $({fed}) -gt {began + 3_000_000} ]")
    assert service.pid == pid


def test_a_commit_of_ten_thousand_rules_is_no_hang(machine: NspawnMachine, service: NspawnService) -> None:
    service.restart(drop_in="WatchdogSec=8")
    pid = service.pid
    machine.write("/etc/manifests/many.yaml", "---\n".join(many_rules(number) for number in range(10)))
    try:
        machine.wait_until(f'{COMMAND} dump state -o json | python3 -c "{COMMITTED}"', 4 * DEADLINE)
        assert service.pid == pid
    finally:
        machine.run("rm /etc/manifests/many.yaml; systemctl stop nfagent; nft delete table inet nfagent")


def test_settings_that_cannot_be_read_are_tried_again_with_pauses_until_they_are_right(
    machine: NspawnMachine, service: NspawnService
) -> None:
    service.restart("nodename = 1\n", codes=(1,))
    machine.wait_until("[ $(systemctl show --value --property NRestarts nfagent) -ge 1 ]")
    assert service.enforces
    machine.write("/etc/nfagent/nfagent.toml", SETTINGS)
    machine.wait_until("systemctl is-active nfagent")
    assert "nodename" in service.log()


def test_a_runtime_folder_that_is_removed_is_reported_and_a_restart_makes_it_again(
    machine: NspawnMachine, service: NspawnService
) -> None:
    machine.run("rm -r /run/nfagent")
    status = "systemctl show --value --property StatusText nfagent"
    machine.wait_until(f"{status} | grep -q 'cannot create the agent.s socket or lock again'")
    assert service.enforces
    service.restart()
    assert machine.run(f"{COMMAND} dump state >/dev/null && stat -c '%a %U' /run/nfagent") == "700 root\n"
