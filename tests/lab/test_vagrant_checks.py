"""What a machine lacks for the Vagrant lab is said at the start, with what fixes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfagent.errors import HostError, UsageError
from nfagent.lab.cluster.running_labs import check_name
from nfagent.lab.vagrant import driver as vagrant
from nfagent.lab.vagrant.checks import check_machine, check_memory, check_workers, memory_of_vm, provider_of

WITH_PLUGIN = "vagrant-libvirt (0.11.2, system)\n"


@pytest.mark.parametrize(
    ("plugins", "libvirt", "virtualbox", "provider"),
    [
        pytest.param(WITH_PLUGIN, True, False, "libvirt", id="libvirt with its plugin"),
        pytest.param(WITH_PLUGIN, True, True, "libvirt", id="libvirt comes before VirtualBox"),
        pytest.param("", True, True, "virtualbox", id="libvirt without its plugin, and VirtualBox"),
        pytest.param("", False, True, "virtualbox", id="VirtualBox alone"),
    ],
)
def test_the_provider_is_one_that_is_whole(*, plugins: str, libvirt: bool, virtualbox: bool, provider: str) -> None:
    assert provider_of(plugins, libvirt=libvirt, virtualbox=virtualbox) == provider


@pytest.mark.parametrize(
    ("plugins", "libvirt", "lacks", "fixed_by"),
    [
        pytest.param("", False, "neither libvirt nor VirtualBox", "apt-get install vagrant ", id="no provider at all"),
        pytest.param(WITH_PLUGIN, False, "neither libvirt", "libvirt-daemon-system", id="a plugin without libvirt"),
        pytest.param("(none)\n", True, "no provider for libvirt", "vagrant-libvirt", id="libvirt without the plugin"),
        pytest.param("my-vagrant-libvirt (1)\n", True, "no provider", "plugin install", id="another plugin"),
    ],
)
def test_a_missing_provider_is_named_with_the_command_that_installs_it(
    *, plugins: str, libvirt: bool, lacks: str, fixed_by: str
) -> None:
    with pytest.raises(HostError, match=lacks) as raised:
        provider_of(plugins, libvirt=libvirt, virtualbox=False)
    assert fixed_by in raised.value.hint


def test_a_machine_without_vagrant_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match="vagrant isn't installed") as raised:
        check_machine()
    assert raised.value.hint.startswith("apt-get install vagrant")


def test_vagrant_that_fails_is_named_with_what_it_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vagrant_there = tmp_path / "vagrant"
    vagrant_there.write_text("#!/bin/sh\necho 'The home directory is not accessible.' >&2; exit 1\n", "utf-8")
    vagrant_there.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(HostError, match="`vagrant plugin list` failed: The home directory is not accessible"):
        check_machine()


def test_memory_that_does_not_suffice_is_named_with_what_to_write_instead() -> None:
    with pytest.raises(HostError, match=r"3 VMs of 1,536 MiB need 5,120 MiB of memory, and 4,000 MiB") as raised:
        check_memory(3, 1536, "MemTotal: 1 kB\nMemAvailable:  4096000 kB\n")
    assert "NFAGENT_LAB_WORKERS" in raised.value.hint
    check_memory(3, 1536, "MemAvailable:  5242880 kB\n")


@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "511", "²", "9" * 5000], ids=lambda text: text[:8])
def test_an_amount_of_memory_that_is_none_is_refused_by_the_variables_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"^NFAGENT_LAB_MEMORY is .*: write the memory of a VM in MiB, 512 or more"):
        memory_of_vm(text)


def test_the_memory_of_a_vm_is_that_of_the_variable_or_the_default() -> None:
    assert (memory_of_vm(""), memory_of_vm("2048")) == (1536, 2048)


@pytest.mark.parametrize("name", ["", "Lab", "a-b", "../x", "a" * 21], ids=lambda name: name or "an empty one")
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a lab"):
        check_name(name)


@pytest.mark.parametrize("workers", [0, -1, 51])
def test_a_number_of_workers_that_is_not_possible_is_refused(workers: int) -> None:
    with pytest.raises(UsageError, match="write a number from 1 to 50"):
        check_workers(workers)


def test_a_command_in_a_lab_that_is_not_up_says_how_to_bring_it_up() -> None:
    with pytest.raises(UsageError, match="nfagent lab up --driver vagrant --name missing"):
        vagrant.run("missing", "worker-1", ["true"])
