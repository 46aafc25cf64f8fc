"""`nfagent check` beside the hardened unit: which of the settings' files the sandbox hides; its remedies work."""

from __future__ import annotations

import re

import pytest

from tests.support.nspawn_machine import NspawnMachine
from tests.support.nspawn_service import COMMAND, MANIFESTS, SETTINGS, NspawnService

pytestmark = pytest.mark.kernel

TMP = "/tmp"  # noqa: S108 - that it can't be used is what is tested


def found(machine: NspawnMachine) -> list[tuple[str, str, str]]:
    """Return result, text and remedy of each check of the unit."""
    checks = machine.json(f"{COMMAND} check -o json", codes=(0, 2))["checks"]
    return [(item["result"], item["found"], item["fix"]) for item in checks if item["name"] == "service unit"]


def test_the_shipped_settings_are_within_reach(machine: NspawnMachine, service: NspawnService) -> None:
    assert service.enforces
    assert found(machine) == [("ok", "nfagent.service reaches the files and folders of the settings", "")]


def test_a_log_folder_elsewhere_is_named_and_the_remedy_makes_it_writable(
    machine: NspawnMachine, service: NspawnService
) -> None:
    settings = f'{SETTINGS}log_dir = "/srv/logs"\n'
    service.restart(settings)
    ((result, text, fix),) = found(machine)
    assert (result, text) == ("warn", "log_dir /srv/logs can't be written to: it is read-only (ProtectSystem=strict)")
    status = "systemctl show --value --property StatusText nfagent"
    machine.wait_until(f"{status} | grep -qi 'read-only file system'")
    assert service.enforces

    made, edited, restarted = fix.splitlines()
    assert restarted == "systemctl restart nfagent"
    drop_in = re.fullmatch(r"systemctl edit nfagent    # \[Service\] (\S+)", edited)
    assert drop_in is not None
    machine.run(made)
    service.restart(settings, drop_in[1])
    assert [result for result, _, _ in found(machine)] == ["ok"]
    assert not service.reaches("web", "db")
    machine.wait_until("grep -q deny /srv/logs/policy_action.log")


def test_manifests_in_tmp_are_named(machine: NspawnMachine, service: NspawnService) -> None:
    machine.write(f"{TMP}/manifests/cluster.yaml", MANIFESTS)
    machine.write("/etc/nfagent/nfagent.toml", f'node = "node-a"\nmanifests = "{TMP}/manifests"\n')
    try:
        (given,) = found(machine)
        reason = "the service has a /tmp of its own (PrivateTmp)"
        assert given == ("FAIL", f"manifests {TMP}/manifests can't be read: {reason}", "set a path outside of /tmp")
    finally:
        machine.write("/etc/nfagent/nfagent.toml", SETTINGS)
    assert service.enforces


def test_manifests_that_a_user_owns_alone_are_named_and_the_remedy_makes_them_readable(
    machine: NspawnMachine, service: NspawnService
) -> None:
    machine.write("/home/op/manifests/cluster.yaml", MANIFESTS, "600")
    machine.run("chown -R 1000:1000 /home/op; chmod 700 /home/op")
    settings = 'node = "node-a"\nmanifests = "/home/op/manifests"\n'
    machine.write("/etc/nfagent/nfagent.toml", settings)
    ((result, text, fix),) = found(machine)
    reason = "/home/op is for user 1000 alone (mode 0700)"
    assert (result, text) == ("FAIL", f"manifests /home/op/manifests can't be read: {reason}")
    setting = "CapabilityBoundingSet=CAP_DAC_READ_SEARCH"
    assert fix.splitlines() == [f"systemctl edit nfagent    # [Service] {setting}", "systemctl restart nfagent"]
    service.restart(settings, setting)
    assert service.enforces
