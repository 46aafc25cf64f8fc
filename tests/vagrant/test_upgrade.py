"""An upgrade of the installed service under traffic: from an older commit to this one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from nfagent.lab.binaries import CHECKOUT
from tests.support.vagrant_vms import VagrantVms, policy

pytestmark = pytest.mark.vagrant

WORKER = "worker-1"
OLD = os.environ.get("NFAGENT_VAGRANT_OLD") or "HEAD~100"
INSTALL = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/lab/wheels PIP_NO_COMPILE=1; make --silent -C {} install && systemctl restart nfagent"
ONLY_WEB = policy(
    "db",
    "shop",
    {
        "podSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
    },
)
MODULES = "cd /opt/nfagent/lib/python3*/site-packages/nfagent && find . -name '*.py' | sort | xargs cat | sha256sum"


@pytest.fixture
def _old_version(vms: VagrantVms, facts: dict[str, Any]) -> Iterator[None]:
    """Install an older commit, and this one again at the end, whatever happened."""
    described = subprocess.run(
        ["git", "log", "-1", "--format=%h", OLD], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if described.returncode:
        pytest.skip(f"no commit {OLD} here: NFAGENT_VAGRANT_OLD names another one")
    facts["upgraded from"] = described.stdout.strip()
    archive = subprocess.run(["git", "archive", OLD], cwd=CHECKOUT, capture_output=True, check=True).stdout
    unpack = vms.command(WORKER, "rm -rf /root/old && mkdir /root/old && tar -x -C /root/old")
    subprocess.run(unpack, input=archive, check=True)
    vms.run(WORKER, INSTALL.format("/root/old"))
    try:
        yield
    finally:
        vms.run(WORKER, INSTALL.format("/vagrant") + "; rm -rf /root/old")


@pytest.mark.usefixtures("_old_version")
def test_an_upgrade_loses_no_allowed_packet_and_lets_no_denied_one_pass(vms: VagrantVms, facts: dict[str, Any]) -> None:
    vms.apply(ONLY_WEB)
    old = vms.run(WORKER, MODULES)
    address = vms.address("shop.db-1")
    before = vms.received("shop.db-1")
    allowed, denied = vms.send("shop.web-2", address), vms.send("guest.visitor-2", address)
    vms.run(WORKER, INSTALL.format("/vagrant"))
    vms.wait_until_enforced()
    sent, refused = vms.stop(allowed), vms.stop(denied)
    facts["packets of an allowed connection over the upgrade, and lost ones"] = [
        sent,
        sent - (vms.received("shop.db-1") - before),
    ]
    assert vms.run(WORKER, MODULES) != old
    assert sent > 0
    assert refused > 0
    assert vms.received("shop.db-1") - before == sent
