"""What the eBPF path needs of a machine: each need with the command that fixes it, and nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nfagent.lab.ebpf import check as ebpf_check
from nfagent.lab.ebpf import program as ebpf_program
from nfagent.lab.ebpf.program import SOURCE
from nfagent.lab.ebpf.requirements import COMPILED
from nfagent.lab.topology import netns

pytestmark = pytest.mark.kernel


def test_a_machine_that_lacks_nothing_runs_the_program() -> None:
    if lack := ebpf_program.missing():
        pytest.skip(lack)
    found = ebpf_check.ebpf_check()
    assert {check.result for check in found} == {"ok"}
    assert found[-1].found == "compiled, loaded, attached and removed"
    assert netns.named(netns.prefix("ebpfcheck", os.getpid())) == []


def test_without_clang_the_command_that_installs_it_is_named_and_nothing_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {check.name: check for check in ebpf_check.ebpf_check()}
    assert (found["clang"].result, found["clang"].fix) == ("FAIL", "apt-get install clang libbpf-dev")
    assert "the program" not in found


def test_a_program_that_the_kernel_does_not_take_is_a_failure_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if lack := ebpf_program.missing():
        pytest.skip(lack)
    broken = tmp_path / "policy.o"
    broken.write_bytes(SOURCE.read_bytes())
    monkeypatch.setenv(COMPILED, str(broken))
    last = ebpf_check.ebpf_check()[-1]
    assert (last.name, last.result) == ("the program", "FAIL")
    assert "can't read the compiled eBPF program" in last.found
    assert netns.named(netns.prefix("ebpfcheck", os.getpid())) == []
