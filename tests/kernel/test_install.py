"""`make install` and `make uninstall`, into a folder of their own (DESTDIR), from a copy of the source."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
SOURCES = ("nfagent", "packaging", "systemd", "Makefile", "LICENSE", "README.md", "pyproject.toml", "setup.cfg")


class Installation(NamedTuple):
    """A copy of the source, the folder that it was installed into, and the command's output."""

    source: Path
    destination: Path
    said: str

    @property
    def settings(self) -> Path:
        return self.destination / "etc/nfagent/nfagent.toml"

    @property
    def units(self) -> Path:
        return self.destination / "etc/systemd/system"


def make(target: str, source: Path, destination: Path, *, before: Path | None = None) -> str:
    """Run a target; before: a folder whose programs come before the machine's own."""
    command = ["make", "--silent", target, f"DESTDIR={destination}"]
    found = os.environ["PATH"] if before is None else f"{before}:{os.environ['PATH']}"
    environment = os.environ | {"MAKEFLAGS": "", "PATH": found}
    done = subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pins(package: str) -> str:
    """Return what the lock says of a package."""
    lock = (ROOT / "requirements.txt").read_text()
    found = re.search(rf"^{package}==.*\n(    --hash=.*\n)+", lock, re.MULTILINE)
    assert found is not None
    return found[0]


@pytest.fixture(scope="module", autouse=True)
def _pip_reaches_setuptools(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where pip can't download setuptools, which a build needs."""
    folder = str(tmp_path_factory.mktemp("wheels"))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "setuptools"]
    if subprocess.run(command, capture_output=True, check=False, timeout=300).returncode != 0:
        pytest.skip("pip can't fetch setuptools here, so nothing can be built")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Install once for the tests that only look."""
    source, destination = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("machine")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    # Of the lock, what builds it and prints its manual pages: that packages can be had is the first thing that
    # `make test` shows.
    (source / "requirements.txt").write_text("".join(map(pins, ("click", "msgspec", "setuptools"))))
    return Installation(source, destination, make("install", source, destination))


def test_the_package_is_installed_by_value_not_by_reference(site: Installation) -> None:
    program = "import nfagent; print(nfagent.__file__)"
    python = site.destination / "opt/nfagent/bin/python"
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith(f"{site.destination}/opt/nfagent/lib/")


def test_the_command_starts_with_the_interpreter_of_the_machine_it_is_for(site: Installation) -> None:
    command = site.destination / "opt/nfagent/bin/nfagent"
    assert os.access(command, os.X_OK)
    assert command.read_text().splitlines()[0] in {"#!/opt/nfagent/bin/python", "#!/opt/nfagent/bin/python3"}
    assert (site.destination / "usr/local/bin/nfagent").readlink() == Path("/opt/nfagent/bin/nfagent")


def test_manual_pages_and_completion_are_where_man_and_the_shells_look(site: Installation) -> None:
    share = site.destination / "usr/local/share"
    found = {str(path.relative_to(share)) for path in share.rglob("*") if path.is_file()}
    assert {
        "man/man1/nfagent.1",
        "man/man1/nfagent-explain.1",
        "man/man5/nfagent.toml.5",
        "bash-completion/completions/nfagent",
        "zsh/site-functions/_nfagent",
        "fish/vendor_completions.d/nfagent.fish",
    } <= found
    assert (share / "zsh/site-functions/_nfagent").read_text().startswith("#compdef nfagent")


def test_a_first_install_gives_the_default_settings(site: Installation) -> None:
    assert site.settings.read_bytes() == (ROOT / "systemd/nfagent.toml").read_bytes()


def test_the_last_line_is_the_next_step(site: Installation) -> None:
    assert "systemctl enable --now nfagent" in site.said.splitlines()[-1]


@pytest.mark.parametrize(("name", "started"), [("nfagent", "run"), ("nfagent-early", "restore")])
def test_systemd_finds_no_fault_in_a_unit(site: Installation, tmp_path: Path, name: str, started: str) -> None:
    # The installed unit, with the one path that exists on this machine only below DESTDIR.
    command = "/opt/nfagent/bin/nfagent"
    text = (site.units / f"{name}.service").read_text()
    assert f"ExecStart={command} {started} --config /etc/nfagent/nfagent.toml\n" in text
    copy = tmp_path / f"{name}.service"
    copy.write_text(text.replace(command, f"{site.destination}{command}"))
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def systemd_257(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a systemctl that says the version of Debian 13."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "systemctl").write_text("#!/bin/sh\necho 'systemd 257 (257.13-1~deb13u1)'\necho +PAM\n")
    (folder / "systemctl").chmod(0o755)
    return folder


def test_a_systemd_that_knows_no_growing_pauses_between_restarts_gets_no_setting_for_them(site: Installation) -> None:
    done = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False, timeout=60)
    is_new = int(done.stdout.split()[1]) >= 254
    assert (site.units / "nfagent.service.d/restart-backoff.conf").exists() == is_new


def test_settings_survive_a_second_install_and_an_uninstall_removes_what_was_installed(
    site: Installation, tmp_path: Path, systemd_257: Path
) -> None:
    settings = tmp_path / "etc/nfagent/nfagent.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('node = "mine"\n')
    said = make("install", site.source, tmp_path, before=systemd_257)
    pauses = tmp_path / "etc/systemd/system/nfagent.service.d/restart-backoff.conf"
    assert pauses.read_bytes() == (ROOT / "systemd/restart-backoff.conf").read_bytes()
    assert settings.read_text() == 'node = "mine"\n'
    assert Path(f"{settings}.new").read_bytes() == (ROOT / "systemd/nfagent.toml").read_bytes()
    assert f"{settings}: yours, kept as it is" in said

    said = make("uninstall", site.source, tmp_path)
    assert settings.read_text() == 'node = "mine"\n'
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == {"etc/nfagent/nfagent.toml", "etc/nfagent/nfagent.toml.new"}
    assert "nfagent cleanup" in said
