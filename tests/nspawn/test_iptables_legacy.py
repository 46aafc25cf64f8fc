"""The service with iptables-legacy: by the shipped drop-in it enforces, and without it the missing right is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nspawn_machine import CHECKOUT, NspawnMachine
from tests.support.nspawn_service import COMMAND, MANIFESTS, SETTINGS, NspawnService

pytestmark = pytest.mark.kernel

DROP_IN = (CHECKOUT / "systemd" / "iptables-legacy.conf").read_text("utf-8").partition("[Service]\n")[2]
CAP_NET_ADMIN, CAP_NET_RAW = 1 << 12, 1 << 13
IPTABLES = f'backend = "iptables"\n{SETTINGS}'
LOCK = Path("/run/xtables.lock")


@pytest.fixture
def legacy(machine: NspawnMachine, installed: NspawnService) -> Iterator[NspawnService]:
    """Yield the service on a node whose kubelet uses iptables-legacy, right after a boot."""
    if machine.run("command -v iptables-legacy-restore; true") == "":
        pytest.skip("build/nspawn-debian-12 is from before it had iptables; remove it, and: make systemd-test")
    machine.run(f"systemctl stop nfagent; iptables-legacy -t mangle -N KUBE-KUBELET-CANARY; rm -f {LOCK}")
    machine.run(f"echo 'f {LOCK} 0600' >/etc/tmpfiles.d/nfagent.conf && systemd-tmpfiles --create nfagent.conf")
    try:
        yield installed
    finally:
        machine.run("systemctl stop nfagent")
        machine.run(
            f"rm /etc/tmpfiles.d/nfagent.conf; {COMMAND} cleanup && iptables-legacy -t mangle -X KUBE-KUBELET-CANARY"
        )


def test_with_the_drop_in_it_enforces_with_one_more_capability(machine: NspawnMachine, legacy: NspawnService) -> None:
    legacy.restart(IPTABLES, DROP_IN)

    backend = legacy.state()["backend"]
    assert (backend["name"], backend["variant"], backend["problems"]) == ("iptables", "legacy", [])
    assert legacy.enforces
    status = machine.run(f"cat /proc/{legacy.pid}/status")
    found = dict(line.split(":", 1) for line in status.splitlines())
    assert int(found["CapBnd"], 16) == CAP_NET_ADMIN | CAP_NET_RAW
    assert machine.run(f"stat -c %a {LOCK}").strip() == "600"


def test_with_the_drop_in_a_change_is_enforced_and_what_others_change_is_put_back(
    machine: NspawnMachine, legacy: NspawnService
) -> None:
    legacy.restart(IPTABLES, DROP_IN)
    machine.write("/etc/manifests/cluster.yaml", MANIFESTS.replace("app: api}}}]", "app: web}}}]"))
    try:
        legacy.wait_until_it_reaches("web", "db")
        machine.run("iptables-legacy -t mangle -F FORWARD")
        machine.wait_until("iptables-legacy -t mangle -S FORWARD | grep -q -- '-j nfa-'")
        assert not legacy.reaches("api", "db")
    finally:
        machine.write("/etc/manifests/cluster.yaml", MANIFESTS)


def test_without_the_drop_in_the_missing_right_is_named(legacy: NspawnService) -> None:
    legacy.restart(IPTABLES, codes=(0, 1))

    assert "CAP_NET_RAW" in legacy.log()
