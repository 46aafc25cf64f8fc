"""Nodes on VLANs: those tests of the suite that need VLAN devices, in a VM whose kernel has them."""

from __future__ import annotations

import re

import pytest

from tests.support.vagrant_vms import VagrantVms

pytestmark = pytest.mark.vagrant

WORKER = "worker-1"
PYTEST = "/opt/nfagent-tests"
FILES = "tests/lab/test_topology.py tests/kernel/test_pod_attachments_lab.py"


def test_the_tests_with_vlans_pass_and_none_is_skipped(vms: VagrantVms) -> None:
    install = (
        f"[ -d {PYTEST} ] || /opt/nfagent/bin/python -m pip install --quiet --no-index --find-links /lab/wheels "
        f"--no-compile --target {PYTEST} pytest pytest-xdist hypothesis fastjsonschema"
    )
    vms.run(WORKER, install)
    vms.run(WORKER, "modprobe 8021q")
    run = f"cd /vagrant && PYTHONPATH={PYTEST} /opt/nfagent/bin/python -m pytest -q -rs -p no:cacheprovider -k vlan {FILES}"
    said = vms.run(WORKER, run, codes=(0, 1))
    result = said.strip().splitlines()[-1]
    assert re.search(r"\d+ passed", result), said[-3000:]
    assert not re.search(r"failed|error|skipped", result), said[-3000:]
