"""What the Vagrant lab needs of the machine, checked at the start; each error names the command that fixes it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Literal, TypeAlias

from nfagent.errors import HostError, UsageError
from nfagent.lab.machine.requirements import available_mib

Provider: TypeAlias = Literal["libvirt", "virtualbox"]

_PACKAGES = "vagrant vagrant-libvirt qemu-system-x86 libvirt-daemon-system libvirt-clients dnsmasq-base rsync"
_INSTALL = f"apt-get install {_PACKAGES}"
_PLUGIN_SECONDS = 120.0
MOST_WORKERS = 50
MOST_PODS = 200
"""Of a node: more addresses of a /24 for Pods aren't left."""
MEMORY_VARIABLE = "NFAGENT_LAB_MEMORY"
_DEFAULT_MIB = 1536
_SMALLEST_MIB = 512
# Beside the VMs: qemu's own memory, and this machine's other programs.
_SPARE_MIB = 512


def check_workers(workers: int) -> None:
    """Check the number of workers. Raises UsageError."""
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError(f"{workers} workers: write a number from 1 to {MOST_WORKERS}")


def check_pods(pods: int) -> None:
    """Check the number of Pods on each node. Raises UsageError."""
    if not 1 <= pods <= MOST_PODS:
        raise UsageError(f"--pods {pods}: write a number from 1 to {MOST_PODS}")


def memory_of_vm(text: str) -> int:
    """Return the memory of a VM in MiB: the value of NFAGENT_LAB_MEMORY, by default 1,536. Raises UsageError."""
    if not text:
        return _DEFAULT_MIB
    if not re.fullmatch(r"[0-9]{3,7}", text) or int(text) < _SMALLEST_MIB:
        raise UsageError(
            f"{MEMORY_VARIABLE} is {text!r}: write the memory of a VM in MiB, {_SMALLEST_MIB} or more, or unset it"
        )
    return int(text)


def provider_of(plugins: str, *, libvirt: bool, virtualbox: bool) -> Provider:
    """Return the provider to use: libvirt, or where it isn't there VirtualBox. Raises HostError.

    plugins: what `vagrant plugin list` prints; libvirt, virtualbox: whether their programs are installed
    """
    plugin = re.search(r"^vagrant-libvirt\b", plugins, re.MULTILINE) is not None
    if libvirt and plugin:
        return "libvirt"
    if virtualbox:
        return "virtualbox"
    if not libvirt:
        raise HostError("neither libvirt nor VirtualBox is installed", hint=_INSTALL)
    raise HostError(
        "Vagrant has no provider for libvirt",
        hint="apt-get install vagrant-libvirt, or vagrant plugin install vagrant-libvirt",
    )


def check_machine() -> Provider:
    """Return the provider to use. Raises HostError for what is missing."""
    if shutil.which("vagrant") is None:
        raise HostError("vagrant isn't installed", hint=_INSTALL)
    libvirt = all(shutil.which(name) for name in ("virsh", "libvirtd", "qemu-system-x86_64"))
    asked = subprocess.run(
        ["vagrant", "plugin", "list"], capture_output=True, text=True, check=False, timeout=_PLUGIN_SECONDS
    )
    if asked.returncode:
        why = " ".join((asked.stderr or asked.stdout).split())[:300]
        raise HostError(f"`vagrant plugin list` failed: {why}", hint="run it as a user whose HOME can be written")
    provider = provider_of(asked.stdout, libvirt=libvirt, virtualbox=shutil.which("VBoxManage") is not None)
    if provider == "libvirt" and not Path("/run/systemd/system").exists() and os.geteuid() != 0:
        raise HostError("libvirt's daemons don't run, and only root can start them: run it as root, with sudo")
    if shutil.which("rsync") is None:
        raise HostError("rsync isn't installed: the VMs get their files by it", hint="apt-get install rsync")
    return provider


def check_memory(vms: int, each: int, meminfo: str = "") -> None:
    """Check that the VMs fit into the memory; each: MiB a VM. Raises HostError.

    meminfo: the text of /proc/meminfo; '' for this machine's
    """
    needed = vms * each + _SPARE_MIB
    available = available_mib(meminfo)
    if available is not None and available < needed:
        raise HostError(
            f"{vms} VMs of {each:,} MiB need {needed:,} MiB of memory, and {available:,} MiB are available",
            hint="give fewer workers (NFAGENT_LAB_WORKERS, --nodes), or smaller VMs (NFAGENT_LAB_MEMORY)",
        )
