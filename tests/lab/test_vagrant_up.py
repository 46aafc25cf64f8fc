"""A lab of virtual machines that can't be built leaves nothing; programs beside it stand in for Vagrant and libvirt."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest

from nfagent.cli.lab import lab
from nfagent.errors import HostError, UsageError
from nfagent.lab.vagrant import driver as vagrant
from tests.support.packet_labs import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start libvirt's daemons")

# Each writes down what it was asked; `vagrant up` does what the test says.
PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >>{folder}/calls
case "$(basename "$0") $*" in
"vagrant plugin list") echo "vagrant-libvirt (0.11.2, system)" ;;
"vagrant "*" up "*) {up} ;;
"vagrant "*ssh-config) printf 'Host cp\\n  HostName 192.0.2.1\\nHost worker-1\\n  HostName 192.0.2.2\\n' ;;
esac
"""


class Machine:
    """A folder in the place of the checkout, with programs in the place of Vagrant's and libvirt's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.build = folder / "build" / "vagrant"
        (folder / "vagrant").mkdir()
        (folder / "programs").mkdir()
        (folder / "vagrant" / "Vagrantfile").touch()
        for name, value in (("CHECKOUT", folder), ("_FOLDER", folder / "vagrant"), ("_BUILD", self.build)):
            monkeypatch.setattr(vagrant, name, value)
        monkeypatch.setattr(vagrant, "_INTERRUPT_SECONDS", 5.0)
        monkeypatch.setenv("PATH", f"{folder / 'programs'}:{os.environ['PATH']}")
        monkeypatch.setenv("NFAGENT_LAB_MEMORY", "512")
        self.answer("true")

    def answer(self, up: str) -> None:
        """Set the shell command that `vagrant up` is."""
        programs = ("vagrant", "virsh", "libvirtd", "qemu-system-x86_64", "rsync")
        for path in (*(self.folder / "programs" / name for name in programs), self.folder / "vagrant" / "prepare"):
            path.write_text(PROGRAM.format(folder=self.folder, up=up), "utf-8")
            path.chmod(0o755)
        (self.folder / "vagrant" / "libvirtd").write_text("#!/bin/sh\nmkdir -p $2\n", "utf-8")
        (self.folder / "vagrant" / "libvirtd").chmod(0o755)

    def calls(self) -> str:
        """Return what the programs were asked, a line each."""
        path = self.folder / "calls"
        return path.read_text("utf-8") if path.exists() else ""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def up(name: str = "lab") -> list[str]:
    told: list[str] = []
    vagrant.up(name, 1, 3, told.append)
    return told


def test_a_lab_that_is_up_is_known_by_its_name_until_it_is_down(machine: Machine) -> None:
    up()
    assert vagrant.names() == ["lab"]
    assert vagrant.down("lab", lambda _text: None)
    assert vagrant.names() == []
    assert "vagrant --no-tty --no-color destroy --force" in machine.calls()
    assert not vagrant.down("lab", lambda _text: None)


def test_the_attachment_that_was_asked_for_is_the_cni_plugin_of_the_vms(machine: Machine) -> None:
    for name, option, plugin in (("lab", [], "ptp"), ("other", ["--attachment", "bridge"], "bridge")):
        lab.main(["up", "--driver", "vagrant", "--name", name, "--nodes", "1", *option], standalone_mode=False)
        settings = json.loads((machine.build / name / "settings.json").read_bytes())
        assert settings["ATTACHMENT"] == plugin


def test_a_lab_that_is_up_already_is_refused_with_the_command_that_removes_it(machine: Machine) -> None:
    up()
    with pytest.raises(UsageError, match="nfagent lab down --driver vagrant lab"):
        up()
    assert vagrant.names() == ["lab"]
    assert "destroy" not in machine.calls()


def test_two_labs_stand_side_by_side(machine: Machine) -> None:
    up("one")
    up("two")
    vagrant.down("one", lambda _text: None)
    assert vagrant.names() == ["two"]
    assert (machine.build / "two" / "ssh").exists()


def test_after_a_failure_the_lab_is_destroyed_and_the_error_has_its_last_lines_without_vagrants_stack(
    machine: Machine,
) -> None:
    machine.answer("echo 'No room for cp'; echo '/usr/share/vagrant/warden.rb:48'; exit 1")
    with pytest.raises(HostError, match=r"No room for cp$") as raised:
        up()
    assert "destroy --force" in machine.calls()
    assert vagrant.names() == []
    failed = machine.build / "lab-failed.log"
    assert str(failed) in raised.value.reason
    assert "warden.rb" in failed.read_text("utf-8")


def test_an_interrupt_ends_vagrant_and_destroys_the_lab(machine: Machine) -> None:
    machine.answer(f"touch {machine.folder}/started; sleep 60")

    def interrupt() -> None:
        wait_until((machine.folder / "started").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        up()
    thread.join()
    assert "destroy --force" in machine.calls()
    assert vagrant.names() == []


def test_what_a_killed_process_left_is_removed_and_its_vagrant_ends_with_it(machine: Machine) -> None:
    machine.answer(
        f"echo $$ >{machine.folder}/pid.new; mv {machine.folder}/pid.new {machine.folder}/pid; exec sleep 60"
    )
    builder = multiprocessing.get_context("fork").Process(target=up)
    builder.start()
    wait_until((machine.folder / "pid").exists)
    builder.kill()
    builder.join()
    running = Path("/proc", (machine.folder / "pid").read_text("ascii").strip())
    wait_until(lambda: not running.exists())
    assert vagrant.down("lab", lambda _text: None)
    assert "destroy --force" in machine.calls()
    assert vagrant.names() == []


def test_only_steps_of_the_machines_are_told(machine: Machine) -> None:
    machine.answer("echo '==> cp: Machine booted and ready!'; echo '==> cp:  -- Cpus: 2'; echo '    cp: noise'")
    told = up()
    assert "cp: Machine booted and ready!" in told
    assert not [text for text in told if "Cpus" in text or "noise" in text]


@pytest.mark.usefixtures("machine")
def test_a_vm_that_a_lab_does_not_have_is_refused() -> None:
    up()
    with pytest.raises(UsageError, match=r"lab 'lab' has no VM 'worker-9', only cp, worker-1"):
        vagrant.run("lab", "worker-9", ["true"])
