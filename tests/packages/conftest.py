"""What `make deb` and `make offline` make, of this commit and of the one before: built once, and kept in build/."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.bare_debian import CHECKOUT

RUN_PACKAGES = ("python3", "python3-venv", "python3-nftables", "nftables", "iproute2", "kmod", "ca-certificates")
RELEASES = ("bookworm", "trixie")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: chroot and namespaces"))


@pytest.fixture(autouse=True)
def _deadline() -> None:
    """In the place of the suite's deadline, which dpkg may need several times: each command has one of its own."""


def build(program: str, *arguments: str, checkout: Path = CHECKOUT, **environment: str) -> Path:
    """Run a program of packaging/, which prints the path of what it made."""
    done = subprocess.run(
        [checkout / program, sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if "can't be fetched" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout / done.stdout.splitlines()[-1]


def debian_package(checkout: Path) -> Path:
    """Return the package of a checkout, from an earlier run where no file has changed since."""
    version = subprocess.run(
        [checkout / "packaging/version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    found = list((checkout / "build/deb").glob(f"nfagent_{version}_*.deb"))
    return (
        found[0]
        if found and not version.endswith("+changed")
        else build("packaging/deb/build-package", checkout=checkout, NFAGENT_XZ="1")
    )


@pytest.fixture(scope="session")
def deb() -> Path:
    """Return the package of this checkout; NFAGENT_DEB names one that is there already."""
    given = os.environ.get("NFAGENT_DEB")
    return Path(given) if given else debian_package(CHECKOUT)


@pytest.fixture(scope="session")
def offline(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the unpacked tarball."""
    archive = build("packaging/offline/build-tarball", " ".join(RELEASES), *RUN_PACKAGES, NFAGENT_DEB=str(deb))
    folder = tmp_path_factory.mktemp("offline")
    subprocess.run(
        ["tar", f"--directory={folder}", f"--file={archive}", "--extract", "--strip-components=1"], check=True
    )
    archive.unlink()
    return folder


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path | str:
    """Return the package of an older commit, NFAGENT_PACKAGE_OLD, by default the one before; or why there is none."""
    commit = os.environ.get("NFAGENT_PACKAGE_OLD") or "HEAD~1"
    checkout = tmp_path_factory.mktemp("older") / uuid4().hex[:8]
    clone = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(CHECKOUT), str(checkout)]
    named = subprocess.run(
        ["git", "rev-parse", "--verify", f"{commit}^{{commit}}"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if named.returncode or subprocess.run(clone, capture_output=True, check=False).returncode:
        return f"there is no commit {commit} here: NFAGENT_PACKAGE_OLD names another one"
    subprocess.run(["git", "checkout", "--quiet", named.stdout.strip()], cwd=checkout, check=True)
    if not (checkout / "packaging/deb/build-package").exists():
        return f"{commit} has no Debian package: NFAGENT_PACKAGE_OLD names another commit"
    # Wheels and packages of earlier runs are there.
    (checkout / "build").symlink_to(CHECKOUT / "build")
    return debian_package(checkout)
