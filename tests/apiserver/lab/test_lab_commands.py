"""`nfagent lab up` and `nfagent lab latency` with a real API server as the agents' source."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfagent.lab.cluster import running_labs
from nfagent.lab.latency.samples import read_samples
from nfagent.lab.machine.binaries import ControlPlaneBinaries
from nfagent.lab.topology import netns

pytestmark = [pytest.mark.apiserver, pytest.mark.kernel, pytest.mark.usefixtures("interruptible")]

NAME = f"ta{os.getpid()}"
NFAGENT = [sys.executable, "-m", "nfagent"]


def nfagent(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NFAGENT, *arguments], check=False, capture_output=True, text=True, timeout=120)


@pytest.fixture(autouse=True)
def nothing_stays(binaries: ControlPlaneBinaries) -> Iterator[None]:  # noqa: ARG001 - built before a test
    yield
    running_labs.remove(NAME)


def test_a_lab_with_an_api_server_stays_up_and_is_removed() -> None:
    up = nfagent("lab", "up", "--name", NAME, "--source", "apiserver", "--nodes", "1", "--pods", "2")
    assert up.returncode == 0, up.stderr
    explained = nfagent("lab", "exec", "--name", NAME, "n1", *NFAGENT, "explain", "shop/web-1", "shop/db-1:80/tcp")
    assert (explained.returncode, "ALLOWED" in explained.stdout) == (0, True), explained.stderr
    # etcd, kube-apiserver, an agent, the Pods' servers
    assert "4 processes" in nfagent("lab", "down", NAME).stdout
    assert [*netns.named(running_labs.prefix(NAME)), *running_labs.processes_of(NAME)] == []


def test_changes_through_an_api_server_tell_its_part_of_their_latency(tmp_path: Path) -> None:
    file = tmp_path / "samples.json"
    scenarios = ["policy-created", "pod-added-to-peer-set", "namespace-relabelled", "masquerade-list-changed"]
    chosen = [word for name in scenarios for word in ("--scenario", name)]
    size = ["--pods", "50", "--policies", "0", "--tries", "1", "--paths", "nftables"]
    done = nfagent("lab", "latency", "--source", "apiserver", *size, *chosen, "-o", str(file))
    assert done.returncode == 0, done.stderr
    samples = read_samples(file)
    assert [series.scenario for series in samples.series] == scenarios
    for series in samples.series:
        for each in series.tries:
            assert each.latency_us is not None
            assert each.write_us is not None
            assert each.write_us > 0
