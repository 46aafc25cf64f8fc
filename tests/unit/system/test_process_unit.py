"""The systemd unit of a process, by what /proc says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nfagent.system.process_unit import process_unit, unit_of_cgroups


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        pytest.param("0::/system.slice/nftables.service\n", "nftables.service", id="a service"),
        pytest.param("0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope", id="a login"),
        pytest.param(
            "0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-abc.scope\n",
            "cri-containerd-abc.scope",
            id="a container",
        ),
        pytest.param("0::/a.service/worker\n", "a.service", id="a cgroup that a service made within its own"),
        pytest.param("0::/kubepods/pod1/abc\n", "kubepods/pod1/abc", id="a container without systemd"),
        pytest.param("2:memory:/x\n1:name=systemd:/system.slice/a.service\n0::/\n", "a.service", id="both versions"),
        pytest.param("0::/a:b.service\n", "a:b.service", id="a name with a colon"),
        pytest.param("0::/\n", "", id="no cgroup"),
        pytest.param("", "", id="nothing"),
        pytest.param("x\n0:\n", "", id="lines of another form"),
    ],
)
def test_a_path_of_cgroups(text: str, unit: str) -> None:
    assert unit_of_cgroups(text) == unit


@pytest.mark.parametrize(
    ("process", "name", "unit"),
    [
        pytest.param(4711, "nft", "a.service", id="it runs"),
        pytest.param(4711, "iptables", "", id="its number belongs to another process by now"),
        pytest.param(4712, "nft", "", id="it has ended"),
        pytest.param(0, "", "", id="it is unknown"),
        pytest.param(-1, "nft", "", id="no number of a process"),
    ],
)
def test_a_process_where(process: int, name: str, unit: str, tmp_path: Path) -> None:
    (tmp_path / "4711").mkdir()
    (tmp_path / "4711" / "comm").write_text("nft\n")
    (tmp_path / "4711" / "cgroup").write_text("0::/a.service\n")
    assert process_unit(process, name, tmp_path) == unit


def test_this_process_has_the_cgroup_that_the_kernel_says() -> None:
    name = Path("/proc/self/comm").read_text().strip()
    assert process_unit(os.getpid(), name) == unit_of_cgroups(Path("/proc/self/cgroup").read_text())
