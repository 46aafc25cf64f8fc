"""The lab of virtual machines: `nfagent lab ... --driver vagrant`, `make vagrant-lab`, `make vagrant-test`.

    up("lab", nodes=2, pods=3, progress=print)
    run("lab", "worker-1", ["nfagent", "dump", "state"])     # as root in the VM; its output goes to this process's
    down("lab")

The VMs are those of `vagrant/Vagrantfile`. What belongs to a lab is in build/vagrant/NAME: Vagrant's state, which names
the VMs, its log, and how ssh reaches them. So also a lab that is half built, or whose process was killed, is found and
removed whole.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from nfagent.errors import HostError, UsageError
from nfagent.lab.cluster.running_labs import check_name
from nfagent.lab.latency.samples import decode_samples, encode_samples
from nfagent.lab.machine.binaries import CHECKOUT
from nfagent.lab.machine.logged_command import run_logged
from nfagent.lab.machine.patience import VARIABLE
from nfagent.lab.vagrant import libvirt as vagrant_libvirt
from nfagent.lab.vagrant.checks import (
    MEMORY_VARIABLE,
    check_machine,
    check_memory,
    check_pods,
    check_workers,
    memory_of_vm,
)
from nfagent.system.interrupts import deferred_interrupts, interrupting

Progress = Callable[[str], None]

WORKER = "worker-1"
"""The VM on which `demo` and `latency` run."""

_EMULATED_PATIENCE = 8
_FOLDER = CHECKOUT / "vagrant"
_BUILD = CHECKOUT / "build" / "vagrant"
_END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)  # Vagrant leaves less behind after SIGINT
_INTERRUPT_SECONDS = 15.0
_TOLD = ("Machine booted", "Running provisioner", "Rsyncing folder", "Creating domain", "Booting VM")


def up(name: str, nodes: int, pods: int, progress: Progress, attachment: str = "ptp") -> None:
    """Build a lab of a control plane and workers with so many Pods each; return when their agents are ready.

    After an error or an interrupt nothing of it remains. Raises UsageError for a lab that exists already, HostError.
    """
    check_name(name)
    check_workers(nodes)
    check_pods(pods)
    if not (_FOLDER / "Vagrantfile").exists():
        raise UsageError(f"no {_FOLDER / 'Vagrantfile'}: run this in a checkout of nfagent")
    provider = check_machine()
    memory = memory_of_vm(os.environ.get(MEMORY_VARIABLE, ""))
    check_memory(nodes + 1, memory)
    with interrupting():
        folder = _claim(name)
        try:
            settings = {"WORKERS": nodes, "PODS": pods, "MEMORY": memory, "ATTACHMENT": attachment}
            (folder / "settings.json").write_bytes(msgspec.json.encode(settings))
            _build(name, provider, progress)
        except BaseException:
            with deferred_interrupts():
                progress("not complete: removing what there is")
                with contextlib.suppress(OSError):
                    (folder / "vagrant.log").replace(_failed_log(name))
                down(name, progress)
            raise


def down(name: str, progress: Progress) -> bool:
    """Remove a lab, also a half built one; return whether there was one. Raises HostError where some of it remains."""
    check_name(name)
    folder = _BUILD / name
    there = folder.is_dir()
    if there:
        vagrant_libvirt.start(_FOLDER, _BUILD, only_where_installed=True)
        progress("destroying the VMs")
        with contextlib.suppress(HostError):
            # What Vagrant doesn't know any more, or can't remove, is removed below.
            _vagrant(name, ["destroy", "--force"], lambda _line: None)
    removed = vagrant_libvirt.sweep(name)
    shutil.rmtree(folder, ignore_errors=True)
    if not names():
        vagrant_libvirt.stop(_FOLDER, _BUILD)
    return there or removed


def names() -> list[str]:
    """Return the names of the labs of this checkout, half built ones too."""
    return sorted(path.parent.name for path in _BUILD.glob("*/settings.json"))


def run(name: str, node: str, command: Sequence[str], output: Path | None = None) -> int:
    """Run a command in a VM as root, in the folder of the checkout; return its exit code.

    output: a file for its standard output; None for this process's
    Raises UsageError for a lab that isn't up, or a VM that it doesn't have.
    """
    words = shlex.join(command)
    path = "/opt/nfagent/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    line = f"cd /vagrant && exec sudo env PATH={path} {VARIABLE}={patience()} {words}"
    with contextlib.ExitStack() as stack:
        stdout = stack.enter_context(output.open("wb")) if output else None
        # With a terminal, Ctrl-C here ends it in the VM too.
        terminal = ["-tt"] if output is None and sys.stdout.isatty() else []
        return subprocess.run(
            [*_ssh(name, node, *terminal), line], check=False, stdin=subprocess.DEVNULL, stdout=stdout
        ).returncode


def fetch(name: str, node: str, path: str, target: Path) -> None:
    """Copy a file of a VM, which only root may read, to this machine. Raises HostError."""
    if run(name, node, ["cat", path], target):
        raise HostError(f"{node} has no {path}")


def facts(name: str, node: str) -> dict[str, str]:
    """Return what a VM runs: kernel, system, nft, memory, and its agent's state where it has one."""
    lines = {
        "kernel": "uname -srv",
        "system": ". /etc/os-release && echo $PRETTY_NAME",
        "virtualization": "systemd-detect-virt",
        "memory": "awk '/^MemTotal/ {print $2 \" kB\"}' /proc/meminfo",
        "nft": "nft --version",
        "nfagent": "systemctl is-active nfagent || true",
    }
    found = {}
    with tempfile.TemporaryDirectory(prefix="nfagent-facts-") as folder:
        for what, line in lines.items():
            output = Path(folder, what)
            run(name, node, ["sh", "-c", line], output)
            found[what] = output.read_text("utf-8").strip()
    return found


def demo(name: str, arguments: Sequence[str] = ()) -> int:
    """Run `nfagent lab demo` in a worker; return its exit code."""
    return run(name, WORKER, ["nfagent", "lab", "demo", *arguments])


def latency(name: str, arguments: Sequence[str], output: Path) -> int:
    """Run `nfagent lab latency` in a worker, both paths in this one VM; fetch its samples. Returns its exit code.

    A run that failed has samples too, marked as incomplete, unless it failed before the first one: then there is no
    `output`. arguments: its options, without --driver and -o; output: the file for the samples, which name this driver
    """
    there = "/var/tmp/latency.json"  # noqa: S108 - of the VM
    output.unlink(missing_ok=True)
    run(name, WORKER, ["rm", "-f", there])
    code = run(name, WORKER, ["nfagent", "lab", "latency", *arguments, "-o", there])
    if code == 0 or run(name, WORKER, ["test", "-s", there]) == 0:
        fetch(name, WORKER, there, output)
        samples = decode_samples(output.read_bytes(), str(output))
        output.write_bytes(encode_samples(msgspec.structs.replace(samples, driver="vagrant")))
        sys.stdout.write(f"of the VM; on this machine: nfagent lab report {output}\n")
    return code


def patience() -> int:
    """Return how many times longer the lab waits in a VM: many times, where the VMs are emulated."""
    try:
        emulated = (_BUILD / "accelerator").read_text("ascii").strip() == "qemu"
    except OSError:
        emulated = False
    return _EMULATED_PATIENCE if emulated else 1


def _failed_log(name: str) -> Path:
    """Return where the log of a lab that couldn't be built is kept."""
    return _BUILD / f"{name}-failed.log"


def _claim(name: str) -> Path:
    folder = _BUILD / name
    _BUILD.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        raise UsageError(
            f"lab {name!r} is up, or half built: remove it by `nfagent lab down --driver vagrant {name}`, "
            "or write another --name"
        ) from None
    return folder


def _build(name: str, provider: str, progress: Progress) -> None:
    progress("what the VMs get: programs, Python packages, a box (minutes the first time)")
    _follow(["vagrant/prepare"], CHECKOUT, _environment(name), _BUILD / name / "vagrant.log", progress)
    if provider == "libvirt":
        vagrant_libvirt.start(_FOLDER, _BUILD)
    progress("virtual machines (seconds with KVM, minutes under emulation)")
    _vagrant(name, ["up", "--provider", provider], progress)
    found = subprocess.run(
        ["vagrant", "--no-tty", "ssh-config"],
        cwd=_FOLDER,
        env=_environment(name),
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise HostError(f"vagrant ssh-config: {found.stderr.strip()}")
    (_BUILD / name / "ssh").write_text(found.stdout, "utf-8")


def _environment(name: str) -> dict[str, str]:
    try:
        settings = msgspec.json.decode((_BUILD / name / "settings.json").read_bytes(), type=dict[str, int | str])
    except (OSError, msgspec.DecodeError):
        settings = {}
    return {
        **os.environ,
        **{f"NFAGENT_LAB_{key}": str(value) for key, value in settings.items()},
        "NFAGENT_LAB_NAME": name,
        "VAGRANT_DOTFILE_PATH": str(_BUILD / name / "state"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }


def _vagrant(name: str, arguments: Sequence[str], progress: Progress) -> None:
    command = ["vagrant", "--no-tty", "--no-color", *arguments]
    _follow(command, _FOLDER, _environment(name), _BUILD / name / "vagrant.log", progress)


def _follow(command: Sequence[str], cwd: Path, environment: dict[str, str], log: Path, progress: Progress) -> None:
    """Run a command, keep its output, and tell of its steps. Raises HostError with its last lines where it fails."""
    said: list[str] = []

    def note(line: str) -> None:
        said.append(line)
        if step := _step(line):
            progress(step)

    with log.open("a", encoding="utf-8") as kept:
        code = run_logged(
            command,
            kept,
            note,
            cwd=cwd,
            environment=environment,
            end_signals=_END_SIGNALS,
            end_seconds=_INTERRUPT_SECONDS,
        )
    if code:
        # Without Vagrant's own stack.
        told = [line for line in said if not line.startswith(("/usr/", "/opt/", "\tfrom "))]
        kept_log = _failed_log(log.parent.name)
        raise HostError(f"`{' '.join(command[:4])}` failed ({kept_log}):\n{''.join(told[-15:]).strip()}")


def _step(line: str) -> str:
    """Return a line of output as progress; '' for one that tells nothing."""
    if not line.startswith("==> "):
        return ""
    text = line.removeprefix("==> ").strip()
    machine, separator, what = text.partition(": ")
    if not separator or " " in machine:
        return text
    return text if what.startswith(_TOLD) else ""


def _ssh(name: str, node: str, *options: str) -> list[str]:
    path = _BUILD / name / "ssh"
    if not path.exists():
        raise UsageError(f"no lab {name!r} is up: `nfagent lab up --driver vagrant --name {name}`")
    hosts = [line.split()[1] for line in path.read_text("utf-8").splitlines() if line.startswith("Host ")]
    if node not in hosts:
        raise UsageError(f"lab {name!r} has no VM {node!r}, only {', '.join(hosts)}")
    return ["ssh", "-F", str(path), "-o", "LogLevel=ERROR", *options, node]
