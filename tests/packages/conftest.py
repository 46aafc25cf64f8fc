"""What `make deb` and `make offline` make, of this commit and of the one before: built once, and kept in build/."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.debian_packages import build, older_package, this_package

RUN_PACKAGES = ("python3", "python3-venv", "python3-nftables", "nftables", "iproute2", "kmod", "ca-certificates")
RELEASES = ("bookworm", "trixie")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: chroot and namespaces"))


@pytest.fixture(autouse=True)
def _deadline() -> None:
    """In the place of the suite's deadline, which dpkg may need several times: each command has one of its own."""


@pytest.fixture(scope="session")
def deb() -> Path:
    """Return the package of this checkout."""
    return this_package()


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
    """Return the package of an older commit, by default the one before; or why there is none."""
    return older_package("HEAD~1", tmp_path_factory.mktemp("older"))
