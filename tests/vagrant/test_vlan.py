"""Nodes on VLANs: those tests of the suite that need VLAN devices, in a VM whose kernel has them."""

from __future__ import annotations

import re

import pytest

from nfagent.lab.machine.patience import VARIABLE
from nfagent.lab.vagrant import driver
from tests.support.vagrant_vms import WORKER, VagrantVms

pytestmark = pytest.mark.vagrant

PYTEST = "/lab/tests"
FILES = "tests/lab/test_topology.py tests/kernel/test_pod_attachments_lab.py"


def test_the_tests_with_vlans_pass_and_none_is_skipped(vms: VagrantVms) -> None:
    vms.run(WORKER, "modprobe 8021q")
    waiting = f"{VARIABLE}={driver.patience()}"
    pytest_there = (
        f"PYTHONPATH={PYTEST} {waiting} /opt/nfagent/bin/python -m pytest -q -rs -p no:cacheprovider -k vlan {FILES}"
    )
    said = vms.run(WORKER, f"cd /vagrant && {pytest_there}", codes=(0, 1))
    result = said.strip().splitlines()[-1]
    assert re.search(r"\d+ passed", result), said[-3000:]
    assert not re.search(r"failed|error|skipped", result), said[-3000:]
