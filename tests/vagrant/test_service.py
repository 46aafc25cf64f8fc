"""The installed service under systemd: what its commands do to the packets of Pods."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.vagrant_vms import DB_ONLY_FROM_WEB, WORKER, VagrantVms

pytestmark = pytest.mark.vagrant

NFAGENT = "/opt/nfagent/bin/nfagent"

COMMANDS = {
    "a reload": "systemctl reload nfagent",
    "a restart": "systemctl restart nfagent",
    "a stop and a start": "systemctl stop nfagent && sleep 1 && systemctl start nfagent",
    "a crash": "kill -KILL $(systemctl show --value --property MainPID nfagent)",
}


@pytest.fixture(scope="module", autouse=True)
def _policy(vms: VagrantVms) -> None:
    vms.apply(DB_ONLY_FROM_WEB)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=[f"{name} of the service" for name in COMMANDS])
def test_loses_no_allowed_packet_and_lets_no_denied_one_pass(vms: VagrantVms, command: str) -> None:
    address = vms.address("shop.db-1")
    before = vms.received("shop.db-1")
    receiver = vms.receive("shop.db-1")
    allowed, denied = vms.send("shop.web-1", address), vms.send("cp", address)
    vms.wait_until_received("shop.db-1", before + 1)
    pid = vms.property(WORKER, "nfagent", "MainPID")
    vms.run(WORKER, command)
    vms.wait_until(
        WORKER, "systemctl is-active nfagent && [ $(systemctl show --value --property MainPID nfagent) != 0 ]"
    )
    vms.wait_until_in_sync(WORKER)
    sent, refused = vms.stop(allowed), vms.stop(denied)
    assert refused > 0
    arrived = vms.stop_receiving(receiver)
    # Under emulation some arrive in another order.
    assert {name: sorted(numbers) for name, numbers in arrived.items()} == {"shop.web-1": list(range(sent))}
    assert vms.received("shop.db-1") - before == sent
    assert (vms.property(WORKER, "nfagent", "MainPID") == pid) == ("reload" in command)


def test_a_stopped_service_leaves_its_rules_in_force(vms: VagrantVms) -> None:
    table = (
        "nft -j list table inet nfagent | python3 -c 'import json,sys; print(len(json.load(sys.stdin)[\"nftables\"]))'"
    )
    rules = vms.run(WORKER, table)
    vms.run(WORKER, "systemctl stop nfagent")
    try:
        assert vms.run(WORKER, table) == rules
        assert vms.reaches("shop.web-1", vms.address("shop.db-1"))
        assert not vms.reaches("cp", vms.address("shop.db-1"))
    finally:
        vms.run(WORKER, "systemctl start nfagent")


def test_the_folders_are_for_root_only_and_outlive_the_process(vms: VagrantVms) -> None:
    folders = "/run/nfagent /var/lib/nfagent"
    assert vms.run(WORKER, f"stat -c '%a %U' {folders}").splitlines() == ["700 root", "700 root"]
    vms.run(WORKER, "systemctl restart nfagent")
    assert vms.run(WORKER, "stat -c %F /run/nfagent/agent.sock").strip() == "socket"


def test_check_finds_nothing_that_fails_on_the_stock_kernel(vms: VagrantVms, facts: dict[str, Any]) -> None:
    found = vms.json(WORKER, f"{NFAGENT} check --cluster -o json", codes=(0, 2))
    facts["check"] = {item["name"]: item["result"] for item in found["checks"]}
    facts["kernel"] = vms.run(WORKER, "uname -r").strip()
    facts["nft"] = vms.run(WORKER, "nft --version").split()[1]
    assert [item for item in found["checks"] if item["result"] not in {"ok", "warn"}] == []
    assert found["able"]


def test_what_systemd_says_of_the_unit(vms: VagrantVms, facts: dict[str, Any]) -> None:
    assert vms.run(WORKER, "systemd-analyze verify --man=no nfagent.service 2>&1").strip() == ""
    assert vms.property(WORKER, "nfagent", "UnitFileState") == "enabled"
    assert "kubelet.service" in vms.property(WORKER, "nfagent", "Before").split()
    facts["systemd-analyze security"] = vms.run(WORKER, "systemd-analyze security --no-pager nfagent | tail -1").strip()
