"""An upgrade of the installed service under traffic: from an older commit to this one, by `make install`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nfagent.lab.machine.binaries import CHECKOUT
from tests.support.vagrant_vms import DB_ONLY_FROM_WEB, WORKER, VagrantVms

pytestmark = pytest.mark.vagrant

OLD = os.environ.get("NFAGENT_VAGRANT_OLD") or "HEAD~100"
INSTALL = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/lab/wheels make --silent -C /vagrant install && systemctl restart nfagent"
MODULES = "cd /opt/nfagent/lib/python3*/site-packages/nfagent && find . -name '*.py' | sort | xargs cat | sha256sum"


@pytest.fixture
def _old_version(vms: VagrantVms, facts: dict[str, Any], tmp_path: Path) -> None:
    """Install an older commit: made here, since it is only what the upgrade starts from."""
    described = subprocess.run(
        ["git", "log", "-1", "--format=%h", OLD], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if described.returncode:
        pytest.skip(f"no commit {OLD} here: NFAGENT_VAGRANT_OLD names another one")
    facts["upgraded from"] = described.stdout.strip()
    source, root = tmp_path / "source", tmp_path / "root"
    source.mkdir()
    archive = subprocess.run(["git", "archive", OLD], cwd=CHECKOUT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
    subprocess.run(
        ["make", "--silent", "-C", str(source), "install", f"DESTDIR={root}"], capture_output=True, check=True
    )
    vms.run(WORKER, "systemctl stop nfagent && rm -rf /opt/nfagent")
    packed = subprocess.run(["tar", "-c", "-C", str(root), "opt", "etc"], capture_output=True, check=True).stdout
    subprocess.run(vms.command(WORKER, "tar -x -C / --no-same-owner"), input=packed, check=True)
    vms.run(WORKER, "systemctl start nfagent")


@pytest.mark.usefixtures("_old_version")
def test_an_upgrade_loses_no_allowed_packet_and_lets_no_denied_one_pass(vms: VagrantVms, facts: dict[str, Any]) -> None:
    vms.apply(DB_ONLY_FROM_WEB)
    old = vms.run(WORKER, MODULES)
    address = vms.address("shop.db-1")
    receiver = vms.receive("shop.db-1")
    allowed, denied = vms.send("shop.web-1", address), vms.send("cp", address)
    vms.run(WORKER, INSTALL)
    vms.wait_until_enforced()
    sent, refused = vms.stop(allowed), vms.stop(denied)
    arrived = vms.stop_receiving(receiver)
    facts["upgrade: packets of an allowed connection sent; of a denied one sent; arrived"] = [
        sent,
        refused,
        {name: len(numbers) for name, numbers in arrived.items()},
    ]
    assert vms.run(WORKER, MODULES) != old
    assert refused > 0
    assert sent > 0
    assert {name: sorted(numbers) for name, numbers in arrived.items()} == {"shop.web-1": list(range(sent))}
